"""A table of the paper from the scores of its runs, as JSON, Markdown and HTML; or, with --show, in the terminal."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chord.config.paper import Lengths, Tabled, benchmarks_of, divisions
from chord.config.project import Project, load
from chord.config.reading import expected
from chord.errors import UserError
from chord.evaluation.benchmarks import read_benchmark
from chord.findings import reading, rendering, table
from chord.provenance.cli import Number
from chord.provenance.files import write_atomically
from chord.provenance.manifest import Manifest
from chord.steps import of_artefact


def main(arguments: Sequence[str] | None = None) -> None:
    """Write or show the table named on the command line."""
    given = _parser().parse_args(arguments)
    if given.show:
        return show(given.show)
    lacking = [
        name for name in ("study", "artefact", "results", "json", "markdown", "html") if not getattr(given, name)
    ]
    if lacking:
        raise UserError(f"command line: found no --{', --'.join(lacking)}, expected all of them, or --show FILE alone")
    project = load(given.root, given.study, tuple(given.seeds or ()))
    artefact = project.artefacts.get(given.artefact)
    if not isinstance(artefact, Tabled):
        known = [name for name, other in project.artefacts.items() if isinstance(other, Tabled)]
        raise UserError(f"--artefact: '{given.artefact}' is no table, {expected(given.artefact, known)}")
    if reason := project.why_not(given.artefact):
        raise UserError(f"{given.artefact} is not built in study {project.study.name}: {reason}")
    data = tabulated(given.root, project, given.artefact, artefact, given.results)
    outputs = {
        given.json: json.dumps(data, ensure_ascii=False, sort_keys=True, indent=1) + "\n",
        given.markdown: rendering.markdown(data),
        given.html: rendering.table_page(data),
    }
    manifest = given.manifest or given.json.with_suffix(".manifest.json")
    with Manifest.recording(
        manifest,
        of_artefact(project, given.artefact, given.root),
        inputs=_inputs(project, artefact, given.results),
        outputs={path.name: path for path in outputs},
        extra={"study": project.study.name, "artefact": given.artefact, "training_seeds": list(project.seeds)},
    ):
        for path, text in outputs.items():
            write_atomically(path, text)
    return None


def tabulated(root: Path, project: Project, name: str, artefact: Tabled, results: Path) -> dict[str, Any]:
    """The table as JSON: cells and the paper's numbers."""
    study = project.study
    versions = {key: str(read_benchmark(root, study, key).version) for key in benchmarks_of(study, artefact)}
    divided: dict[str, dict[str, list[str]]] = {}
    for key, (by, columns) in divisions(study, artefact).items():
        found = reading.divided(_problems(results, key), by)
        divided[key] = {part: ids for part, ids in found.items() if not columns or part in columns}
    grid = table.gather(project, artefact, results, versions, divided)
    data = table.as_data(project, name, artefact, grid)
    data |= {"categories": {part: ids for parts in divided.values() for part, ids in parts.items()}} if divided else {}
    if isinstance(artefact, Lengths):
        data["expert"] = reading.expert_length(_expert_counts(results)) | {"paper": artefact.expert}
    return data


def show(path: Path) -> None:
    """Print a table that was written before, the verdicts beside it, and where to find the rest."""
    data = rendering.read_table(path)
    beside = path.parent / "claims.json"
    judged = rendering.read_claims(beside) if beside.exists() else None
    files = {"report": [path.parent / "report.html"], "DAG": [path.parent / "snakemake-report.html"]}
    files["figures"] = sorted(path.parent.glob("figure*.svg"), key=lambda file: (len(file.name), file.name))
    rendering.show(data, judged, {name: [file for file in those if file.is_file()] for name, those in files.items()})


def _inputs(project: Project, artefact: Tabled, results: Path) -> dict[str, Path]:
    """What the table is made of; labels and the paper's numbers are in its JSON."""
    keys = benchmarks_of(project.study, artefact)
    scores = {
        f"{arm}/seed-{seed}/{key}": table.scores_path(results, arm, seed, key)
        for arm in artefact.arms
        for seed in project.seeds
        for key in keys
    }
    if isinstance(artefact, Lengths):
        return scores | {"expert": _expert_counts(results)}
    return scores | {key: _problems(results, key) for key in divisions(project.study, artefact)}


def _problems(results: Path, benchmark: str) -> Path:
    """Where the problems of a benchmark stand."""
    return results / "data" / "benchmarks" / f"{benchmark}.jsonl"


def _expert_counts(results: Path) -> Path:
    """Where the lengths of the expert's traces stand."""
    return results / "data" / "traces" / "expert.json"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="chord tabulate", description=__doc__)
    parser.add_argument("--show", type=Path, metavar="FILE", help="print a table's JSON neatly, and write nothing")
    parser.add_argument("--study")
    parser.add_argument("--artefact", help="a file of config/experiments, without .yaml")
    parser.add_argument("--results", type=Path, help="the study's folder: the one that holds runs/")
    parser.add_argument("--seeds", action=Number, least=0, nargs="+", help="training seeds (default: those of config/)")
    parser.add_argument("--root", default=Path("."), type=Path, help="the folder that holds config/ (default: here)")
    for name in ("json", "markdown", "html"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--manifest", type=Path, help="default: beside --json, ending in .manifest.json")
    return parser
