"""A table of the paper as plain data: one cell an arm and benchmark. Knows arms and scores; draws nothing."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chord.config.paper import Lengths, Tabled, benchmarks_of, divisions
from chord.config.project import Project
from chord.findings.reading import Scored, read_scores
from chord.findings.statistics import Estimate, two_way
from chord.provenance.files import UserError

Grid = dict[tuple[str, str], "Cell"]  # by arm and column
Divided = Mapping[str, Mapping[str, Collection[str]]]  # by benchmark and category, ids of problems


@dataclass(frozen=True)
class Cell:
    """All scores of one arm on one benchmark, or on one category of its problems."""

    right: NDArray[np.float64]  # (S, P) share of the samples that are right, seeds and problems in one order everywhere
    samples: int
    version: str
    metric: str
    measure: str = "right"  # or "tokens": then `right` holds the mean tokens of the samples

    @property
    def estimate(self) -> Estimate:
        """Share right, or tokens, with its error for new seeds and new problems; with one seed, for problems alone."""
        return two_way(self.right)


def columns(project: Project, table: Tabled) -> tuple[str, ...]:
    """The benchmarks whose scores the table is made of."""
    return benchmarks_of(project.study, table)


def gather(
    project: Project, table: Tabled, results: Path, versions: Mapping[str, str], divided: Divided | None = None
) -> Grid:
    """Every cell of the table out of results/<study>; refuses scores that cannot stand in one column.

    `versions` are those of the benchmarks as they are defined today; older scores are refused. `divided`: the problems
    of benchmarks by category, where the table shows these; a column `BENCHMARK/CATEGORY` has only their scores.
    """
    grid: Grid = {}
    for benchmark in columns(project, table):
        first: Scored | None = None
        for arm in table.arms:
            scored = [read_scores(scores_path(results, arm, seed, benchmark), benchmark) for seed in project.seeds]
            first = first or scored[0]
            for other in scored:
                _check_same(first, other, versions[benchmark])
            whole = cell(scored, "tokens" if isinstance(table, Lengths) else "right")
            grid[arm, benchmark] = whole
            for category, ids in (divided or {}).get(benchmark, {}).items():
                chosen = [index for index, problem in enumerate(first.problems) if problem in ids]
                grid[arm, f"{benchmark}/{category}"] = replace(whole, right=whole.right[:, chosen])
    return grid


def cell(scored: Sequence[Scored], measure: str) -> Cell:
    """All scores of one model: shares right or, with measure "tokens", lengths. Refuses scores without lengths."""
    first = scored[0]
    values = [one.right if measure == "right" else _lengths(one) for one in scored]
    return Cell(np.stack(values), first.samples, first.version, first.metric, measure)


def _lengths(scored: Scored) -> NDArray[np.float64]:
    if scored.response_tokens is None:
        raise UserError(f"{scored.path}: found no lengths of the answers, expected response_tokens; score again")
    return scored.response_tokens


def scores_path(results: Path, arm: str, seed: int, benchmark: str) -> Path:
    """Where the scores of one model on one benchmark lie."""
    return results / "runs" / arm / f"seed-{seed}" / "eval" / benchmark / "scores.json"


def as_data(project: Project, name: str, table: Tabled, grid: Grid) -> dict[str, Any]:
    """The table as JSON: what it says, in percent or tokens, and what it was made of."""
    study = project.study
    shown = list(dict.fromkeys(column for _, column in grid))
    beside = {column: _paper_column(project, table, column) for column in shown}
    return {
        "study": study.name,
        "study_title": study.title,
        "artefact": name,
        "kind": type(table).__name__.lower(),
        "title": table.title,
        "unit": "tokens" if isinstance(table, Lengths) else "percent",
        "seeds": list(project.seeds),
        "paper": {"model": table.paper.model, "claim": table.paper.claim},
        "columns": [
            {
                "benchmark": column,
                "label": _label(project, table, column),
                "metric": "tokens" if isinstance(table, Lengths) else grid[table.arms[0], column].metric,
                "version": grid[table.arms[0], column].version,
                "paper_column": beside[column],
            }
            for column in shown
        ],
        "rows": [
            {
                "arm": arm,
                "label": project.arms[arm].label,
                "note": project.arms[arm].note,
                "cells": {column: _cell(table, arm, beside[column], grid[arm, column]) for column in shown},
            }
            for arm in table.arms
        ],
        "not_built": table.not_built,
    }


def _cell(table: Tabled, arm: str, column: str | None, cell: Cell) -> dict[str, Any]:
    """Ours and, beside it, the paper's: a number, null where it has none; and whether it has one that is unknown."""
    number = table.paper.number(arm, column)
    return {**_numbers(cell), "paper": number, "not_published": table.paper.is_unpublished(arm, column)}


def _label(project: Project, table: Tabled, column: str) -> str:
    """A benchmark's label, or the name of a category or part."""
    part = _part(project, table, column)
    return part or project.study.benchmarks[column].label


def _part(project: Project, table: Tabled, column: str) -> str:
    """What the paper calls a category or part of a benchmark, or it is called here; nothing for a whole benchmark."""
    benchmark, _, category = column.partition("/")
    return divisions(project.study, table)[benchmark].columns.get(category, category) if category else ""


def _paper_column(project: Project, table: Tabled, column: str) -> str | None:
    """The column of the paper's table beside ours."""
    part = _part(project, table, column)
    return part or table.paper.column(project.study.benchmarks[column].paper_columns)


def numbers(scored: Sequence[Scored], measure: str = "right", of: Collection[str] | None = None) -> dict[str, Any]:
    """What a cell says in numbers, out of the scores of all its seeds; `of`: of these problems alone."""
    whole = cell(scored, measure)
    chosen = [index for index, problem in enumerate(scored[0].problems) if of is None or problem in of]
    return _numbers(replace(whole, right=whole.right[:, chosen]))


def _numbers(cell: Cell) -> dict[str, Any]:
    estimate = cell.estimate
    unit, most = (percent, 1.0) if cell.measure == "right" else (tokens, math.inf)
    return {
        "mean": unit(estimate.mean),
        "se": unit(estimate.se),
        "se_seeds": None if math.isnan(estimate.se_seeds) else unit(estimate.se_seeds),
        "se_problems": unit(estimate.se_problems),
        "interval": [unit(min(most, max(0.0, end))) for end in estimate.interval or ()],
        "n_seeds": cell.right.shape[0],
        "n_problems": cell.right.shape[1],
        "samples_per_problem": cell.samples,
        "by_seed": [unit(float(value)) for value in cell.right.mean(axis=1)],
    }


def percent(share: float) -> float:
    """A share of one in percent, without digits that are only noise of the arithmetic."""
    return round(100 * share, 6)


def tokens(length: float) -> float:
    """A length without digits that are only noise of the arithmetic."""
    return round(length, 6)


def _check_same(first: Scored, other: Scored, version: str) -> None:
    """Refuse scores of another version than today's, or of another metric or other problems than the column's first."""
    remedy = "score again so that one column holds one benchmark"
    if other.version != version:
        expected = f"expected {version} as in config/benchmarks"
        raise UserError(f"{other.path}: found version {other.version}, {expected}; {remedy}")
    for what in ("metric", "samples"):
        expected, found = getattr(first, what), getattr(other, what)
        if expected != found:
            raise UserError(f"{other.path}: found {what} {found}, expected {expected} as in {first.path}; {remedy}")
    if first.problems != other.problems:
        strange = sorted(set(first.problems) ^ set(other.problems))
        raise UserError(
            f"{other.path}: found other problems ({len(strange)} differ, such as '{strange[0]}'), expected those of"
            f" {first.path}; {remedy}"
        )
