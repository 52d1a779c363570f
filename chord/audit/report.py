"""The page of a study, to send to a colleague: tables, claims, figures, what was run, what is ours, what is missing.

One file that needs nothing from outside and opens offline. Behind each number stand its chain, as `chord audit` would
answer it when the page is made, and the first answers of the models with their grades. Equal results give equal bytes.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chord.audit import chain, inquiry, page
from chord.audit.lineage import Job
from chord.audit.page import Shown, document
from chord.config.project import Project, load, ours
from chord.errors import UserError
from chord.findings import reading, rendering, table
from chord.findings.reading import read_json
from chord.provenance.cli import Number
from chord.provenance.files import write_atomically
from chord.provenance.freshness import Hasher
from chord.provenance.manifest import Manifest
from chord.steps import files_with_ours, of_page

HASHED_BYTES = 1 << 30  # ours: larger files and models are not read for a page; `chord audit` reads them
REMEDY = "build it with snakemake"


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page of the study named on the command line."""
    given = _parser().parse_args(arguments)
    chosen = {"artefacts": given.artefacts} if given.artefacts else {}
    project = load(given.root, given.study, tuple(given.seeds or ()), chosen)
    shown, makers = read(given.root, project, given.results)
    with Manifest.recording(
        given.manifest or given.html.with_suffix(".manifest.json"),
        of_page(project, given.root),
        inputs=_inputs(shown, makers, given.results),
        outputs={given.html.name: given.html},
        extra={"study": project.study.name, "training_seeds": list(project.seeds)},
    ):
        write_atomically(given.html, document(shown))


def read(root: Path, project: Project, results: Path) -> tuple[Shown, list[Job]]:
    """All that the page shows, and the jobs behind it that left a manifest."""
    artefacts = {name: _artefact(results / f"{name}.json") for name in project.choice.artefacts}
    drawings = {name: _drawing(results / f"{name}.svg") for name, data in artefacts.items() if "rows" not in data}
    claims = rendering.read_claims(results / "claims.json") if (results / "claims.json").exists() else None
    trainings = _trainings(project, results)
    judged = inquiry.project_of(results.absolute()) is not None
    names = [f"{name}.json" for name in artefacts] + (["claims.json"] if claims else [])
    question, large = inquiry.about(results, project if judged else None, names, HASHED_BYTES)
    proof = inquiry.answered(question, Hasher(question.lineage.study))
    lineage = question.lineage
    makers = {job.path: job for path in (*question.files, *large) if (job := lineage.makers.get(path))}
    recorded = {path: job.outputs[path].sha256 for path, job in lineage.makers.items()}
    shown = Shown(
        project=project,
        artefacts=artefacts,
        drawings=drawings,
        claims=claims,
        trainings=trainings,
        jobs=[job.manifest for job in makers.values()],
        chain=chain.links_data(proof, large, judged),
        answers=_answers(artefacts, results, recorded),
        ours=ours(root / "config", files_with_ours(project)),
        not_run=list(page.not_run(root, project)),
    )
    return shown, list(makers.values())


def _artefact(path: Path) -> dict[str, Any]:
    """A table (rows and columns), a figure (panels), or a drawing without data."""
    what = "a table or figure that chord tabulate or chord plot wrote"
    data = read_json(path, what, REMEDY)
    needed = {"artefact", "title", "seeds", "paper", "columns" if "rows" in data else "panels"}
    if lacking := needed - data.keys():
        raise UserError(f"{path}: found no {', '.join(sorted(lacking))}, expected {what}; {REMEDY}")
    return data


def _drawing(path: Path) -> str:
    try:
        svg = path.read_text(encoding="utf-8")
    except (FileNotFoundError, UnicodeDecodeError):
        raise UserError(f"{path}: found no drawing, expected the SVG of {path.stem}; {REMEDY}") from None
    if "<svg" not in svg or "</svg>" not in svg:
        found = f"{len(svg)} characters that are no whole SVG"
        raise UserError(f"{path}: found {found}, expected that of {path.stem}; {REMEDY}")
    return svg


def _trainings(project: Project, results: Path) -> dict[str, list[reading.Training]]:
    """By arm, every training run that the chosen artefacts stand on; the study's own base model first."""
    found = {}
    if project.study.base_corpus:
        found["base model"] = [reading.read_training("base model", results / "models" / "base")]
    for name in page.used_arms(project):
        if project.arms[name].recipe:
            folders = [results / "runs" / name / f"seed-{seed}" for seed in project.seeds]
            found[project.arms[name].label] = [reading.read_training(name, folder) for folder in folders]
    return found


def _answers(artefacts: dict[str, Any], results: Path, recorded: dict[Path, str]) -> dict[str, Any]:
    """The first answers of every cell, and prompts and right answers of the problems that they answer."""
    cells: dict[str, Any] = {}
    wanted: dict[str, set[str]] = {}
    for data in artefacts.values():
        for row in data.get("rows", ()):
            for benchmark in row["cells"]:
                if found := table.of_cell(results, row["arm"], benchmark, data["seeds"], recorded):
                    cells[f"{row['arm']}/{benchmark}"] = found
                    wanted.setdefault(benchmark, set()).update(one[0] for seed in found for one in seed["problems"])
    prompts = {benchmark: table.problems(results, benchmark, ids) for benchmark, ids in wanted.items()}
    return {"cells": cells, "problems": prompts}


def _inputs(shown: Shown, makers: Sequence[Job], results: Path) -> dict[str, Path]:
    """The files that the page is made of and that exist, by their places in the study."""
    files = [results / f"{name}.json" for name in shown.artefacts]
    files += [results / f"{name}.svg" for name in shown.drawings]
    files += [results / "claims.json"] if shown.claims else []
    for runs in shown.trainings.values():
        files += [one.folder / name for one in runs for name in ("train.manifest.json", "timing.jsonl")]
    for cell, seeds in shown.answers["cells"].items():
        arm, _, benchmark = cell.partition("/")
        files += [path for one in seeds for path in table.place(results, arm, one["seed"], benchmark)]
    study = results.absolute()
    files += [results / job.path.relative_to(study) for job in makers if job.path.is_relative_to(study)]
    return {path.relative_to(results).as_posix(): path for path in sorted(set(files)) if path.is_file()}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="chord report", description=__doc__)
    parser.add_argument("--study", required=True)
    parser.add_argument(
        "--results", required=True, type=Path, help="the study's folder: the one that holds table1.json"
    )
    parser.add_argument("--seeds", action=Number, least=0, nargs="+", help="training seeds (default: those of config/)")
    parser.add_argument("--root", default=Path("."), type=Path, help="the folder that holds config/ (default: here)")
    parser.add_argument("--artefacts", nargs="+", help="tables and figures (default: those of config/config.yaml)")
    parser.add_argument("--html", required=True, type=Path)
    parser.add_argument("--manifest", type=Path, help="default: beside --html, ending in .manifest.json")
    return parser
