"""Reads the mathematics in an answer: notation made plain, then numbers, sets, tuples, equations.

Decides all that needs no algebra, and says what to ask algebra. Evaluates nothing. Text that a model wrote is hostile:
it is bounded, and no pattern looks back far.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from chord.records import Outcome


def words(text: str) -> frozenset[str]:
    """The words of a text, as a set."""
    return frozenset(text.split())


# --- notation ------------------------------------------------------------------------------------


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
COLOURS = {"color": 1, "textcolor": 1, "colorbox": 1, "fcolorbox": 2}  # and how many arguments name a color
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

    Fonts, colors, boxes, spaces of LaTeX, delimiters of mathematics, rows of `aligned`, braces and brackets around
    the whole, an opening "the answer is" and a full stop at the end go; other names of one command become one.
    Spaces that stand between two letters or digits stay: `1 2` is not `12`.
    """
    text = re.sub(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+", lambda found: f"^{{{found[0].translate(RAISED)}}}", text)
    text = re.sub(r"√ ?([0-9]+)", r"\\sqrt{\1}", text).translate(TABLE)
    text = _rows(COMMAND.sub(lambda found: SYNONYMS.get(found[1] or found[2], found[0]), text))
    text = text.replace("{,}", ",").replace("~", " ").replace("\\!", "")
    text = re.sub(r"(?<!\\)\$", "", text)
    text = DOTTED.sub(lambda found: f"\\overline{{{found[1]}{found[2] or ''}{found[3] or ''}}}", text)
    text = _unframed(text)
    text = UNITS_OVER.sub(
        lambda found: f"\\text{{{found[1]}/{found[2]}{re.sub('[{}]', '', found[3] or '')}}}", _arguments(text)
    )
    text = re.sub(r"([_^])([0-9]) (?=[0-9])", r"\1{\2}", _spaced(text))
    return _uncovered(text)


def choices(text: str) -> list[str]:
    r"""The parts of a list, or of what `and` or `or` join, outside of brackets."""
    cuts = [(0, 0), *(found.span() for found in outside(text, CHOICE)), (len(text), 0)]
    return [text[end:start] for (_, end), (start, _) in pairwise(cuts)]


def outside(text: str, pattern: re.Pattern[str]) -> Iterator[re.Match[str]]:
    r"""Where the pattern is found outside of all brackets, `\{` among them."""
    depth, done = 0, 0
    for found in pattern.finditer(text):
        depth += sum((one in "([{") - (one in ")]}") for one in text[done : found.start()])
        done = found.start()
        if depth == 0:
            yield found


def _rows(text: str) -> str:
    """The rows of an environment that only lays them out, one after the other."""
    text, found = re.subn(rf"\\(?:begin|end)\{{(?:{ROWS})\}}", " ", text)
    if not found or "\\begin" in text:
        return text
    text = re.sub(r"(?<!\\)&", "", text)
    text = re.sub(r"\\\\(?=[ \n]*=)", " ", text)
    return re.sub(r"\\\\(?=[ \n]*[^ \n])", ", ", text).replace("\\\\", " ")


def _unframed(text: str) -> str:
    r"""Without fonts, frames and colors; of what sets words `\text` is left."""
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


# --- what an answer says -------------------------------------------------------------------------

# English words that take back, or choose between, what they stand beside: none of them is part of a unit or a name.
UNCOMMITTED = words(
    "or and nor not no none but if unless than then else more less least most fewer greater larger smaller bigger to"
    " too between through up down plus minus over under above below about around approximately approx almost nearly"
    " roughly circa maybe perhaps probably possibly likely unlikely either neither any other another except without"
    " from is are was were be i we you think guess believe that this which when where with whether instead half"
    " quarter double twice triple squared cubed factorial mod modulo infinity sure unsure unknown wrong incorrect"
    " one two three four five six seven eight nine ten eleven twelve twenty thirty forty fifty sixty seventy eighty"
    " ninety sqrt sinh cosh tanh floor ceil choose log ln sin cos tan max min gcd lcm also both all some so ish"
    " equals equal times divided multiplied added infinite undefined ok exactly root power remainder"
)
MULTIPLIERS = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
PER_CENT = {"percent", "pct", "percentage"}
# Units that count without \text{}: any word of four letters or more does, too.
SHORT_UNITS = words("cm mm km dm nm kg mg lb lbs oz ft yd mi mph kmh kph hr hrs min mins sec secs ml deg rad cc")
LETTER_UNITS = words("m s g h d l L N J W V A K C F t")
BASES: dict[str, int] = dict(zip(
    ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen", "fourteen",
     "fifteen", "sixteen"), range(2, 17), strict=True,
))  # fmt: skip

SIMPLE_NAME = re.compile(r"(?:(?:\\?[A-Za-z]+|\\text\{[^{}]*\})(?:_(?:\{[^{}]*\}|[0-9A-Za-z]))?'?(?:\([^()]*\))?)?")
MOST_DIGITS = 1_000  # of what is read as a number
MOST_EXPONENT = 400
COMMAS = r"[1-9][0-9]{0,2}(?:,[0-9]{3})+|[0-9]+"
SPACES = r"[1-9][0-9]{0,2}(?: [0-9]{3})+"
WHOLE = re.compile(rf"(?:{SPACES}|{COMMAS})(?![0-9])")
CURRENCY = re.compile(r"(?:(?:US|CA|AU)? ?\\?[$€£¥₹₽₩]|Rs\.?|USD|EUR|GBP) ?")
POINT = re.compile(
    rf"(?P<whole>{SPACES}|{COMMAS})?\.(?P<part>[0-9]*)(?:\\overline(?:\{{(?P<again>[0-9]+)\}}|(?P<one>[0-9])))?"
)
FRACTION = re.compile(
    rf"\\frac\{{ ?(?P<over>[+-]? ?(?:{COMMAS})) ?\}}\{{ ?(?P<under>[+-]? ?(?:{COMMAS})) ?\}}"
    rf"|(?P<left>{COMMAS})/(?P<right>{COMMAS})(?![0-9])"
)
MIXED = re.compile(
    r"(?P<whole>[0-9]+)(?: ?\\frac\{ ?(?P<over>[0-9]+) ?\}\{ ?(?P<under>[0-9]+) ?\}"
    r"| (?P<left>[0-9]+)/(?P<right>[0-9]+)(?![0-9]))"
)
POWER = re.compile(
    r" ?(?:\\times|\\cdot|\*) ?10\^(?:\{ ?(?P<braced>[+-]?[0-9]{1,3}) ?\}|(?P<bare>[0-9]))"
    r"|[eE](?P<plain>[+-]?[0-9]{1,3})(?![0-9])"
)
BASED = re.compile(
    r"\(?(?P<digits>[0-9A-F ]+)\)?_(?:\{ ?\(?(?P<braced>[0-9]{1,2})\)? ?\}|(?P<bare>[0-9])"
    r"|(?:\{ ?)?\\text\{(?P<text>[a-z]+)\}(?: ?\})?|\{(?P<word>[a-z]+)\})"
)
UNIT = re.compile(
    r"\\text\{(?P<text>[^{}]*)\}|(?P<degree>\^ ?(?:\\circ|\{ ?\\circ ?\}))|(?P<power>\^(?:\{ ?-?[1-9] ?\}|[1-9]))"
    r"|(?P<percent>\\?%)|(?P<word>[A-Za-z]+)|(?P<join>/|\\cdot|[ .])|(?P<money>\\?[$€£¥₹₽₩])"
)
UNIT_WORDS = re.compile(r"[A-Za-z][A-Za-z .'/-]*(?:\^[1-9])?")
RELATION = re.compile(
    r"\\(?:leq|geq|neq|approx|(?:not)?in|sim|simeq|cong|equiv|to|ll|gg|subset|subseteq|propto)(?![A-Za-z])|<=?|>=?|:?="
)
DEGREE = r"([0-9]+(?:\.[0-9]+)?)\^(?:\\circ|\{ ?\\circ ?\})"
DEGREES = re.compile(
    r"(\\(?:sin|cos|tan|cot|sec|csc)(?:\^(?:[0-9]|\{-?[0-9]\}))?) ?"
    rf"(?:\({DEGREE}\)|\{{{DEGREE}\}}|{DEGREE})"
)
DECIMAL = re.compile(r"(?<![0-9.])([1-9][0-9]{0,2}(?:,[0-9]{3})+|[0-9]*)\.([0-9]+)")
RISING = {">": "<", ">=": "\\leq ", "\\geq": "\\leq "}  # a falling relation, and the same read from right to left
NAMING = words(
    "text overline angle triangle vec hat frac sqrt cdot alpha beta gamma delta epsilon varepsilon zeta eta theta iota"
    " kappa lambda mu nu xi pi rho sigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Sigma Phi Psi"
    " Omega ell measuredangle operatorname mathcal mathbb square widehat overrightarrow"
)  # commands of which a name may be made


@dataclass(frozen=True)
class Number:
    """A number as it is written: its value, whether it is so many per cent, and the base that it names, if any."""

    value: Fraction
    percent: bool = False
    base: int | None = None


def verdict(wanted: str, given: str) -> Outcome | tuple[str, str]:
    r"""What `given` is worth against `wanted`, two plain texts; or, where only algebra can tell, the two to compare.

    An integer is answered by a number that is written out, and by nothing else. Every other reference keeps its form:
    one value is answered by one value, not by a list, a set, a choice or an inequality.
    """
    if wanted == given or (is_words(wanted) and wanted.casefold() == given.casefold()):
        return Outcome.RIGHT
    reference, read = (number(wanted) if SIMPLE_NAME.fullmatch(named(wanted)[0]) else None), number(given)
    if reference is not None and read is not None:
        return Outcome.RIGHT if _same(reference, read) and _same_name(wanted, given) else Outcome.WRONG
    if reference is not None and (reference.value.denominator == 1 or reference.base is not None):
        return Outcome.UNEVALUATED if is_operation(given) else Outcome.WRONG
    if _most_equations(given) > max(1, _most_equations(wanted)):
        return Outcome.UNEVALUATED
    if is_value(wanted) and not is_value(given):
        is_equation = relations(given) == ["="] and len(choices(given)) == 1
        if not (named(wanted)[0] and is_equation):
            return Outcome.UNEVALUATED if set(relations(given)) == {"="} and is_operation(given) else Outcome.WRONG
    if _unwanted(wanted, given):
        return Outcome.WRONG
    pair = _for_algebra(wanted, given), _for_algebra(given, wanted)
    return Outcome.RIGHT if pair[0] == pair[1] else pair


def number(text: str) -> Number | None:
    r"""The number that the plain text writes out, or None.

    Digits, thousands by comma or space, a decimal, one that repeats (`0.\overline{3}`), one fraction, a mixed number,
    or scientific notation; with a sign, a currency, a unit, per cent, a base (`1011_2`) or a name (`x =`).
    """
    text = named(text)[1]
    rest = re.sub(r"^[+-]? ?", "", text)
    sign = -1 if text.startswith("-") else 1
    if money := CURRENCY.match(rest):
        rest = rest[money.end() :]
        if sign == 1 and rest.startswith("-"):
            sign, rest = -1, rest[1:].lstrip()
    if len(rest) > MOST_DIGITS:
        return None
    if (based := BASED.fullmatch(rest)) and (read := _based(based)):
        return Number(sign * read.value, base=read.base)
    if rest.startswith("(") and (closed := re.fullmatch(r"\(([0-9.]+)\)(.*)", rest, re.DOTALL)):
        rest = closed[1] + closed[2]
    found = _value(rest)
    if found is None:
        return None
    value, end = found
    told = _unit(rest[end:])
    return None if told is None else Number(sign * value * told[0], told[1])


def relations(text: str) -> list[str]:
    """The relations in the plain text outside of brackets, in order."""
    return [found[0] for found in outside(text, RELATION)]


def is_value(text: str) -> bool:
    r"""Whether the plain text is one value: no list, set, interval, tuple, choice (`\pm`) or relation but `name =`."""
    text = named(text)[1]
    if relations(text) or len(choices(text)) > 1:
        return False
    if re.search(r"\\(?:pm|mp|cup|cap|setminus|emptyset|backslash|mathbb)(?![A-Za-z])|\\\{|\\begin", text):
        return False
    pair = text[:1] in ("(", "[") and text[-1:] in (")", "]") and closing(text, 0) == len(text) - 1
    return not (pair and ("," in text or len(choices(text[1:-1])) > 1))


def is_operation(text: str) -> bool:
    """Whether something is left to do in the plain text: an equation, a sum, a function, a power or a product."""
    if relations(text):
        return set(relations(text)) == {"="} and len(choices(text)) == 1
    if not is_value(text) or "\\text" in text or re.search(r"(?<![A-Za-z\\])[A-Za-z]{4,}", text):
        return False
    return bool(re.search(r"[0-9]", text) and re.search(r"[-+*/^!|()_]|\\[A-Za-z]", text))


def without_unit(text: str) -> str:
    """The plain text without a unit in words at its end, where one may stand."""
    found = re.search(r" ?\\text\{([^{}]*)\}(?:\^\{?[1-9]\}?)?$", text)
    return text[: found.start()] if found and found.start() and _is_unit(found[1]) else text


def is_words(text: str) -> bool:
    """Whether the plain text is words of English, in which case does not matter."""
    return bool(re.fullmatch(r"[A-Za-z][A-Za-z' -]{2,}", text))


def _same(wanted: Number, given: Number) -> bool:
    r"""Whether two numbers are one. A base that only the reference names is understood; another one is another form.

    Per cent is a unit, so that 28 answers `28\%` and `28\%` answers 28, and it is a hundredth: 0.28 answers `28\%`,
    and `50\%` answers 1/2. But `500\%` does not answer 5: an integer is written out.
    """
    if wanted.base is not None and given.base is None:
        return _digits(wanted.value, wanted.base) == given.value
    if (wanted.base or 10) != (given.base or 10):
        return False
    if wanted.percent == given.percent:
        return wanted.value == given.value
    if wanted.percent:
        return given.value in (wanted.value, wanted.value / 100)
    return given.value == (wanted.value if wanted.value.denominator == 1 else 100 * wanted.value)


def _digits(value: Fraction, base: int) -> int | None:
    """The number that the digits of a whole number in a base are when read in base ten; None if some are letters."""
    rest, read, ten = abs(int(value)), 0, 1
    while rest:
        rest, digit = divmod(rest, base)
        if digit > 9:
            return None
        read, ten = read + digit * ten, ten * 10
    return -read if value < 0 else read


def _most_equations(text: str) -> int:
    """How many signs of equality the choice with most of them has."""
    return max(sum(one in ("=", ":=") for one in relations(choice)) for choice in choices(text))


def _same_name(wanted: str, given: str) -> bool:
    """Whether the two name one variable; x = 5 does not answer y = 5."""
    ours, theirs = named(wanted)[0], named(given)[0]
    return ours == theirs or not all(re.fullmatch(r"[A-Za-z]", name) for name in (ours, theirs))


def _unwanted(wanted: str, given: str) -> bool:
    r"""Whether `given` has what makes no sense beside `wanted`: words, a nearness, another relation, `1 2`, a base."""
    if re.search(r"[0-9] [0-9]", given) or re.search(r"[0-9] [0-9]", wanted):
        return True
    has_words = "\\text" in without_unit(given) and "\\text" not in wanted and len(choices(given)) == 1
    if has_words or (re.search(r"[0-9]_(?:[0-9]|\{[0-9])", given) and "_" not in wanted):
        return True
    ours, theirs = set(relations(wanted)), set(relations(given))
    if "\\approx" in theirs - ours:
        return True
    return bool(ours) and ours <= {"="} and not theirs <= {"=", "\\in"}


def _for_algebra(text: str, other: str) -> str:
    r"""The plain text as computer algebra should have it: no unit, inequalities in one order, exact decimals.

    An angle in degrees is one where a function takes it (`\sin 30^\circ`); elsewhere degrees are a unit.
    """
    text = without_unit(text)
    within = re.match(r"[A-Za-z](?:_\{?[0-9A-Za-z]\}?)?\\in(?![A-Za-z])", text)
    if within and relations(text) == ["\\in"]:
        text = text[within.end() :].strip()
    if is_value(text) and not relations(other):
        text = named(text)[1]
    text = DEGREES.sub(lambda at: f"{at[1]}(\\frac{{{at[2] or at[3] or at[4]}\\pi}}{{180}})", _rising(text))
    text = re.sub(r"\\log_(?:e(?![A-Za-z])|\{e\})", r"\\ln ", re.sub(r"\\lg(?![A-Za-z])", r"\\log_{10}", text))
    text = re.sub(r"^([+-]?[0-9.]+)[eE]([+-]?[0-9]{1,3})$", r"\1\\cdot 10^{\2}", text)
    text = re.sub(r"\\text\{([A-Za-z])\}", r" \1 ", text)
    return DECIMAL.sub(lambda at: f"\\frac{{{_int(at[1] + at[2])}}}{{1{'0' * len(at[2])}}}", text).strip()


def _rising(text: str) -> str:
    """A chain of two inequalities from the smallest to the largest: `2 > x > 1` says `1 < x < 2`."""
    signs = list(outside(text, RELATION))
    if len(signs) != 2 or not {sign[0] for sign in signs} <= RISING.keys():
        return text
    one, two = signs
    middle = text[one.end() : two.start()]
    return f"{text[two.end() :]}{RISING[two[0]]}{middle}{RISING[one[0]]}{text[: one.start()]}"


def _value(text: str) -> tuple[Fraction, int] | None:
    """The unsigned number that the text begins with, and where it ends."""
    for pattern in (MIXED, FRACTION):
        if found := pattern.match(text):
            over, under = _int(found["over"] or found["left"]), _int(found["under"] or found["right"])
            if pattern is FRACTION:
                return (Fraction(over, under), found.end()) if under else None
            if 0 < over < under:
                return int(found["whole"]) + Fraction(over, under), found.end()
    if (found := POINT.match(text)) and len(found[0]) > 1:
        whole, part, again = _int(found["whole"] or "0"), found["part"], found["again"] or found["one"]
        value, end = whole + Fraction(int(part or "0"), 10 ** len(part)), found.end()
        value += Fraction(int(again), (10 ** len(again) - 1) * 10 ** len(part)) if again else 0
    elif found := WHOLE.match(text):
        value, end = Fraction(_int(found[0])), found.end()
    else:
        return None
    power = POWER.match(text, end)
    if power is None:
        return value, end
    exponent = int(power["braced"] or power["bare"] or power["plain"])
    if abs(exponent) > MOST_EXPONENT or (power["plain"] is None and not 1 <= value < 10):
        return None
    return value * Fraction(10) ** exponent, power.end()


def _int(digits: str) -> int:
    return int(digits.replace(",", "").replace(" ", ""))


def _based(found: re.Match[str]) -> Number | None:
    digits = found["digits"].replace(" ", "")
    word = found["text"] or found["word"]
    base = BASES.get(word, 0) if word else int(found["braced"] or found["bare"])
    is_read = 2 <= base <= 16 and any(map(str.isdigit, digits)) and all(int(digit, 16) < base for digit in digits)
    return Number(Fraction(int(digits, base)), base=base) if is_read else None


def _unit(text: str) -> tuple[int, bool] | None:
    """What a unit multiplies by, and whether it is per cent; None where the text is no unit."""
    factor, percent, last, at = 1, False, "", 0
    while at < len(text):
        found = UNIT.match(text, at)
        if found is None:
            return None
        kind, said, at = str(found.lastgroup), found[0], found.end()
        if said == " ":
            continue
        if kind in ("text", "word"):
            head, _, tail = (found["text"] or found["word"]).strip(" .").partition(" ")
            if not last and head.lower() in MULTIPLIERS:
                factor, head = MULTIPLIERS[head.lower()], ""
            elif not last and head.lower() in PER_CENT:
                percent, head = True, ""
            name = f"{head} {tail}".strip()
            if name and not (_is_unit(name) and (kind == "text" or _stands_alone(name, last))):
                return None
        elif kind == "percent":
            if last:
                return None
            percent = True
        elif kind == "power" and last not in ("text", "word"):
            return None
        last = said if kind == "join" else kind
    return None if last in ("/", "\\cdot") else (factor, percent)


def _is_unit(words: str) -> bool:
    """Whether words may be a unit: they are few, and none of them takes the number back."""
    if not UNIT_WORDS.fullmatch(words):
        return False
    parts = re.split(r"[ .'/^-]+", words)
    if len(parts) > 4 or any(part.lower() in UNCOMMITTED or part.lower().endswith("ish") for part in parts):
        return False
    return len(words) > 1 or words in LETTER_UNITS


def _stands_alone(word: str, last: str) -> bool:
    """Whether letters that no command marks as text are a unit, not variables."""
    return len(word) >= 4 or word in SHORT_UNITS or last == "/" or (last == "degree" and word in ("C", "F"))


def named(text: str) -> tuple[str, str]:
    """The name to which the plain text gives a value (`x = 5` names x), or nothing; and the value, or all of it."""
    signs = list(outside(text, RELATION))
    if len(signs) != 1 or signs[0][0] not in ("=", ":=") or len(choices(text)) > 1:
        return "", text
    name, value = text[: signs[0].start()].strip(), text[signs[0].end() :].strip()
    if not name or not value:
        return "", text
    bare = re.sub(r"[_^](?:\{[^{}]*\}|[0-9A-Za-z])|(?<=[A-Za-z}])\([^()]*\)", "", name)
    if re.search(r"[0-9]", bare) or not re.search(r"[A-Za-z]", bare):
        return "", text
    if not re.fullmatch(r"[A-Za-z\\{}'|()\[\] +*/-]+", bare) or not set(re.findall(r"\\([A-Za-z]+)", bare)) <= NAMING:
        return "", text
    said = {word.lower() for word in re.findall(r"(?<![A-Za-z\\])[A-Za-z]{2,}", bare)}
    return ("", text) if said & UNCOMMITTED else (name, value)
