"""A question about a study and its answer: every link behind some files, hashed and judged."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from chord.audit.numbers import recomputed
from chord.config.project import Project, load, nearest
from chord.config.reading import expected
from chord.errors import UserError
from chord.findings.reading import read_json
from chord.provenance.changes import Today, Told
from chord.provenance.check import Check, Finding, Status
from chord.provenance.digest import PROJECT
from chord.provenance.files import size_bytes
from chord.provenance.ledger import LEDGER, read_attempts
from chord.provenance.lineage import Hasher, Job, Lineage, Now, read_lineage, study_of
from chord.provenance.manifest import ENDING
from chord.steps import Dag

# Folders and files beside results: what trainings save on the way, logs, the ledger, and what `chord export` adds.
BESIDE = ("logs", "provenance", "state", "ranks", "crate")
CRATE = ("ro-crate-metadata.json", "README.md")
NO_RESULTS = (".log", ".benchmark.tsv", "run.json")


@dataclass(frozen=True)
class Question:
    """What is asked about: `targets`, and all `files` behind them, causes first; `whole`: the study.

    `cell`: arm and benchmark of one number of a table.
    """

    lineage: Lineage
    project: Project | None
    targets: tuple[Path, ...]
    files: tuple[Path, ...]
    whole: bool = False
    cell: tuple[str, str] | None = None


@dataclass(frozen=True)
class Link:
    """A file that a number stands on, and the worst that is said of it; `maker` where a job made it."""

    path: Path
    kind: str
    now: Now
    status: Status
    maker: Job | None


@dataclass(frozen=True)
class Proof:
    """All links, causes first, and all findings, in the same order."""

    check: Check
    links: tuple[Link, ...]
    findings: tuple[Finding, ...]

    @property
    def lineage(self) -> Lineage:
        """The jobs of the study."""
        return self.check.lineage


# --- the question --------------------------------------------------------------------------------


def asked(target: Path | None, cell: str | None, root: Path) -> Question:
    """What the command line asks. Raises UserError for what no manifest describes."""
    place = Path(os.path.abspath(target or root / "results" / load(root).study.name))
    study = study_of(place)
    if not os.path.lexists(study):
        what = "expected the results of a study"
        raise UserError(f"{study}: found no such folder, {what}; build them: snakemake --cores 2{nearest(study)}")
    lineage, project = read_lineage(study), project_of(study)
    if cell:
        return _cell_question(lineage, project, place, cell)
    if place != study:
        targets = _described_by(lineage, place)
        return Question(lineage, project, tuple(targets), tuple(lineage.behind(targets)))
    ends = [*(f"{name}.json" for name in project.choice.artefacts), "claims.json", "report.html"] if project else []
    targets = [*lineage.makers, *(study / name for name in ends)]  # there or not
    return Question(lineage, project, tuple(targets), tuple(lineage.behind(targets)), whole=True)


def project_of(study: Path) -> Project | None:
    """All of config/ beside the results; None where only the results were copied."""
    root = study.parent.parent
    return load(root, study.name) if (root / "config" / "studies" / f"{study.name}.yaml").is_file() else None


def _described_by(lineage: Lineage, place: Path) -> list[Path]:
    """The files to ask about for a file, a manifest, or a folder with manifests in it."""
    if place in lineage.makers:
        return [place, *(path for path in lineage.makers[place].outputs if path != place)]
    if place in lineage.jobs:
        return list(lineage.jobs[place].outputs)
    if place in lineage.readings:
        return [place]
    if within := [path for path in lineage.makers if path.is_relative_to(place)]:
        return within
    shown = lineage.shown(place)
    if os.path.lexists(place):
        raise UserError(f"{shown}: found nothing that a manifest describes, expected a result: a table, a model, a run")
    hint = nearest(place)
    raise UserError(f"{shown}: found nothing there, expected a result; build it: snakemake --cores 2{hint}")


def _cell_question(lineage: Lineage, project: Project | None, place: Path, cell: str) -> Question:
    """The question about one number of a table, which stands on the scores of its cell alone."""
    maker = lineage.makers.get(place)
    if maker is None or maker.manifest.verb != "chord tabulate":
        what = "expected a table, such as results/demo/table1.json"
        hint = "" if place.exists() else nearest(place)
        raise UserError(f"{lineage.shown(place)}: found no manifest of a table that made it, {what}{hint}")
    cells: dict[str, list[Path]] = {}
    for path in maker.inputs:
        if (parts := path.parts)[-1] == "scores.json":
            cells.setdefault(f"{parts[-5]}/{parts[-2]}", []).append(path)
    scored = "/".join(cell.split("/")[:2])  # a third part is a category of the benchmark's problems
    known = {*cells}
    if scored != cell:
        data = read_json(place, "a table that chord tabulate wrote", "tabulate again")
        known |= {f"{row['arm']}/{column}" for row in data.get("rows", ()) for column in row["cells"]}
    if scored not in cells or cell not in known:
        raise UserError(f"--cell: '{cell}' is no arm and benchmark of the table, {expected(cell, sorted(known))}")
    targets = (place, *(path for path in maker.outputs if path != place))
    arm, _, benchmark = cell.partition("/")
    return Question(lineage, project, targets, (*lineage.behind(cells[scored]), *targets), cell=(arm, benchmark))


def about(
    results: Path, project: Project | None, names: Sequence[str], largest_bytes: int
) -> tuple[Question, dict[Path, int]]:
    """The question about these files of a study, as far as a manifest made them, and which files are too large to read.

    For a file or folder of more than `largest_bytes`, the manifest of its maker is asked about instead.
    """
    lineage = read_lineage(results)
    targets = tuple(path for name in names if (path := lineage.study / name) in lineage.makers)
    files = lineage.behind(targets)
    sizes = {path: size_bytes(path) for path in files if path in lineage.makers and path.exists()}
    large = {path: size for path, size in sizes.items() if size > largest_bytes}
    asked_about = dict.fromkeys(lineage.makers[path].path if path in large else path for path in files)
    return Question(lineage, project, targets, tuple(asked_about)), large


# --- the answer ----------------------------------------------------------------------------------


def answered(question: Question, hasher: Hasher, told: Mapping[str, Told] | UserError | None = None) -> Proof:
    """Every link behind the targets, judged; for the whole study also what no target stands on.

    `told`: what the rules of the project say to each job, or why that is not known.
    """
    lineage, project = question.lineage, question.project
    today = None
    if project:
        dag, root = Dag(project, lineage.project), lineage.project if (lineage.project / "chord").is_dir() else PROJECT
        today = Today(dag.specs, dag.run_texts, told if isinstance(told, Mapping) else {}, root)
    scope = {*question.files, *lineage.jobs, *lineage.unreadable}
    check = Check(lineage, hasher, today, read_attempts(lineage.study / LEDGER), scope)
    findings = [*check.ledger()]
    judged: dict[Path, list[Finding]] = {}
    links: list[Link] = []

    def judge(job: Job | None) -> list[Finding]:
        """What is wrong with the job, the first time that it is asked about."""
        if job is None or job.path in judged:
            return []
        return judged.setdefault(job.path, list(check.job(job)))

    for path in question.files:
        maker = lineage.makers.get(path)
        supposed = None if maker or not path.is_relative_to(lineage.study) else check.supposed_manifest(path)
        findings += judge(maker or lineage.jobs.get(path) or lineage.jobs.get(supposed or path))
        of_file = [*check.file(path)] or [*recomputed(check, project, path, question.cell)]
        findings += of_file
        said = [finding.status for finding in (*of_file, *(judged[maker.path] if maker else ()))]
        worst = next((status for status in said if status.is_bad), next(iter(said), Status.VERIFIED))
        links.append(Link(path, kind_of(path), check.now(path), worst, maker))
    if question.whole:
        findings += [finding for job in lineage.jobs.values() for finding in judge(job)]
        findings += [*check.unreadable(), *check.strangers(_strangers(question))]
    if isinstance(told, UserError):
        found = f"whether the rules would give each job the same command was not compared: {told}"
        remedy = "copy the whole project, and install what envs/ pins"
        findings.append(Finding(Status.NOT_JUDGED, "workflow/", found, remedy))
    return Proof(check, tuple(links), tuple(findings))


def _strangers(question: Question) -> dict[Path, str]:
    """Files among the results that no finished job made, each with what is found.

    Logs, measured times, recipes, what jobs keep on the way or do ahead, and what `chord export` adds are no results.
    """
    lineage = question.lineage
    known = {*lineage.makers, *lineage.jobs, *lineage.unreadable, *lineage.readings, *question.files}
    found: dict[Path, str] = {}
    for inside, folders, names in os.walk(lineage.study):
        here = Path(inside)
        folders[:] = sorted(name for name in folders if here / name not in known and name not in BESIDE)
        for path in (here / name for name in sorted(names)):
            is_beside = path.name.startswith(".") or path.name.endswith(NO_RESULTS) or ".ahead." in path.name
            if path not in known and not is_beside and not (here == lineage.study and path.name in CRATE):
                found[path] = f"found a file that no finished job made, expected none{_taken_for(question, path)}"
    return found


def _taken_for(question: Question, path: Path) -> str:
    """What a reader could take a file for by its name."""
    project, name = question.project, path.stem
    if path.parent != question.lineage.study or project is None:
        return ""
    if path.name == "snakemake-report.html":
        return "; Snakemake writes its own page under this name, and nothing records what it wrote"
    if name in ("claims", "report"):
        return f"; it has the name of the {name} that this study builds"
    if name in project.artefacts:
        does = "does not build" if project.why_not(name) else "builds"
        return f"; it has the name of {name}, which this study {does}"
    return ""


KINDS = {
    "run.json": "recipes (run.json)",
    "model": "models",
    "candidates": "models validated on the way",
    "metrics.jsonl": "metrics",
    "timing.jsonl": "timings",
    "tensorboard": "TensorBoard events",
    "validation.jsonl": "validation answers",
    "validation.json": "validation scores",
    "chosen.json": "choices",
    "answers.jsonl": "answers",
    "scores.json": "scores",
}
KINDS_OF_DATA = {"traces": "expert traces", "problems": "problems", "benchmarks": "benchmark problems"}


def kind_of(path: Path) -> str:
    """What a file is, in a word of the paper or of the workflow, for counting."""
    if path.name.endswith(ENDING):
        return "manifests"
    if path.name in KINDS:
        return KINDS[path.name]
    if path.parent.name in KINDS_OF_DATA and path.parent.parent.name == "data":
        return KINDS_OF_DATA[path.parent.name] if path.suffix == ".jsonl" else "counts of data"
    if path.parent.parent.name == "results":
        return "tables, figures, page"
    return "settings" if re.search(r"\.ya?ml$", path.name) else "other"
