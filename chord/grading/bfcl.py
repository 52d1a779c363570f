"""BFCL: problems out of the public package bfcl-eval, and its own checker of calls. Knows no prompt and no model.

The Berkeley Function Calling Leaderboard, whose single-turn categories the paper reports (arXiv:2508.11408, B.8; there
gorilla at commit cd9429c). Items, possible answers and the checker of syntax trees are those of the installed
package; nothing of it is copied here. The package is imported where it is needed.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from types import ModuleType, SimpleNamespace
from typing import Any

from chord.errors import ConfigError, UserError
from chord.grading.tool_calls import listed_calls
from chord.records import split_lines

PACKAGE = "bfcl_eval"
# The eight of the paper: simple, multiple, parallel, both; from real users ("live") and made for the leaderboard.
CATEGORIES = (
    "simple_python",
    "multiple",
    "parallel",
    "parallel_multiple",
    "live_simple",
    "live_multiple",
    "live_parallel",
    "live_parallel_multiple",
)
MAX_CALLS = 64
# What the checker raises on values of kinds that it does not expect: such a call is not the wanted one.
CONFUSED = (TypeError, KeyError, AttributeError, ValueError, IndexError)


def items(categories: Sequence[str], where: str) -> Iterator[dict[str, Any]]:
    """Facts of every item of the categories, in the package's order: question, tools, and what decides its answer.

    Raises ConfigError for a category that is not one of the single-turn ones in Python.
    """
    for category in categories:
        if category not in CATEGORIES:
            raise ConfigError(f"{where}: found category '{category}', expected one of {', '.join(CATEGORIES)}")
        answers = {row["id"]: row["ground_truth"] for row in _rows(f"possible_answer/BFCL_v4_{category}.json")}
        for row in _rows(f"BFCL_v4_{category}.json"):
            yield {
                "id": row["id"],
                "category": category,
                "question": _question(row),
                "tools": json.dumps(row["function"], ensure_ascii=False),
                "answer": json.dumps(
                    {"category": category, "functions": row["function"], "possible": answers[row["id"]]},
                    ensure_ascii=False,
                ),
            }


def release() -> str:
    """Name and version of the package."""
    return f"bfcl-eval {version('bfcl-eval')}"


def wanted_calls(text: str, answer: str) -> bool | None:
    """Whether the calls in a reply are among the possible ones; None if it makes none in the form asked for.

    `answer` is that of an item: its category, functions and possible values. Order counts as the package says: not at
    all with parallel calls. Raises UserError for an `answer` that is not an item's.
    """
    try:
        item = json.loads(answer)
        category, functions, possible = item["category"], item["functions"], item["possible"]
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"found a problem whose answer is '{answer[:80]}', expected category, functions and possible values of an"
            " item with grader bfcl"
        ) from None
    calls = listed_calls(text)
    if calls is None:
        return None
    if len(calls) > MAX_CALLS:
        return False
    check, python = _checker()
    try:
        found = check(functions, [{name: arguments} for name, arguments in calls], possible, python, category, "chord")
    except CONFUSED:
        return False
    return bool(found["valid"])


def _question(row: dict[str, Any]) -> str:
    """What the user says; single-turn items have one turn, some with a system's message before it."""
    turns = row["question"]
    if len(turns) != 1:
        raise UserError(f"{row['id']}: found {len(turns)} turns, expected one, as in single-turn categories")
    return "\n\n".join(message["content"] for message in turns[0])


def _rows(name: str) -> Iterator[dict[str, Any]]:
    """The rows of one of the package's files. Raises UserError if the package is not there."""
    try:
        text = files(PACKAGE).joinpath("data", *name.split("/")).read_bytes().decode()
    except ModuleNotFoundError:
        raise UserError("found no package bfcl-eval, expected the one pinned in envs/data.txt") from None
    return map(json.loads, split_lines(text))


@cache
def _checker() -> tuple[Any, Any]:
    """The package's checker of syntax trees and its name for Python.

    The checker asks a table of all vendors' models whether dots in names of functions were replaced; that table imports
    every vendor's client. In its place stands a table with one model, whose names keep their dots.
    """
    table = ModuleType(f"{PACKAGE}.constants.model_config")
    table.__dict__["MODEL_CONFIG_MAPPING"] = {"chord": SimpleNamespace(underscore_to_dot=False)}
    sys.modules.setdefault(table.__name__, table)  # not followed: its checker alone reads it
    from bfcl_eval.constants.enums import Language
    from bfcl_eval.eval_checker.ast_eval.ast_checker import ast_checker

    return ast_checker, Language.PYTHON
