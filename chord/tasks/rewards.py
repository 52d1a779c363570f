"""From an outcome to a number: four named rewards. Knows no grader.

A text that the grader had to be killed for is worth as much as an unparsable one: no answer was read from it, and it
must not pay to write what cannot be graded. One that leaves an operation to do is worth as much as a wrong one: the
paper's right format is a thought and then a box, which it has; what is in the box is not right.
"""

from collections.abc import Callable

from chord.reach import PlugPoint
from chord.records import Outcome
from chord.tasks.tool_calls import thinks_once

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
