"""The first answers of each cell with their grades, few enough for a page. Reads no more of a file than it shows."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from chord.findings.reading import read_json
from chord.findings.table import scores_path
from chord.provenance.files import UserError
from chord.records import Answer, Problem

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
