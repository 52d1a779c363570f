"""BFCL through its public package: items, the package's own checker, hostile calls, and a benchmark of a study."""

import json
from collections import Counter
from pathlib import Path

import pytest

from chord.config.study import AnswerForm
from chord.errors import ConfigError, UserError
from chord.grading import tool_calls
from chord.grading.graders import grade
from chord.grading.tool_calls import BFCL_CATEGORIES, bfcl_calls, bfcl_items
from chord.records import Outcome

# Of the package's own first possible values these are refused by the package's own checker (2026.3.23).
REFUSED_BY_ITSELF = 8
ITEMS = list(bfcl_items(BFCL_CATEGORIES, "here"))
FORM = AnswerForm(grader="bfcl")


def reply(*calls: dict[str, object]) -> str:
    return f"<think>so</think> <tool_call>{json.dumps(calls)}</tool_call>"


def item(name: str) -> dict[str, str]:
    return next(one for one in ITEMS if one["id"] == name)


def first(value: object) -> object:
    """The first possible value that is not left out; of an object and of a list of objects, that of each key."""
    if isinstance(value, dict):
        return {key: found for key, one in value.items() if (found := first(one)) is not None}
    if isinstance(value, list):
        one = next((one for one in value if one != ""), None)
        if isinstance(one, list):
            return [first(part) if isinstance(part, dict) else part for part in one]
        return first(one) if isinstance(one, dict) else one
    return value


def calls_of(one: dict[str, str]) -> list[dict[str, object]]:
    """The first possible calls of an item."""
    possible = json.loads(one["answer"])["possible"]
    return [{"name": name, "arguments": first(given)} for call in possible for name, given in call.items()]


def test_the_eight_categories_have_the_items_that_the_package_says() -> None:
    counted = Counter(one["category"] for one in ITEMS)
    assert counted == dict(zip(BFCL_CATEGORIES, (400, 200, 200, 200, 258, 1053, 16, 24), strict=True))


def test_an_item_with_any_line_break_in_its_text_is_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = "first\x85 second\u2028 third\u2029 last\r\x0b\x1c"
    row = {"id": "simple_python_0", "question": [[{"role": "user", "content": asked}]], "function": []}
    answer = {"id": "simple_python_0", "ground_truth": [{"f": {"x": [asked]}}]}
    (tmp_path / "data/possible_answer").mkdir(parents=True)
    for place, one in (("", row), ("possible_answer/", answer)):
        text = json.dumps(one, ensure_ascii=False) + "\n"
        (tmp_path / f"data/{place}BFCL_v4_simple_python.json").write_text(text, encoding="utf-8")
    monkeypatch.setattr(tool_calls, "files", lambda package: tmp_path)
    (found,) = bfcl_items(["simple_python"], "here")
    assert found["question"] == asked
    assert json.loads(found["answer"])["possible"] == answer["ground_truth"]


def test_the_packages_own_answers_are_right_and_other_calls_wrong_in_every_category() -> None:
    refused = []
    for one in ITEMS:
        calls = calls_of(one)
        if bfcl_calls(reply(*calls), one["answer"]) is not True:
            refused.append(one["id"])
        assert bfcl_calls(reply({"name": "other", "arguments": {}}), one["answer"]) is False
        assert bfcl_calls(reply(*calls, *calls[:1]), one["answer"]) is False, "a call too many"
    assert len(refused) == REFUSED_BY_ITSELF, refused


AREA = "calculate_triangle_area"
BARE = f'<tool_call>[{{"name": "{AREA}", "arguments": {{"base": 10, "height": 5}}}}]</tool_call>'


@pytest.mark.parametrize(
    ("given", "outcome"),
    [
        ({"base": 10, "height": 5}, Outcome.RIGHT),
        ({"height": 5, "base": 10, "unit": "UNITS"}, Outcome.RIGHT),
        ({"base": 10.0, "height": 5}, Outcome.WRONG),
        ({"base": 10, "height": 5, "depth": 1}, Outcome.WRONG),
        (BARE, Outcome.RIGHT),
        ("the area is 25", Outcome.UNPARSABLE),
    ],
)
def test_values_count_as_the_package_says(given: dict[str, object] | str, outcome: Outcome) -> None:
    answer = item("simple_python_0")["answer"]  # AREA: base 10, height 5, unit "units" or left out
    text = given if isinstance(given, str) else reply({"name": AREA, "arguments": given})
    assert grade(text, "stop", answer, FORM) is outcome
    assert grade("<think>the area", "length", answer, FORM) is Outcome.TOO_LONG


def test_parallel_calls_may_come_in_any_order() -> None:
    one = next(one for one in ITEMS if one["category"] == "parallel")
    calls = calls_of(one)
    assert len(calls) > 1
    assert bfcl_calls(reply(*reversed(calls)), one["answer"]) is True


@pytest.mark.parametrize(
    "arguments",
    [
        {"base": None, "height": [[]]},
        {"base": {"a": {"b": []}}, "height": True},
        {"base": [1, [2, "x"]], "height": {}},
        {"base": "10", "height": "__import__('os').system('true')"},
        {"": 1},
    ],
)
def test_values_of_kinds_that_nobody_expects_are_wrong_and_break_nothing(arguments: dict[str, object]) -> None:
    for name in ("simple_python_0", "multiple_0", "parallel_0", "live_parallel_multiple_0-0-0"):
        one = item(name)
        function = json.loads(one["answer"])["functions"][0]["name"]
        assert bfcl_calls(reply({"name": function, "arguments": arguments}), one["answer"]) is False


def test_thousands_of_calls_are_wrong_at_once() -> None:
    call = {"name": AREA, "arguments": {"base": 10, "height": 5}}
    assert bfcl_calls(reply(*[call] * 1000), item("parallel_0")["answer"]) is False


def test_a_problem_of_another_kind_and_an_unknown_category_are_told() -> None:
    with pytest.raises(UserError, match="expected category, functions and possible values"):
        bfcl_calls(reply({"name": "f", "arguments": {}}), "42")
    with pytest.raises(ConfigError, match="found category 'multi_turn_base', expected one of simple_python"):
        list(bfcl_items(["multi_turn_base"], "here"))
