"""The scripted expert: a written-out solver. No model wrote these answers, and every record of them says so.

Styles for 178+445, in which a step is the digits of one place, the carry, and their sum, from right to left:
terse      =623
worked     >850:13,741:12,141:6=623
checked    >850:13,741:12,141:6;850:13,741:12,141:6=623
"""

from chord.config import ConfigError, Grading
from chord.records import Problem

NAME = "scripted expert"


def solve(problem: Problem, style: str, grading: Grading) -> str:
    """The expert's response, which ends in the final answer in the form that `grading` reads.

    Sums are worked out here from their terms, words are reversed here; for other tasks the generator's answer is
    given. Raises ConfigError where `style` needs steps and the problem is not a sum.
    """
    terms = str(problem.source.get("expression", "")).split("+")
    if len(terms) > 1 and all(term.isascii() and term.isdigit() for term in terms):
        steps, answer = _added([[int(digit) for digit in reversed(term)] for term in terms])
    elif problem.source.get("dataset") == "spell_backward":
        steps, answer = [], str(problem.source["word"])[::-1]
    else:
        steps, answer = [], problem.answer
    if style == "terse":
        return _final(answer, grading)
    if not steps:
        raise ConfigError(f"found style {style} for {problem.id} of task '{problem.task}', expected terse: not a sum")
    worked = ",".join(steps)
    return {"worked": f">{worked}", "checked": f">{worked};{worked}"}[style] + _final(answer, grading)


def _added(terms: list[list[int]]) -> tuple[list[str], str]:
    """The steps and the sum of terms given as digits from right to left; shorter terms are filled up with zeros."""
    steps: list[str] = []
    written, carry = "", 0
    for place in range(max(map(len, terms))):
        digits = [term[place] if place < len(term) else 0 for term in terms]
        total = sum(digits) + carry
        steps.append("".join(map(str, [*digits, carry])) + f":{total}")
        written, carry = str(total % 10) + written, total // 10
    return steps, (str(carry) if carry else "") + written


def _final(answer: str, grading: Grading) -> str:
    """The answer as the grader wants it."""
    match grading.grader:
        case "marked-text":
            return f"{grading.mark}{answer}"
        case "math":
            return f"\\boxed{{{answer}}}"
        case "last-number":
            return f"={answer}"
        case "tool-call":
            raise ConfigError("found expert.source scripted with grader tool-call, expected an expert that calls tools")
