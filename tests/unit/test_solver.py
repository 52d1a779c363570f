"""The scripted expert is right, and its worked steps are true."""

import random

import pytest

from chord.config.study import Grading
from chord.data.demonstrate import final_form, solve
from chord.errors import ConfigError
from chord.grading.graders import grade
from chord.records import Outcome, Problem

MARKED = Grading(grader="marked-text", mark="=", reward="paper-math")
LAST = Grading(grader="last-number", reward="binary")
BOXED = Grading(grader="math", reward="paper-math")


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
    assert solve(sum_of(expression), style, MARKED) == (response.rsplit("=")[-1], response)


@pytest.mark.parametrize(
    ("expression", "style", "response"),
    [
        ("12+35", "terse", "12 + 35 = 47"),
        ("12+35", "worked", "12 + 35 = 47"),
        ("12+35-8", "terse", "12 + 35 - 8 = 39"),
        ("12+35-8", "worked", "12 + 35 = 47, 47 - 8 = 39"),
        ("12+35-8", "checked", "12 + 35 = 47, 47 - 8 = 39; 12 + 35 = 47, 47 - 8 = 39"),
        ("3-5", "terse", "3 - 5 = -2"),
        ("3-5-2", "worked", "3 - 5 = -2, -2 - 2 = -4"),
        ("178+445", "sentences", "178 + 400 = 578. 578 + 40 = 618. 618 + 5 = 623. The answer is 623"),
        ("3-9", "sentences", "3 - 9 = -6. The answer is -6"),
        ("47+30-0-58", "sentences", "47 + 30 = 77. 77 - 0 = 77. 77 - 50 = 27. 27 - 8 = 19. The answer is 19"),
    ],
)
def test_a_chat_model_is_shown_sums_in_words(expression: str, style: str, response: str) -> None:
    answer = response.rsplit(" ")[-1]
    assert solve(sum_of(expression), style, LAST) == (answer, response)
    assert grade(response, "stop", answer, LAST) is Outcome.RIGHT
    boxed = response.removesuffix(answer) + f"\\boxed{{{answer}}}"
    assert solve(sum_of(expression), style, BOXED) == (answer, boxed)
    assert grade(boxed, "stop", answer, BOXED) is Outcome.RIGHT


def test_every_sentence_is_true_and_the_last_number_is_the_answer() -> None:
    draw = random.Random(8)
    for _ in range(300):
        numbers = [draw.randrange(10 ** draw.randint(1, 4)) for _ in range(draw.randint(2, 4))]
        signs = [draw.choice("+-") for _ in numbers[1:]]
        expression = str(numbers[0]) + "".join(f"{s}{n}" for s, n in zip(signs, numbers[1:], strict=True))
        answer = numbers[0] + sum(int(f"{s}{n}") for s, n in zip(signs, numbers[1:], strict=True))
        *steps, last = solve(sum_of(expression), "sentences", LAST).response.split(". ")
        assert last == f"The answer is {answer}"
        for step in steps:
            left, sign, right, _, total = step.split()
            assert int(total) == (int(left) + int(right) if sign == "+" else int(left) - int(right))


def test_what_has_no_places_or_another_grader_is_not_told_in_sentences() -> None:
    for expression, grading, why in (
        ("9*4", LAST, "not a sum"),
        ("9+4", MARKED, "grader marked-text reads no sentences"),
    ):
        with pytest.raises(ConfigError, match=f"expected terse: {why}"):
            solve(sum_of(expression), "sentences", grading)


def test_the_solver_adds_by_itself_and_is_right() -> None:
    draw = random.Random(7)
    for _ in range(300):
        left, right = draw.randrange(10 ** draw.randint(1, 12)), draw.randrange(10 ** draw.randint(1, 12))
        assert solve(sum_of(f"{left}+{right}"), "worked", MARKED).answer == str(left + right)


def test_differences_are_worked_out_too_and_have_no_steps_in_digits() -> None:
    assert solve(sum_of("9-4"), "terse", MARKED) == ("5", "=5")
    assert solve(sum_of("4-9+2"), "terse", MARKED) == ("-3", "=-3")


def test_a_word_is_reversed_and_other_tasks_have_the_generators_answer() -> None:
    word = Problem("p", "reversal", "~abcd", "never read", {"dataset": "spell_backward", "word": "abcd"})
    assert solve(word, "terse", MARKED) == ("dcba", "=dcba")
    other = Problem("p", "lcm", "?", "12", {"dataset": "lcm", "word": "not to be reversed"})
    assert solve(other, "terse", MARKED) == ("12", "=12")
    assert solve(other, "terse", LAST) == ("12", "The answer is 12")
    assert solve(other, "terse", BOXED) == ("12", "The answer is \\boxed{12}")
    product = Problem("p", "basic", "?", "14", {"dataset": "basic_arithmetic", "expression": "2+3*4"})
    assert solve(product, "terse", LAST) == ("14", "The answer is 14")


@pytest.mark.parametrize("style", ["worked", "checked"])
def test_what_is_not_a_sum_has_no_steps(style: str) -> None:
    with pytest.raises(ConfigError, match="expected terse: not a sum"):
        solve(sum_of("9-4"), style, MARKED)
    with pytest.raises(ConfigError, match="expected terse: not a sum"):
        solve(Problem("p", "lcm", "?", "12", {"dataset": "lcm"}), style, LAST)


def test_every_response_ends_in_the_final_form_of_its_answer() -> None:
    for grading in (MARKED, LAST, BOXED):
        for style in ("terse", "worked", "checked"):
            answer, response = solve(sum_of("178+445"), style, grading)
            assert answer == "623" and response.endswith(final_form("623", grading))
            assert not response.endswith(final_form("23", grading))
    with pytest.raises(ConfigError, match="expert that calls tools"):
        solve(sum_of("9+4"), "terse", Grading(grader="tool-call", reward="binary"))
