"""The scripted expert: a written-out solver. No model wrote these answers, and every record of them says so.

Styles for 178+445 with grader marked-text, in which a step is the digits of one place, the carry, and their sum, from
right to left:
terse      =623
worked     >850:13,741:12,141:6=623
checked    >850:13,741:12,141:6;850:13,741:12,141:6=623
Styles for 12+35-8 with grader last-number, in which a step is one sum or difference (with two terms there is one step,
so worked is terse); with grader math the last number is in a box:
terse      12 + 35 - 8 = 39
worked     12 + 35 = 47, 47 - 8 = 39
checked    12 + 35 = 47, 47 - 8 = 39; 12 + 35 = 47, 47 - 8 = 39
sentences  12 + 30 = 42. 42 + 5 = 47. 47 - 8 = 39. The answer is 39
"""

import re
from typing import NamedTuple

from chord.config.study import Grading
from chord.records import Problem
from chord.settings import ConfigError

CHAIN = re.compile(r"[0-9]+([+-][0-9]+)+")


class Solution(NamedTuple):
    """What the solver found by itself, and how it says so."""

    answer: str
    response: str


def solve(problem: Problem, style: str, grading: Grading) -> Solution:
    """The expert's own answer and its response, which ends in the `final_form` of that answer.

    Sums and differences are worked out here from their terms, words are reversed here; for other tasks the answer is
    the generator's. Raises ConfigError where `style` needs steps and there are none.
    """
    expression, in_words = str(problem.source.get("expression", "")), grading.grader != "marked-text"
    before: str | None = "The answer is" if in_words else ""
    if CHAIN.fullmatch(expression):
        terms = re.findall(r"[+-]?[0-9]+", expression)
        before, answer = _in_words(terms, style) if in_words else _in_digits(terms, style)
    else:
        before = before if style == "terse" else None
        reverse = problem.source.get("dataset") == "spell_backward"
        answer = str(problem.source["word"])[::-1] if reverse else problem.answer
    if before is None:
        unread = style == "sentences" and CHAIN.fullmatch(expression)
        why = f"grader {grading.grader} reads no sentences" if unread else "not a sum"
        raise ConfigError(f"found style {style} for {problem.id} of task '{problem.task}', expected terse: {why}")
    return Solution(answer, before + final_form(answer, grading))


def final_form(answer: str, grading: Grading) -> str:
    """How every response to a problem with this answer ends."""
    match grading.grader:
        case "marked-text":
            return f"{grading.mark}{answer}"
        case "math":
            return f" \\boxed{{{answer}}}"
        case "last-number":
            return f" {answer}"
        case "tool-call" | "bfcl":
            found = f"found expert.source scripted with grader {grading.grader}"
            raise ConfigError(f"{found}, expected an expert that calls tools")


def _in_digits(terms: list[str], style: str) -> tuple[str | None, str]:
    """What stands before the mark, and the answer; None where the style needs steps and the terms are no sum."""
    if any(term.startswith("-") for term in terms):
        return ("" if style == "terse" else None), str(sum(map(int, terms)))
    steps, answer = _added([[int(digit) for digit in reversed(term.removeprefix("+"))] for term in terms])
    worked = ",".join(steps)
    return {"terse": "", "worked": f">{worked}", "checked": f">{worked};{worked}"}.get(style), answer


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


def _in_words(terms: list[str], style: str) -> tuple[str, str]:
    """What stands before the last number, which is the answer; terms after the first have their sign."""
    if style == "sentences":
        return _in_sentences(terms)
    total, steps = int(terms[0]), []
    for term in terms[1:]:
        step = f"{total} {term[0]} {term[1:]} ="
        total += int(term)
        steps.append(f"{step} {total}")
    answer = str(total)
    at_once = " ".join([terms[0], *(f"{term[0]} {term[1:]}" for term in terms[1:])])
    worked = ", ".join(steps)
    texts = {"terse": f"{at_once} = {answer}", "worked": worked, "checked": f"{worked}; {worked}"}
    return texts[style].removesuffix(f" {answer}"), answer


def _in_sentences(terms: list[str]) -> tuple[str, str]:
    """The same with one place of one term a sentence, from the left and the highest place; zeros are passed over."""
    total, steps = int(terms[0]), []
    for term in terms[1:]:
        places = [int(digit) * 10**place for place, digit in zip(range(len(term) - 2, -1, -1), term[1:], strict=True)]
        for part in [part for part in places if part] or [0]:
            after = total + part if term[0] == "+" else total - part
            steps.append(f"{total} {term[0]} {part} = {after}.")
            total = after
    return " ".join([*steps, "The answer is"]), str(total)
