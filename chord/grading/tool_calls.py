"""Tool calls in a reply: `<think>...</think> <tool_call>[{"name": ..., "arguments": {...}}, ...]</tool_call>`.

The rule is that of the released reward code for tools (arXiv:2508.11408, section 5; Trinity-RFT, adapted there from
Tool-N1): thinking first and once, then calls that are the wanted ones in any order. Stricter here in three places: the
calls are a list (a lone call is not), names are texts, arguments are objects with no key twice. JSON only.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from chord.errors import UserError

MAX_CALLS_CHARACTERS = 100_000
MAX_NUMBER_CHARACTERS = 64
MAX_DEPTH = 32
THINK, THOUGHT, CALL, CALLED = "<think>", "</think>", "<tool_call>", "</tool_call>"

Calls = Counter[tuple[str, str]]


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


def listed_calls(text: str) -> list[tuple[str, dict[str, Any]]] | None:
    """Name and arguments of each call in the reply's last block, in order; None if there is no block in that form.

    Thinking before it is not asked for: a model that was never told to think is read too.
    """
    block = _last_block(text)
    return None if block is None else _parsed(block)


def _last_block(text: str) -> str | None:
    """What stands between the last pair of marks."""
    end = text.rfind(CALLED)
    start = text.rfind(CALL, 0, max(end, 0))
    return None if start < 0 else text[start + len(CALL) : end]


def thinks_once(text: str) -> bool:
    """Whether there is exactly one <think> and, after it, exactly one </think>."""
    return text.count(THINK) == 1 and text.count(THOUGHT) == 1 and text.find(THINK) < text.find(THOUGHT)


def read_calls(text: str) -> Calls | None:
    """The calls in a JSON list, each as its name and its arguments with sorted keys; None if it is not such a list."""
    calls = _parsed(text)
    return None if calls is None else Counter((name, json.dumps(given, sort_keys=True)) for name, given in calls)


def _parsed(text: str) -> list[tuple[str, dict[str, Any]]] | None:
    """Name and arguments of each call in a JSON list."""
    if len(text) > MAX_CALLS_CHARACTERS or _too_deep(text):
        return None
    try:
        calls = json.loads(
            text,
            object_pairs_hook=_without_repeats,
            parse_int=_short_integer,
            parse_float=_short_float,
            parse_constant=_refused,
        )
    except ValueError:
        return None
    if not isinstance(calls, list):
        return None
    read: list[tuple[str, dict[str, Any]]] = []
    for call in calls:
        if not isinstance(call, dict) or not isinstance(call.get("name"), str):
            return None
        if not isinstance(call.get("arguments"), dict):
            return None
        read.append((call["name"], call["arguments"]))
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


def _short_integer(digits: str) -> int:
    if len(digits) > MAX_NUMBER_CHARACTERS:
        raise ValueError("found a number that is too long")
    return int(digits)


def _short_float(digits: str) -> float:
    if len(digits) > MAX_NUMBER_CHARACTERS:
        raise ValueError("found a number that is too long")
    return float(digits)


def _refused(constant: str) -> None:
    raise ValueError(f"found {constant}, which is not JSON")
