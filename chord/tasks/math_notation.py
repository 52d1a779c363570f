r"""The notation of a mathematical answer: formatting of LaTeX is taken off, and what is left is cut into its parts.

Text alone; evaluates nothing. Text that a model wrote is hostile: it is bounded, and no pattern looks back far.
"""

import re
import unicodedata
from collections.abc import Iterator


def words(text: str) -> frozenset[str]:
    """The words of a text, as a set."""
    return frozenset(text.split())


def _fraction(character: str) -> str:
    """½ and its like, as LaTeX."""
    over, _, under = unicodedata.normalize("NFKC", character).partition("\u2044")
    return f"\\frac{{{over}}}{{{under}}}"


# Characters that have a command of LaTeX, and the command.
CHARACTERS = {
    **{chr(code): _fraction(chr(code)) for code in (*range(0xBC, 0xBF), *range(0x2150, 0x215F))},
    "−": "-", "–": "-", "×": "\\times ", "·": "\\cdot ", "⋅": "\\cdot ", "÷": "\\div ", "π": "\\pi ", "∞": "\\infty ",
    "°": "^\\circ ", "≤": "\\leq ", "≥": "\\geq ", "≠": "\\neq ", "≈": "\\approx ", "±": "\\pm ", "∪": "\\cup ",
    "∩": "\\cap ", "∈": "\\in ", "∅": "\\emptyset ", "√": "\\sqrt ", "∖": "\\setminus ", "θ": "\\theta ",
    "α": "\\alpha ", "β": "\\beta ", "λ": "\\lambda ", "％": "\\%", "…": "\\ldots ", "′": "'", "’": "'",
    "ℝ": "\\mathbb{R}", "ℤ": "\\mathbb{Z}", "ℚ": "\\mathbb{Q}", "ℕ": "\\mathbb{N}", "ℂ": "\\mathbb{C}",
}  # fmt: skip
RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
TABLE = str.maketrans(CHARACTERS)

# Commands that say the same as something else, and what is kept.
SYNONYMS = {
    "dfrac": r"\frac", "tfrac": r"\frac", "cfrac": r"\frac", "le": r"\leq", "leqslant": r"\leq", "ge": r"\geq",
    "geqslant": r"\geq", "ne": r"\neq", "varnothing": r"\emptyset", "lbrace": r"\{", "rbrace": r"\}",
    "degree": r"^\circ ", "lt": "<", "gt": ">", "dots": r"\ldots", "cdots": r"\ldots", "ast": "*", "bar": r"\overline",
    "Bbb": r"\mathbb",
    "colon": ":", "lor": r" \text{or} ", "vee": r" \text{or} ", "land": r" \text{and} ", "wedge": r" \text{and} ",
    "mid": "|", "vert": "|", "lvert": "|", "rvert": "|", "percent": r"\%", "dollar": r"\$",
    **dict.fromkeys(
        (*",:;> \n", "quad", "qquad", "enspace", "enskip", "thinspace", "medspace", "thickspace", "space"), " "
    ),
    **dict.fromkeys((*"!()[]", "negthinspace", "left", "right"), ""),
    **dict.fromkeys(words(
        "displaystyle textstyle scriptstyle limits nolimits big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl"
        " Biggr large Large LARGE huge Huge normalsize small bf rm it sf tt bfseries itshape centering boldmath hfill"
        " therefore implies Rightarrow nonumber notag allowbreak relax"
    ), ""),
}  # fmt: skip
# Commands that set their argument in some way; first those that set words.
WORDS = words("text textrm textbf textit textsf texttt textnormal textsc textup textmd mathrm mbox hbox emph")
FRAMES = words(
    "mathbf mathit mathsf mathtt mathnormal boldsymbol bm pmb underline uline boxed fbox framebox ensuremath"
)
COLOURS = {"color": 1, "textcolor": 1, "colorbox": 1, "fcolorbox": 2}  # and how many arguments name a colour
ROWS = "aligned|align\\*?|gathered|gather\\*?|equation\\*?|split|cases"

PREFACE = re.compile(
    r"(?:(?:so|thus|hence|therefore),? )?(?:(?:the|our|my) )?(?:(?:final|correct) )?(?:answer|result|solution)"
    r"(?: (?:is|=)| ?[:=]) ?(?:[:=] ?)?",
    re.IGNORECASE,
)
# A repeating decimal with dots over the first and the last of the digits that repeat.
DOTTED = re.compile(r"(?<=[0-9.])\\dot ?\{?([0-9])\}?(?:([0-9]{0,100})\\dot ?\{?([0-9])\}?)?")
UNITS_OVER = re.compile(r"\\frac\{\\text\{([A-Za-z. ]{1,40})\}\}\{\\text\{([A-Za-z. ]{1,40})\}(\^[1-9]|\^\{[1-9]\})?\}")
COMMAND = re.compile(r"\\(?:([A-Za-z]+)|(.))", re.DOTALL)
CHOICE = re.compile(
    r"(?:(?<![0-9]),|,(?![0-9]{3}(?![0-9]))|;)?"  # a comma, but not of thousands
    r" ?(?:\\text\{(?:and|or)\}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z]))|(?<![0-9]),|,(?![0-9]{3}(?![0-9]))|;"
)


def plain(text: str) -> str:
    """The answer without what only formats it, so that two ways of writing one thing become one text.

    Fonts, colours, boxes, spaces of LaTeX, delimiters of mathematics, rows of `aligned`, braces and brackets around
    the whole, an opening "the answer is" and a full stop at the end go; other names of one command become one.
    Spaces that stand between two letters or digits stay: `1 2` is not `12`.
    """
    text = re.sub(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+", lambda found: f"^{{{found[0].translate(RAISED)}}}", text)
    text = re.sub(r"√ ?([0-9]+)", r"\\sqrt{\1}", text).translate(TABLE)
    text = _rows(COMMAND.sub(_command, text))
    text = text.replace("{,}", ",").replace("~", " ").replace("\\!", "")
    text = re.sub(r"(?<!\\)\$", "", text)
    text = DOTTED.sub(lambda found: f"\\overline{{{found[1]}{found[2] or ''}{found[3] or ''}}}", text)
    text = _unframed(text)
    text = UNITS_OVER.sub(_per, _arguments(text))
    text = re.sub(r"([_^])([0-9]) (?=[0-9])", r"\1{\2}", _spaced(text))
    return _uncovered(text)


def choices(text: str) -> list[str]:
    r"""The parts of a list, or of what `and` or `or` join, outside of brackets."""
    parts, last = list[str](), 0
    for start, end in outside(text, CHOICE):
        parts.append(text[last:start])
        last = end
    return [*parts, text[last:]]


def outside(text: str, pattern: re.Pattern[str]) -> Iterator[tuple[int, int]]:
    r"""Where the pattern is found outside of all brackets, `\{` among them."""
    depth, done = 0, 0
    for found in pattern.finditer(text):
        between = text[done : found.start()]
        depth += sum((one in "([{") - (one in ")]}") for one in between)
        done = found.start()
        if depth == 0:
            yield found.span()


def _command(found: re.Match[str]) -> str:
    return SYNONYMS.get(found[1] or found[2], found[0])


def _rows(text: str) -> str:
    """The rows of an environment that only lays them out, one after the other."""
    text, found = re.subn(rf"\\(?:begin|end)\{{(?:{ROWS})\}}", " ", text)
    if not found or "\\begin" in text:
        return text
    text = re.sub(r"(?<!\\)&", "", text)
    text = re.sub(r"\\\\(?=[ \n]*=)", " ", text)
    return re.sub(r"\\\\(?=[ \n]*[^ \n])", ", ", text).replace("\\\\", " ")


def _unframed(text: str) -> str:
    r"""Without fonts, frames and colours; of what sets words `\text` is left."""
    made, at = "", 0
    for found in COMMAND.finditer(text):
        name = found[1]
        if found.start() < at or name not in WORDS | FRAMES | COLOURS.keys():
            continue
        made, start = made + text[at : found.start()], found.end()
        for _ in range(COLOURS.get(name, 0)):
            opened = _skip(text, start)
            start = closing(text, opened) + 1 if text[opened : opened + 1] == "{" else start
        opened = _skip(text, start)
        if text[opened : opened + 1] != "{":
            at = start
            continue
        end = closing(text, opened)
        inner, at = _unframed(text[opened + 1 : end]), end + 1
        if name in WORDS and re.search(r"[A-Za-z]", inner) and not re.search(r"[\\{}]", inner):
            inner = f"\\text{{{inner.strip()}}}"
        made += (" " if re.search(r"\\[A-Za-z]+$", made[-20:]) else "") + inner
    return made + text[at:]


def _arguments(text: str) -> str:
    r"""With braces around every argument of `\frac`, `\sqrt`, `\overline` and `\mathbb`."""
    made, at = "", 0
    for found in re.finditer(r"\\(frac|sqrt|overline|mathbb)(?![A-Za-z])", text):
        if found.start() < at:
            continue
        made, at = made + text[at : found.end()], found.end()
        if found[1] == "sqrt" and text[_skip(text, at) : _skip(text, at) + 1] == "[":
            end = text.find("]", at) + 1 or len(text)
            made, at = made + text[at:end], end
        for _ in range(2 if found[1] == "frac" else 1):
            start = _skip(text, at)
            character = text[start : start + 1]
            if character == "{" or (character == "(" and found[1] == "sqrt"):
                end = closing(text, start)
                made, at = f"{made}{{{_arguments(text[start + 1 : end])}}}", end + 1
            elif character == "\\" and (command := COMMAND.match(text, start)) and command[1] not in ("frac", "sqrt"):
                made, at = f"{made}{{{command[0]}}}", command.end()
            elif character.isalnum():
                made, at = f"{made}{{{character}}}", start + 1
    return made + text[at:]


def _per(found: re.Match[str]) -> str:
    """A unit over another as one unit: `m/s^2`."""
    return f"\\text{{{found[1]}/{found[2]}{(found[3] or '').replace('{', '').replace('}', '')}}}"


def _spaced(text: str) -> str:
    """Without spaces but those between letters or digits, and before three digits after a comma: no thousands."""
    text = " ".join(text.split())
    text = re.sub(r"(?<![A-Za-z0-9,]) | (?![A-Za-z0-9])", "", text)
    return re.sub(r", (?![0-9]{3}(?![0-9]))", ",", text)


def _uncovered(text: str) -> str:
    """Without an opening phrase, a full stop, and what encloses the whole."""
    before = None
    while text != before:
        before = text
        text = text.strip().rstrip(".,;:\\").rstrip()  # a final `\ ` or `\\` leaves a backslash
        said = re.match(r"\\text\{([^{}]*)\}", text)
        if said and said.end() == len(text):
            text = said[1]
        elif said and PREFACE.fullmatch(said[1] + " "):
            text = text[said.end() :]
        elif opening := PREFACE.match(text):
            text = text[opening.end() :]
        elif text[:1] and text[0] in "{(" and closing(text, 0) == len(text) - 1:
            inner = text[1:-1]
            text = inner if text[0] == "{" or ("," not in inner and len(choices(inner)) == 1) else text
    return "\\emptyset" if text == "\\{\\}" else text


def _skip(text: str, at: int) -> int:
    """The next place that is no space."""
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def closing(text: str, at: int) -> int:
    """Where what opens at `at`, a brace or another bracket, is closed; the end of the text if nowhere."""
    opens, closes = ("{", "}") if text[at] == "{" else ("([", ")]")
    depth, escaped = 0, False
    for place in range(at, len(text)):
        character = text[place]
        if not escaped:
            depth += (character in opens) - (character in closes)
            if depth == 0:
                return place
        escaped = character == "\\" and not escaped
    return len(text)
