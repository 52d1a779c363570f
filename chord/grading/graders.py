"""Graders decide whether an answer is right; rewards turn that into a number. Text in, outcome out."""

import atexit
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from typing import Self

from chord.config.study import AnswerForm
from chord.errors import UserError
from chord.grading.math_checker import MathChecker
from chord.grading.math_reading import plain, verdict
from chord.grading.tool_calls import bfcl_calls, same_calls, thinks_once
from chord.reach import PlugPoint
from chord.records import Outcome

# The same graders pay rewards, check expert traces and score benchmarks. Text that a model wrote is hostile: every
# grader reads it in linear time, compares only numbers of bounded length, and evaluates nothing. The one that may need
# computer algebra (`math_reading` decides what does not) asks a child process that can be killed (`math_checker`).

MAX_TEXT_CHARACTERS = 1_000_000  # 16k tokens, the paper's limit, are below 200 thousand characters
MAX_ANSWER_CHARACTERS = 1_000
INTEGER = re.compile(r"-?[0-9]{1,64}")
NUMBER = re.compile(
    r"(?:(?<![0-9A-Za-z_.)\]])-)?"  # a sign, not a subtraction
    r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?"
)
MAX_NUMBER_CHARACTERS = 64
BOXED = "\\boxed{"
# Answers to one problem in one step of a training that may be ended over their limits before the rest is not compared.
# Counted by problem, since all answers to one are on one rank: so nothing depends on how many ranks there are.
MOST_TRAPS = 2


Pair = tuple[str, str]  # of answers: the problem's, and the one that was given


def _nothing_to_settle(pairs: Sequence[Pair], _groups: Sequence[int] | None, _most: int) -> list[bool | None]:
    assert not pairs, "this grader settles all answers by reading them"
    return []


@dataclass(frozen=True)
class Reading:
    """How a kind of answer is read: text, whether it was cut, the problem's answer; None if it has no final answer.

    What reading does not settle comes back as a pair, for `equal_all` (see `MathChecker`).
    """

    read: Callable[[str, bool, str], Outcome | Pair | None]
    equal_all: Callable[[Sequence[Pair], Sequence[int] | None, int], list[bool | None]] = _nothing_to_settle
    close: Callable[[], None] = lambda: None


GRADERS = PlugPoint[Callable[[AnswerForm], Reading]]("grader")


@GRADERS.entry("marked-text")
def _marked_text(form: AnswerForm) -> Reading:
    """All that follows the last mark."""
    assert form.mark is not None, "a form with marked text has the mark"
    mark = form.mark
    return Reading(lambda text, cut, answer: None if cut else marked_text(text, mark, answer))


@GRADERS.entry("last-number")
def _last_number(_form: AnswerForm) -> Reading:
    """The last number of the text."""
    return Reading(last_number)


@GRADERS.entry("math")
def _math(_form: AnswerForm) -> Reading:
    """What stands in the last box, compared as mathematics."""
    checker = MathChecker()

    def read(text: str, cut: bool, answer: str) -> Outcome | Pair | None:
        given = plain(last_boxed(text) or "")
        return verdict(plain(answer), given) if given else None

    return Reading(read, checker.equal_all, checker.close)


@GRADERS.entry("tool-call")
def _tool_call(_form: AnswerForm) -> Reading:
    """The calls of tools that the text makes."""
    return Reading(lambda text, cut, answer: _outcome(same_calls(text, answer)))


@GRADERS.entry("bfcl")
def _bfcl(_form: AnswerForm) -> Reading:
    """The calls of tools that the text makes, by BFCL's own checker."""
    return Reading(lambda text, cut, answer: _outcome(bfcl_calls(text, answer)))


class Grader:
    """Grades many texts of one kind. Use it as a context manager: the child process of the math grader ends with it."""

    def __init__(self, form: AnswerForm) -> None:
        self._reading = GRADERS[form.grader](form)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child process, if there is one."""
        self._reading.close()

    def grade(self, text: str, finish: str, problem_answer: str) -> Outcome:
        """What `text` is worth against the answer of its problem.

        `finish` is "stop" or "length". A text cut at the token limit without a final answer is TOO_LONG, as in the
        paper; one that ended by itself without one is UNPARSABLE. Raises UserError if `problem_answer` is not of the
        form that the grader reads.
        """
        return self.grade_all([(text, finish, problem_answer)])[0]

    def grade_all(self, answers: Sequence[tuple[str, str, str]], per_problem: int | None = None) -> list[Outcome]:
        """What each (text, finish, answer of its problem) is worth, several at a time where that takes processes.

        `per_problem`, for a step of a training, is how many answers in a row are to one problem: after MOST_TRAPS of
        them that had to be ended, those that follow are KILLED, too, if they need computer algebra.
        """
        read = [self._read(*answer) for answer in answers]
        asked = [at for at, one in enumerate(read) if not isinstance(one, Outcome)]
        pairs = [one for one in read if not isinstance(one, Outcome)]
        problems = [at // per_problem for at in asked] if per_problem else None
        told = dict(zip(asked, self._reading.equal_all(pairs, problems, MOST_TRAPS), strict=True))
        return [
            one if isinstance(one, Outcome) else _outcome(told[at]) or Outcome.KILLED for at, one in enumerate(read)
        ]

    def _read(self, text: str, finish: str, answer: str) -> Outcome | Pair:
        """The outcome, or the two answers that computer algebra has to compare for it."""
        if finish not in ("stop", "length"):
            raise ValueError(f"found finish '{finish}', expected 'stop' or 'length'")
        cut = finish == "length"
        found = self._reading.read(text, cut, answer) if len(text) <= MAX_TEXT_CHARACTERS else None
        if found is None:
            return Outcome.TOO_LONG if cut else Outcome.UNPARSABLE
        return found


def grade(text: str, finish: str, problem_answer: str, form: AnswerForm) -> Outcome:
    """What one text is worth; see `Grader.grade`. The math grader's child process is kept until this process ends."""
    return grade_all([(text, finish, problem_answer)], form)[0]


def grade_all(answers: Sequence[tuple[str, str, str]], form: AnswerForm) -> list[Outcome]:
    """What several texts are worth; see `Grader.grade_all`, and `grade`."""
    return _kept(form).grade_all(answers)  # pyright: ignore[reportArgumentType] # frozen, so hashable


@cache
def _kept(form: AnswerForm) -> Grader:
    grader = Grader(form)
    atexit.register(grader.close)
    return grader


def marked_text(text: str, mark: str, answer: str) -> Outcome | None:
    """Compares all that follows the last mark, but for white space around it; None if it is no answer.

    It must be the exact text of the answer, where that is an integer any way of writing that integer ("007" is 7).
    The answer goes on until the text ends, so a text that was cut has none.
    """
    _, found, after = text.rpartition(mark)
    given = after.strip()
    if not found or not given or len(given) > MAX_ANSWER_CHARACTERS:
        return None
    if INTEGER.fullmatch(answer):
        return _outcome(int(given) == int(answer)) if INTEGER.fullmatch(given) else None
    return None if _hides(given) else _outcome(given == answer)


def last_number(text: str, cut: bool, answer: str) -> Outcome | None:
    """Compares the last number of the text, thousands with or without commas; None if there is none.

    Nor is there one where a cut text ends in the number, which may have gone on, or where it is over 64 characters.
    """
    if not NUMBER.fullmatch(answer) or len(answer) > MAX_NUMBER_CHARACTERS:
        raise UserError(
            f"found a problem whose answer is '{answer[:80]}', expected a number of at most {MAX_NUMBER_CHARACTERS}"
            " characters with grader last-number; change grading.grader or the task"
        )
    last = None
    for match in NUMBER.finditer(text):
        last = match
    if last is None or len(last[0]) > MAX_NUMBER_CHARACTERS or (cut and not text[last.end() :].strip(".,")):
        return None
    return _outcome(Decimal(last[0].replace(",", "")) == Decimal(answer.replace(",", "")))


def last_boxed(text: str) -> str | None:
    """What stands in the text's last box (LaTeX); None if it is not closed, empty, too long or hides characters."""
    start = text.rfind(BOXED) + len(BOXED)
    if start < len(BOXED):
        return None
    depth, escaped = 1, False
    for index, character in enumerate(text[start : start + MAX_ANSWER_CHARACTERS + 1]):
        if not escaped:
            depth += (character == "{") - (character == "}")
        escaped = character == "\\" and not escaped
        if depth == 0:
            given = " ".join(text[start : start + index].split())
            return given if given and not _hides(given) else None
    return None


def _hides(text: str) -> bool:
    """Whether it has characters that do not show or change how others show: controls, bidi marks, half surrogates."""
    return any(unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn") for character in text)


def _outcome(equal: bool | None) -> Outcome | None:
    return None if equal is None else Outcome.RIGHT if equal else Outcome.WRONG


# --- rewards -------------------------------------------------------------------------------------

# A text that the grader had to be killed for is worth as much as an unparsable one: no answer was read from it, and it
# must not pay to write what cannot be graded. One that leaves an operation to do is worth as much as a wrong one: the
# paper's right format is a thought and then a box, which it has; what is in the box is not right.

# arXiv:2508.11408, A.2: right; wrong in the right format; wrong in the wrong format; over the limit with no answer.
PAPER_MATH = {
    Outcome.RIGHT: 1.0,
    Outcome.WRONG: 0.0,
    Outcome.UNEVALUATED: 0.0,
    Outcome.UNPARSABLE: -0.1,
    Outcome.TOO_LONG: -1.0,
    Outcome.KILLED: -0.1,
}
# ours: paper-math but for texts that were cut. Small models are cut often, and -1 for it would drown the signal.
LAST_NUMBER_FORMAT = PAPER_MATH | {Outcome.TOO_LONG: -0.1}
FORMAT_PENALTY = -0.1


REWARDS = PlugPoint[Callable[[Outcome, str], float]]("reward")


@REWARDS.entry("paper-math")
def paper_math(outcome: Outcome, _text: str) -> float:
    """+1 right, 0 wrong or unevaluated, -0.1 unparsable or killed, -1 too long (arXiv:2508.11408, A.2)."""
    return PAPER_MATH[outcome]


@REWARDS.entry("shipped-math")
def shipped_math(outcome: Outcome, text: str) -> float:
    """+1 right, else 0; and -0.1 unless <think>...</think> is there exactly once.

    As in the released code: a right answer that thinks badly has 0.9, and a cut text no penalty of its own.
    """
    return float(outcome is Outcome.RIGHT) + (0.0 if thinks_once(text) else FORMAT_PENALTY)


@REWARDS.entry("last-number-format")
def last_number_format(outcome: Outcome, _text: str) -> float:
    """+1 right, 0 wrong or unevaluated, -0.1 where nothing can be read (unparsable, too long, killed)."""
    return LAST_NUMBER_FORMAT[outcome]


@REWARDS.entry("binary")
def binary(outcome: Outcome, _text: str) -> float:
    """+1 right, else 0 (arXiv:2508.11408, A.2, tool use)."""
    return float(outcome is Outcome.RIGHT)


def reward(outcome: Outcome, text: str, name: str) -> float:
    """The reward called `name` of a graded text."""
    return REWARDS[name](outcome, text)
