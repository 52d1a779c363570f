"""Tool calls in a reply, against the wanted ones; and BFCL: its items, and its own checker of calls. Knows no model.

A reply is `<think>...</think> <tool_call>[{"name": ..., "arguments": {...}}, ...]</tool_call>`.
"""

import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from types import ModuleType, SimpleNamespace
from typing import Any, cast

from chord.errors import ConfigError, UserError
from chord.records import split_lines
from chord.settings import Raw

MAX_CALLS_CHARACTERS = 100_000
MAX_NUMBER_CHARACTERS = 64
MAX_DEPTH = 32
THINK, THOUGHT, CALL, CALLED = "<think>", "</think>", "<tool_call>", "</tool_call>"

# The rule of grader tool-call is that of the released reward code for tools (arXiv:2508.11408, section 5; Trinity-RFT,
# adapted there from Tool-N1): thinking first and once, then calls that are the wanted ones in any order. Stricter here
# in three places: the calls are a list (a lone call is not), names are texts, arguments are objects with no key twice.


def same_calls(text: str, answer: str) -> bool | None:
    """Whether the reply makes the calls of `answer`, a JSON list; None if it is not in the form that was asked for.

    Calls are compared as a multiset of (name, arguments with sorted keys); other keys of a call do not count. Values
    must have the same JSON type: 1, 1.0, true and "1" differ.
    """
    wanted = read_calls(answer)
    if wanted is None:
        raise UserError(
            f"found a problem whose answer is '{answer[:80]}', expected a JSON list of calls with grader tool-call"
        )
    if not thinks_once(text) or text.find(CALL) < text.find(THOUGHT):
        return None
    block = _last_block(text)
    made = None if block is None else read_calls(block)
    return None if made is None else made == wanted


def thinks_once(text: str) -> bool:
    """Whether there is exactly one <think> and, after it, exactly one </think>."""
    return text.count(THINK) == 1 and text.count(THOUGHT) == 1 and text.find(THINK) < text.find(THOUGHT)


def read_calls(text: str) -> Counter[tuple[str, str]] | None:
    """The calls in a JSON list, each as its name and its arguments with sorted keys; None if it is not such a list."""
    calls = _parsed(text)
    return None if calls is None else Counter((name, json.dumps(given, sort_keys=True)) for name, given in calls)


def _last_block(text: str) -> str | None:
    """What stands between the last pair of marks."""
    end = text.rfind(CALLED)
    start = text.rfind(CALL, 0, max(end, 0))
    return None if start < 0 else text[start + len(CALL) : end]


def _parsed(text: str) -> list[tuple[str, dict[str, Any]]] | None:
    """Name and arguments of each call in a JSON list. Reads no number that is long, and no deep nesting."""
    if len(text) > MAX_CALLS_CHARACTERS or _too_deep(text):
        return None
    hooks: dict[str, Any] = {"object_pairs_hook": _without_repeats, "parse_constant": _refused}
    try:
        calls: Raw = json.loads(text, **hooks, parse_int=_short(int), parse_float=_short(float))
    except ValueError:
        return None
    if not isinstance(calls, list):
        return None
    read: list[tuple[str, dict[str, Any]]] = []
    for call in calls:
        if not isinstance(call, dict):
            return None
        name, arguments = call.get("name"), call.get("arguments")
        if not isinstance(name, str) or not isinstance(arguments, dict):
            return None
        read.append((name, arguments))
    return read


def _too_deep(text: str) -> bool:
    """Whether brackets nest deeper than any call needs; those within texts are counted too."""
    depth = 0
    for bracket in re.finditer(r"[\[\]{}]", text):
        depth += 1 if bracket[0] in "[{" else -1
        if depth > MAX_DEPTH:
            return True
    return False


def _without_repeats(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    pairs = list(pairs)
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("found a key twice")
    return dict(pairs)


def _short(kind: Callable[[str], float]) -> Callable[[str], float]:
    def read(digits: str) -> float:
        if len(digits) > MAX_NUMBER_CHARACTERS:
            raise ValueError("found a number that is too long")
        return kind(digits)

    return read


def _refused(constant: str) -> None:
    raise ValueError(f"found {constant}, which is not JSON")


# --- BFCL ----------------------------------------------------------------------------------------

# The Berkeley Function Calling Leaderboard, whose single-turn categories the paper reports (arXiv:2508.11408, B.8;
# there gorilla at commit cd9429c). Items, possible answers and the checker of syntax trees are those of the installed
# package bfcl-eval; nothing of it is copied here.

BFCL = "bfcl_eval"
# The eight of the paper: simple, multiple, parallel, both; from real users ("live") and made for the leaderboard.
BFCL_CATEGORIES = (
    *("simple_python", "multiple", "parallel", "parallel_multiple"),
    *("live_simple", "live_multiple", "live_parallel", "live_parallel_multiple"),
)
MAX_CALLS = 64
# What the checker raises on values of kinds that it does not expect: such a call is not the wanted one.
CONFUSED = (TypeError, KeyError, AttributeError, ValueError, IndexError)


def bfcl_items(categories: Sequence[str], where: str) -> Iterator[dict[str, Any]]:
    """Facts of every item of the categories, in the package's order: question, tools, and what decides its answer.

    Raises ConfigError for a category that is not one of the single-turn ones in Python.
    """
    for category in categories:
        if category not in BFCL_CATEGORIES:
            raise ConfigError(f"{where}: found category '{category}', expected one of {', '.join(BFCL_CATEGORIES)}")
        answers = {row["id"]: row["ground_truth"] for row in _rows(f"possible_answer/BFCL_v4_{category}.json")}
        for row in _rows(f"BFCL_v4_{category}.json"):
            turns, functions = row["question"], row["function"]
            if len(turns) != 1:
                raise UserError(f"{row['id']}: found {len(turns)} turns, expected one, as in single-turn categories")
            answer = {"category": category, "functions": functions, "possible": answers[row["id"]]}
            yield {
                "id": row["id"],
                "category": category,
                "question": "\n\n".join(message["content"] for message in turns[0]),  # some with a system's message
                "tools": json.dumps(functions, ensure_ascii=False),
                "answer": json.dumps(answer, ensure_ascii=False),
            }


def bfcl_release() -> str:
    """Name and version of the package."""
    return f"bfcl-eval {version('bfcl-eval')}"


def bfcl_calls(text: str, answer: str) -> bool | None:
    """Whether the calls in a reply are among the possible ones; None if it makes none in the form asked for.

    Thinking before them is not asked for: a model that was never told to think is read too. `answer` is that of an
    item: its category, functions and possible values. Order counts as the package says: not at all with parallel calls.
    Raises UserError for an `answer` that is not an item's.
    """
    try:
        item = json.loads(answer)
        category, functions, possible = item["category"], item["functions"], item["possible"]
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"found a problem whose answer is '{answer[:80]}', expected category, functions and possible values of an"
            " item with grader bfcl"
        ) from None
    block = _last_block(text)
    calls = None if block is None else _parsed(block)
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


def _rows(name: str) -> Iterator[dict[str, Any]]:
    """The rows of one of the package's files. Raises UserError if the package is not there."""
    try:
        text = files(BFCL).joinpath("data", *name.split("/")).read_bytes().decode()
    except ModuleNotFoundError:
        raise UserError("found no package bfcl-eval, expected the one pinned in envs/data.txt") from None
    return map(json.loads, split_lines(text))


@cache
def _checker() -> tuple[Any, Any]:
    """The package's checker of syntax trees and its name for Python.

    The checker asks a table of all vendors' models whether dots in names of functions were replaced; that table imports
    every vendor's client. In its place stands a table with one model, whose names keep their dots.
    """
    table = ModuleType(f"{BFCL}.constants.model_config")
    table.__dict__["MODEL_CONFIG_MAPPING"] = {"chord": SimpleNamespace(underscore_to_dot=False)}
    sys.modules.setdefault(table.__name__, table)  # not followed: its checker alone reads it
    from bfcl_eval.constants.enums import Language
    from bfcl_eval.eval_checker.ast_eval import ast_checker

    return cast(Any, ast_checker).ast_checker, Language.PYTHON
