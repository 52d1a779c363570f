"""Tables: what their cells hold, out of scores, and the verb that writes them."""

import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from chord.config.paper import Lengths, Tabled, benchmarks_of, divisions
from chord.config.project import Project
from chord.errors import UserError
from chord.findings.reading import Scored, read_json, read_scores
from chord.findings.statistics import Estimate, two_way
from chord.records import Answer, Problem

# --- table ---------------------------------------------------------------------------------------

# A table of the paper as plain data: one cell an arm and benchmark. Knows arms and scores; draws nothing.

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


# --- samples -------------------------------------------------------------------------------------

# The first answers of each cell with their grades, few enough for a page. Reads no more of a file than it shows.

ANSWERS = 32  # of one seed in one cell
ANSWER_CHARACTERS, SEED_CHARACTERS = 6_000, 48_000
_ANSWER, _PROBLEM = TypeAdapter(Answer), TypeAdapter(Problem)


class Place(NamedTuple):
    """The files of one model on one benchmark."""

    scores: Path
    answers: Path
    problems: Path


def place(results: Path, arm: str, seed: int, benchmark: str) -> Place:
    """Where they lie."""
    scores = scores_path(results, arm, seed, benchmark)
    return Place(scores, scores.with_name("answers.jsonl"), results / "data" / "benchmarks" / f"{benchmark}.jsonl")


def of_cell(results: Path, arm: str, benchmark: str, seeds: list[int], sha256: Mapping[Path, str]) -> list[Any]:
    """For each seed whose answers are there: the first of them with their grades; see `findings/web/chain.js`.

    `sha256` has the hash of each answers.jsonl as its maker recorded it.
    """
    found = []
    for seed in seeds:
        here = place(results, arm, seed, benchmark)
        if not (here.answers.is_file() and here.scores.is_file()):
            continue
        scores = read_json(here.scores, f"the scores of benchmark '{benchmark}'", "score again")
        grades = {row["id"]: row["outcomes"] for row in scores["problems"]}
        found.append(
            {
                "seed": seed,
                "file": f"results/{results.name}/{here.answers.relative_to(results).as_posix()}",
                "sha256": sha256.get(here.answers.absolute()),
                "total": sum(len(outcomes) for outcomes in grades.values()),
                "problems": _by_problem(here, grades),
            }
        )
    return found


def _by_problem(here: Place, grades: Mapping[str, list[str]]) -> list[Any]:
    """The problems in the file's order, each with its answers: sample, grade, tokens, end, text, what is cut off."""
    found: dict[str, list[Any]] = {}
    room, count = SEED_CHARACTERS, 0
    for number, answer in enumerate(_first(here.answers, _ANSWER)):
        text = answer.text[:ANSWER_CHARACTERS]
        room, count = room - len(text), count + 1
        if number and (room < 0 or count > ANSWERS):
            break
        outcomes = grades.get(answer.problem, [])
        if answer.sample >= len(outcomes):
            raise UserError(
                f"{here.answers}, line {number + 1}: found sample {answer.sample} of {answer.problem}, which"
                f" {here.scores.name} beside it has no grade for, expected answers and their own grades; score again"
            )
        line = [answer.sample, outcomes[answer.sample], answer.response_tokens, answer.finish, text]
        found.setdefault(answer.problem, []).append([*line, len(answer.text) - len(text)])
    return [[problem, samples] for problem, samples in found.items()]


def problems(results: Path, benchmark: str, wanted: set[str]) -> dict[str, tuple[str, str]]:
    """Prompt and right answer of these problems, as far as the benchmark's file is there."""
    path = results / "data" / "benchmarks" / f"{benchmark}.jsonl"
    found: dict[str, tuple[str, str]] = {}
    for problem in _first(path, _PROBLEM) if path.is_file() else ():
        if problem.id in wanted:
            found[problem.id] = (problem.prompt[:ANSWER_CHARACTERS], problem.answer)
        if len(found) == len(wanted):
            break
    return found


def _first(path: Path, kind: TypeAdapter[Any]) -> Iterator[Any]:
    """The records of a file, one by one."""
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                yield kind.validate_python(json.loads(line))
            except (ValueError, ValidationError) as error:
                raise UserError(
                    f"{path}, line {number}: found something else than a record ({type(error).__name__}),"
                    " expected one object a line; make the file again with snakemake"
                ) from None
