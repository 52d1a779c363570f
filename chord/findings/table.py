"""A table of the paper from the scores of its runs, as JSON, Markdown and HTML; or, with --show, in the terminal."""

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import TypeAdapter, ValidationError

from chord.config.paper import Lengths, Tabled, benchmarks_of, divisions
from chord.config.project import Project, load
from chord.errors import UserError
from chord.findings import agreement, reading, rendering, verbs
from chord.findings.reading import Scored, read_alike, read_json, scores_path
from chord.findings.statistics import two_way
from chord.records import Answer, Problem, read_lines
from chord.steps import expert_counts, of_artefact

FILES = ("json", "markdown", "html")


def main(arguments: Sequence[str] | None = None) -> None:
    """Write or show the table named on the command line."""
    parser = verbs.parser_of("tabulate", __doc__, *FILES)
    parser.add_argument("--show", type=Path, metavar="FILE", help="print a table's JSON neatly, and write nothing")
    parser.add_argument("--against", type=Path, metavar="FILE", help="with --show: says whether another run's agrees")
    parser.add_argument("--artefact", help="a file of config/experiments, without .yaml")
    given = parser.parse_args(arguments)
    if given.show:
        show(given.show)
        return print("\n" + "\n".join(agreement.told(given.show, given.against))) if given.against else None
    verbs.refuse_lacking(given, "study", "artefact", "results", *FILES)
    project = load(given.root, given.study, tuple(given.seeds or ()))
    table: Tabled = verbs.chosen(project, given.artefact, Tabled, "table")
    data = as_data(project, given.artefact, table, given.results, verbs.versions(given.root, project.study))
    contents = {"json": verbs.as_json(data), "markdown": rendering.markdown(data), "html": rendering.table_page(data)}
    job, inputs = of_artefact(project, given.artefact, given.root), _inputs(project, table, given.results)
    return verbs.write(given, project, job, inputs, contents, artefact=given.artefact)


def show(path: Path) -> None:
    """Print a table that was written before, the verdicts beside it, and where to find the rest."""
    data = rendering.read_table(path)
    beside = path.parent / "claims.json"
    judged = rendering.read_claims(beside) if beside.exists() else None
    figures = sorted(path.parent.glob("figure*.svg"), key=lambda file: (len(file.name), file.name))
    pages = {"report": path.parent / "report.html", "DAG": path.parent / "snakemake-report.html"}
    files = {name: [page] for name, page in pages.items() if page.is_file()}
    rendering.show(data, judged, files | {"figures": figures})


def _inputs(project: Project, table: Tabled, results: Path) -> dict[str, Path]:
    """What the table is made of; labels and the paper's numbers are in its JSON."""
    benchmarks = benchmarks_of(project.study, table)
    cells = [(arm, seed, name) for arm in table.arms for seed in project.seeds for name in benchmarks]
    scores = {f"{arm}/seed-{seed}/{name}": scores_path(results, arm, seed, name) for arm, seed, name in cells}
    if isinstance(table, Lengths):
        return scores | {Path(path).stem: results / path for path in expert_counts(project)}
    return scores | {name: _problems_path(results, name) for name in divisions(project.study, table)}


def _problems_path(results: Path, benchmark: str) -> Path:
    return results / "data" / "benchmarks" / f"{benchmark}.jsonl"


# --- cells ---------------------------------------------------------------------------------------


def as_data(project: Project, name: str, table: Tabled, results: Path, versions: Mapping[str, str]) -> dict[str, Any]:
    """The table as JSON: cells in percent or tokens, and the paper's numbers beside them.

    After the column of a benchmark come those of its categories or parts, `BENCHMARK/CATEGORY`, where the table has
    them. `versions` are those of the benchmarks as they are defined today. Raises UserError for scores of others, and
    for scores that cannot stand in one column.
    """
    study, divided = project.study, divisions(project.study, table)
    measure = "tokens" if isinstance(table, Lengths) else "right"
    columns: list[dict[str, Any]] = []
    cells: dict[str, dict[str, Any]] = {arm: {} for arm in table.arms}
    categories: dict[str, list[str]] = {}
    for benchmark in benchmarks_of(study, table):
        scored = read_alike(results, table.arms, project.seeds, benchmark, versions[benchmark])
        first = scored[table.arms[0]][0]
        whole = study.benchmarks[benchmark]
        parts: list[tuple[str, str, str | None, list[str] | None]]
        parts = [(benchmark, whole.label, table.paper.column(whole.paper_columns), None)]
        if benchmark in divided:
            by, named = divided[benchmark]
            for part, ids in reading.divided(_problems_path(results, benchmark), by).items():
                if part in named or not named:
                    label = named.get(part, part)
                    parts.append((f"{benchmark}/{part}", label, label, ids))
                    categories[part] = ids
        for column, label, beside, ids in parts:
            metric = first.metric if measure == "right" else measure
            shown = {"benchmark": column, "label": label, "metric": metric, "version": first.version}
            columns.append(shown | {"paper_column": beside})
            for arm in table.arms:
                paper = {"paper": table.paper.number(arm, beside)}
                paper |= {"not_published": table.paper.is_unpublished(arm, beside)}
                cells[arm][column] = numbers(scored[arm], measure, ids) | paper
    rows = [
        {"arm": arm, "label": project.arms[arm].label, "note": project.arms[arm].note, "cells": cells[arm]}
        for arm in table.arms
    ]
    data: dict[str, Any] = {
        "study": study.name,
        "study_title": study.title,
        "artefact": name,
        "kind": type(table).__name__.lower(),
        "title": table.title,
        "unit": "tokens" if measure == "tokens" else "percent",
        "seeds": list(project.seeds),
        "paper": {"model": table.paper.model, "claim": table.paper.claim},
        "columns": columns,
        "rows": rows,
        "not_built": table.not_built,
    }
    if divided:
        data["categories"] = categories
    if isinstance(table, Lengths):
        counts = [results / path for path in expert_counts(project)]
        data["expert"] = reading.expert_length(counts) | {"paper": table.expert}
    return data


def numbers(scored: Sequence[Scored], measure: str = "right", of: Collection[str] | None = None) -> dict[str, Any]:
    """What a cell says in numbers, out of the scores of all its seeds; `of`: of these problems alone.

    Shares `right` are in percent; lengths (`measure` "tokens") are in tokens.
    """
    values = np.stack([one.values(measure) for one in scored])  # (S, P)
    if of is not None:
        wanted = set(of)
        values = values[:, [index for index, problem in enumerate(scored[0].problems) if problem in wanted]]
    scale, most = (100, 1.0) if measure == "right" else (1, math.inf)

    def rounded(value: float) -> float:
        return round(scale * value, 6)  # the digits after are noise of the arithmetic

    estimate = two_way(values)
    return {
        "mean": rounded(estimate.mean),
        "se": rounded(estimate.se),
        "se_seeds": None if math.isnan(estimate.se_seeds) else rounded(estimate.se_seeds),
        "se_problems": rounded(estimate.se_problems),
        "interval": [rounded(min(most, max(0.0, end))) for end in estimate.interval or ()],
        "n_seeds": len(values),
        "n_problems": values.shape[1],
        "samples_per_problem": scored[0].samples,
        "by_seed": [rounded(float(value)) for value in values.mean(axis=1)],
    }


# --- answers: the first ones of each cell with their grades, few enough for a page ---------------

ANSWERS = 32  # of one seed in one cell
ANSWER_CHARACTERS, SEED_CHARACTERS = 6_000, 48_000
_ANSWER = TypeAdapter(Answer)


class Place(NamedTuple):
    """The files of one model on one benchmark."""

    scores: Path
    answers: Path
    problems: Path


def place(results: Path, arm: str, seed: int, benchmark: str) -> Place:
    """Where they lie."""
    scores = scores_path(results, arm, seed, benchmark)
    return Place(scores, scores.with_name("answers.jsonl"), _problems_path(results, benchmark))


def of_cell(results: Path, arm: str, benchmark: str, seeds: list[int], sha256: Mapping[Path, str]) -> list[Any]:
    """For each seed whose answers are there: the first of them with their grades; see `findings/web/chain.js`.

    `sha256` has the hash of each answers.jsonl as its maker recorded it.
    """
    found: list[dict[str, Any]] = []
    for seed in seeds:
        here = place(results, arm, seed, benchmark)
        if here.answers.is_file() and here.scores.is_file():
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
    """The problems in the file's order, each with its answers: sample, grade, tokens, end, text, what is cut off.

    No more of the file is read than is shown.
    """
    found: dict[str, list[Any]] = {}
    room = SEED_CHARACTERS
    with here.answers.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                answer = _ANSWER.validate_json(line)
            except ValidationError:
                said = "found something else than a record, expected one a line; make the file again with snakemake"
                raise UserError(f"{here.answers}, line {number}: {said}") from None
            text = answer.text[:ANSWER_CHARACTERS]
            room -= len(text)
            if number > 1 and (room < 0 or number > ANSWERS):
                break
            outcomes = grades.get(answer.problem, [])
            if answer.sample >= len(outcomes):
                unknown = f"found sample {answer.sample} of {answer.problem}, for which {here.scores.name} has no grade"
                expected = "expected answers and their own grades; score again"
                raise UserError(f"{here.answers}, line {number}: {unknown}, {expected}")
            told = [answer.sample, outcomes[answer.sample], answer.response_tokens, answer.finish, text]
            found.setdefault(answer.problem, []).append([*told, len(answer.text) - len(text)])
    return [[problem, samples] for problem, samples in found.items()]


def problems(results: Path, benchmark: str, wanted: set[str]) -> dict[str, tuple[str, str]]:
    """Prompt and right answer of these problems, as far as the benchmark's file is there."""
    path = _problems_path(results, benchmark)
    known = read_lines(path, Problem) if path.is_file() else []
    return {one.id: (one.prompt[:ANSWER_CHARACTERS], one.answer) for one in known if one.id in wanted}
