"""What runs left behind: scores and metrics, read with every doubt spoken. Knows file formats; knows no arms.

Raises UserError for a missing, empty, cut or foreign file: the file, what was found, what was expected, what to do.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chord.provenance.files import UserError
from chord.records import Outcome, split_lines

OUTCOMES = {outcome.value for outcome in Outcome}


@dataclass(frozen=True)
class Scored:
    """The scores of one model on one benchmark, problem by problem."""

    path: Path
    version: str
    metric: str
    problems: tuple[str, ...]
    samples: int
    right: NDArray[np.float64]  # (P,) share of the samples that are right
    response_tokens: NDArray[np.float64] | None  # (P,) mean length of the samples; None where the file has none


def read_json(path: Path, what: str, remedy: str) -> dict[str, Any]:
    """The JSON object in the file. `what` and `remedy` complete the message: expected WHAT, do REMEDY."""
    text = _text(path, what, remedy)
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except ValueError as error:
        raise UserError(f"{path}: found text that is not whole JSON ({error}), expected {what}; {remedy}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: found a JSON {type(value).__name__}, expected {what}; {remedy}")
    return value


def read_scores(path: Path, benchmark: str) -> Scored:
    """The scores in the file; refused if they are of another benchmark or contradict themselves."""
    what, remedy = f"the scores of benchmark '{benchmark}'", "delete it and score again"
    raw = read_json(path, what, "build it with snakemake" if not path.exists() else remedy)
    if lacking := {"benchmark", "version", "metric", "mean", "problems"} - raw.keys():
        raise UserError(f"{path}: found no {', '.join(sorted(lacking))}, expected {what}; {remedy}")
    if raw["benchmark"] != benchmark:
        raise UserError(f"{path}: found the scores of benchmark '{raw['benchmark']}', expected {what}; {remedy}")
    rows = raw["problems"]
    if not isinstance(rows, list) or len(rows) < 2 or not all(_is_scored(row) for row in rows):
        expected = f"two problems or more, each with an id and outcomes out of {', '.join(sorted(OUTCOMES))}"
        raise UserError(f"{path}: found other things under 'problems', expected {expected}; {remedy}")
    ids = tuple(row["id"] for row in rows)
    counts = {len(row["outcomes"]) for row in rows}
    if len(set(ids)) != len(ids) or len(counts) != 1:
        raise UserError(f"{path}: found problems twice or with unequal numbers of samples, expected {what}; {remedy}")
    order = sorted(range(len(ids)), key=ids.__getitem__)
    right = np.array([[outcome == Outcome.RIGHT.value for outcome in rows[i]["outcomes"]] for i in order], dtype=float)
    if not isinstance(raw["mean"], int | float) or not math.isclose(right.mean(), raw["mean"], abs_tol=1e-6):
        raise UserError(f"{path}: found mean {raw['mean']}, but its outcomes give {right.mean():g}; {remedy}")
    return Scored(
        path=path,
        version=str(raw["version"]),
        metric=str(raw["metric"]),
        problems=tuple(ids[i] for i in order),
        samples=counts.pop(),
        right=right.mean(axis=1),
        response_tokens=_lengths([rows[i] for i in order]),
    )


def _lengths(rows: list[dict[str, Any]]) -> NDArray[np.float64] | None:
    """The mean length of each problem's samples; None unless every sample of every problem has one."""
    lengths = [row.get("response_tokens") for row in rows]
    whole = all(isinstance(one, list) and len(one) == len(rows[0]["outcomes"]) for one in lengths)
    return np.array(lengths, dtype=float).mean(axis=1) if whole else None


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl in order of their steps, at least one."""
    what, remedy = "metrics of a training run, one JSON object a line", "build it with snakemake"
    text = _text(path, what, remedy)
    if not text.endswith("\n"):
        raise UserError(f"{path}: found a last line without end, so the file was cut off; delete it and train again")
    lines: list[dict[str, Any]] = []
    for number, line in enumerate(split_lines(text), start=1):
        try:
            value = json.loads(line, parse_constant=_no_constant)
        except ValueError as error:
            raise UserError(f"{path}, line {number}: found text that is not JSON ({error}), expected {what}") from None
        if not isinstance(value, dict) or not isinstance(value.get("step"), int):
            raise UserError(f"{path}, line {number}: found no whole number under 'step', expected {what}")
        if lines and value["step"] <= lines[-1]["step"]:
            found = f"step {value['step']} after {lines[-1]['step']}"
            raise UserError(f"{path}, line {number}: found {found}, expected rising steps; train the arm again")
        lines.append(value)
    return lines


def read_validation(path: Path) -> dict[int, dict[str, Any]]:
    """What stands in a validation.json, by step."""
    what, remedy = "what chord validate writes", "build it with snakemake"
    rows = read_json(path, what, remedy).get("steps")
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and isinstance(row.get("step"), int) for row in rows
    ):
        raise UserError(f"{path}: found no results by step, expected {what}; delete it and validate again")
    return {row["step"]: row for row in rows}


def _text(path: Path, what: str, remedy: str) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: found no such file, expected {what}; {remedy}") from None
    except (UnicodeDecodeError, IsADirectoryError, NotADirectoryError) as error:
        raise UserError(f"{path}: found something other than text ({error}), expected {what}; {remedy}") from None
    if not text.strip():
        raise UserError(f"{path}: found an empty file, expected {what}; {remedy}")
    return text


def _is_scored(row: Any) -> bool:
    """Whether `row` is {"id": text, "outcomes": [known outcomes, at least one]}."""
    if not isinstance(row, dict) or not isinstance(row.get("id"), str) or not isinstance(row.get("outcomes"), list):
        return False
    return bool(row["outcomes"]) and all(isinstance(name, str) and name in OUTCOMES for name in row["outcomes"])


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")
