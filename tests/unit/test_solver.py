import random

import pytest

from chord.config import ConfigError, Grading
from chord.records import Problem
from chord.tasks.solver import solve

MARKED = Grading(grader="marked-text", mark="=", reward="paper-math")


def sum_of(expression: str) -> Problem:
    return Problem(
        "p", "sum", f"What is {expression}?", "never read", {"dataset": "chain_sum", "expression": expression}
    )


@pytest.mark.parametrize(
    ("expression", "style", "response"),
    [
        ("178+445", "terse", "=623"),
        ("178+445", "worked", ">850:13,741:12,141:6=623"),
        ("178+445", "checked", ">850:13,741:12,141:6;850:13,741:12,141:6=623"),
        ("9+4", "worked", ">940:13=13"),
        ("0+0", "worked", ">000:0=0"),
        ("999+1", "worked", ">910:10,901:10,901:10=1000"),  # the shorter term is filled up with zeros
        ("99+99+99", "worked", ">9990:27,9992:29=297"),
    ],
)
def test_a_sum_is_worked_from_right_to_left_with_its_carries(expression: str, style: str, response: str) -> None:
    assert solve(sum_of(expression), style, MARKED) == response


def test_the_solver_adds_by_itself_and_is_right() -> None:
    draw = random.Random(7)
    for _ in range(300):
        left, right = draw.randrange(10 ** draw.randint(1, 12)), draw.randrange(10 ** draw.randint(1, 12))
        assert solve(sum_of(f"{left}+{right}"), "worked", MARKED).rsplit("=")[-1] == str(left + right)


def test_a_word_is_reversed_and_other_tasks_have_the_generators_answer() -> None:
    word = Problem("p", "reversal", "~abcd", "never read", {"dataset": "spell_backward", "word": "abcd"})
    assert solve(word, "terse", MARKED) == "=dcba"
    other = Problem("p", "lcm", "?", "12", {"dataset": "lcm", "word": "not to be reversed"})
    assert solve(other, "terse", MARKED) == "=12"


@pytest.mark.parametrize("style", ["worked", "checked"])
def test_what_is_not_a_sum_has_no_steps(style: str) -> None:
    with pytest.raises(ConfigError, match="expected terse: not a sum"):
        solve(sum_of("9-4"), style, MARKED)


def test_the_answer_is_closed_in_the_way_that_the_grader_reads() -> None:
    assert solve(sum_of("9+4"), "terse", Grading(grader="math", reward="paper-math")) == "\\boxed{13}"
    assert solve(sum_of("9+4"), "worked", Grading(grader="last-number", reward="binary")) == ">940:13=13"
    with pytest.raises(ConfigError, match="expert that calls tools"):
        solve(sum_of("9+4"), "terse", Grading(grader="tool-call", reward="binary"))
