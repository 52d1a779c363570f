"""A table of the paper as plain data: one cell an arm and benchmark. Knows arms and scores; draws nothing."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chord.config import Project, Table
from chord.findings.reading import Scored, read_scores
from chord.findings.statistics import Estimate, two_way
from chord.provenance.files import UserError

Grid = dict[tuple[str, str], "Cell"]


@dataclass(frozen=True)
class Cell:
    """All scores of one arm on one benchmark."""

    right: NDArray[np.float64]  # (S, P) share of the samples that are right, seeds and problems in one order everywhere
    samples: int
    version: str
    metric: str

    @property
    def estimate(self) -> Estimate:
        """Share right with its error for new seeds and new problems; with one seed, for new problems alone."""
        return two_way(self.right)


def columns(project: Project, table: Table) -> tuple[str, ...]:
    """The benchmarks of the table: those it names, else all of the study."""
    return table.benchmarks or tuple(project.study.benchmarks)


def gather(project: Project, table: Table, results: Path, versions: Mapping[str, str]) -> Grid:
    """Every cell of the table out of results/<study>; refuses scores that cannot stand in one column.

    `versions` are those of the benchmarks as they are defined today; older scores are refused.
    """
    grid: Grid = {}
    for benchmark in columns(project, table):
        first: Scored | None = None
        for arm in table.arms:
            scored = [read_scores(scores_path(results, arm, seed, benchmark), benchmark) for seed in project.seeds]
            first = first or scored[0]
            for other in scored:
                _check_same(first, other, versions[benchmark])
            right = np.stack([one.right for one in scored])
            grid[arm, benchmark] = Cell(right, first.samples, first.version, first.metric)
    return grid


def scores_path(results: Path, arm: str, seed: int, benchmark: str) -> Path:
    """Where the scores of one model on one benchmark lie."""
    return results / "runs" / arm / f"seed-{seed}" / "eval" / benchmark / "scores.json"


def as_data(project: Project, name: str, table: Table, grid: Grid) -> dict[str, Any]:
    """The table as JSON: what it says, in percent, and what it was made of."""
    study = project.study
    shown = columns(project, table)
    return {
        "study": study.name,
        "study_title": study.title,
        "artefact": name,
        "title": table.title,
        "unit": "percent",
        "seeds": list(project.seeds),
        "paper": {"model": table.paper.model, "claim": table.paper.claim},
        "columns": [
            {
                "benchmark": key,
                "label": study.benchmarks[key].label,
                "metric": grid[table.arms[0], key].metric,
                "version": grid[table.arms[0], key].version,
                "paper_column": study.benchmarks[key].paper_column,
            }
            for key in shown
        ],
        "rows": [
            {
                "arm": arm,
                "label": project.arms[arm].label,
                "note": project.arms[arm].note,
                "cells": {key: _cell(project, table, arm, key, grid[arm, key]) for key in shown},
            }
            for arm in table.arms
        ],
    }


def _cell(project: Project, table: Table, arm: str, benchmark: str, cell: Cell) -> dict[str, Any]:
    column = project.study.benchmarks[benchmark].paper_column
    return {**_numbers(cell), "paper": table.paper.cells.get(arm, {}).get(column or "")}


def numbers(scored: Sequence[Scored]) -> dict[str, Any]:
    """What a cell says in numbers, out of the scores of all its seeds."""
    first, right = scored[0], np.stack([one.right for one in scored])
    return _numbers(Cell(right, first.samples, first.version, first.metric))


def _numbers(cell: Cell) -> dict[str, Any]:
    estimate = cell.estimate
    return {
        "mean": percent(estimate.mean),
        "se": percent(estimate.se),
        "se_seeds": None if math.isnan(estimate.se_seeds) else percent(estimate.se_seeds),
        "se_problems": percent(estimate.se_problems),
        "interval": [percent(min(1.0, max(0.0, end))) for end in estimate.interval or ()],
        "n_seeds": cell.right.shape[0],
        "n_problems": cell.right.shape[1],
        "samples_per_problem": cell.samples,
        "by_seed": [percent(float(value)) for value in cell.right.mean(axis=1)],
    }


def percent(share: float) -> float:
    """A share of one in percent, without digits that are only noise of the arithmetic."""
    return round(100 * share, 6)


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
