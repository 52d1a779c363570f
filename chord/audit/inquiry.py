"""A question about a study and its answer: every link behind some files, hashed and judged."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chord.config.paper import Figure, Panel, Paper, Scheme
from chord.config.project import Project, load, nearest
from chord.errors import UserError, expected
from chord.findings import claims, figures, table
from chord.findings.reading import read_json, read_scores, scores_path
from chord.provenance.changes import Change, Today, Told, differences
from chord.provenance.check import Check, Finding, Status
from chord.provenance.digest import PROJECT, job_code
from chord.provenance.files import size_bytes
from chord.provenance.ledger import LEDGER, read_attempts
from chord.provenance.lineage import Hasher, Job, Lineage, Now, read_lineage, study_of
from chord.provenance.manifest import ENDING, Manifest
from chord.steps import Dag

# Folders and files beside results: what trainings save on the way, logs, the ledger, and what `chord export` adds.
BESIDE = ("logs", "provenance", "state", "ranks", "crate")
CRATE = ("ro-crate-metadata.json", "README.md")
NO_RESULTS = (".log", "run.json")


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
    """A file that a number depends on, with its worst status; `maker` is the job that made it, if any."""

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


def answered(
    question: Question, hasher: Hasher, ask: Callable[[], Mapping[str, Told] | UserError | None] = lambda: None
) -> Proof:
    """Every link behind the targets, judged; for the whole study also what no target stands on.

    `ask` gives what the rules of the project say to each job, or why that is not known. It is asked when all is read,
    and all numbers and digests are found.
    """
    lineage, project = question.lineage, question.project
    scope = {*question.files, *lineage.jobs, *lineage.unreadable}
    check = Check(lineage, hasher, None, read_attempts(lineage.study / LEDGER), scope)
    numbers = {
        path: [*recomputed(check, project, path, question.cell)] for path in question.files if check.is_whole(path)
    }
    told = None
    if project:
        dag, root = Dag(project, lineage.project), lineage.project if (lineage.project / "chord").is_dir() else PROJECT
        for key in map(lineage.place, lineage.jobs):
            if spec := dag.specs.get(key):
                with suppress(UserError):  # told of the job
                    job_code(spec.verb, spec.uses, root)
        told = ask()
        check.today = Today(dag.specs, dag.run_texts, told if isinstance(told, Mapping) else {}, root)
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
        of_file = [*check.file(path)] or numbers.get(path, [])
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


# The packages that decide what a verb writes.
PACKAGES = {
    "chord prepare": ("reasoning-gym", "datasets"),
    "chord demonstrate": ("math-verify",),
    "chord ask-expert": ("vllm", "math-verify"),
    "chord train": ("torch", "transformers"),
    "chord generate": ("torch", "transformers", "lm-eval"),
    "chord score": ("lm-eval", "math-verify"),
    "chord tabulate": ("numpy",),
    "chord plot": ("numpy", "matplotlib"),
}


def versions(manifest: Manifest) -> str:
    """Python, and the packages that decide what the verb writes."""
    packages = manifest.installed.packages
    named = [f"{name} {packages[name]}" for name in PACKAGES.get(manifest.verb, ()) if name in packages]
    return ", ".join([f"Python {manifest.installed.python}", *named])


# --- numbers made again --------------------------------------------------------------------------

SHOWN = 3
SAID = "number"


def score_differences(path: Path) -> list[Change]:
    """What in a scores.json does not follow from its outcomes. Raises UserError where they contradict its mean."""
    raw = read_json(path, "scores that chord score wrote", "score again")
    scored = read_scores(path, str(raw.get("benchmark")))
    counts = Counter(outcome for row in raw["problems"] for outcome in row["outcomes"])
    again = {
        "n_problems": len(scored.problems),
        "samples_per_problem": scored.samples,
        "pass_at_k": sum(1 for share in scored.right if share > 0) / len(scored.problems),
        "outcomes": {name: counts[name] for name in raw.get("outcomes", {})},
    }
    return differences(SAID, {name: raw.get(name) for name in again}, again)


def table_differences(path: Path, study: Path, cell: tuple[str, str] | None = None) -> list[Change]:
    """What in a table, or in one cell of it, does not follow from its scores."""
    data = read_json(path, "a table that chord tabulate wrote", "tabulate again")
    cells = {(row["arm"], benchmark): found for row in data["rows"] for benchmark, found in row["cells"].items()}
    wanted = [cell] if cell else list(cells)
    found: list[Change] = []
    for arm, benchmark in wanted:
        again = cell_again(study, arm, benchmark, data)
        stands = {name: cells[arm, benchmark].get(name) for name in again}
        found += differences(SAID, stands, again, f"{arm}/{benchmark}")
    return found


def cell_again(study: Path, arm: str, column: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """Mean, standard error and n of one cell out of its scores, as `chord tabulate` makes them for the table `data`."""
    benchmark, _, category = column.partition("/")
    scored = [read_scores(scores_path(study, arm, seed, benchmark), benchmark) for seed in data["seeds"]]
    of = data["categories"][category] if category else None
    return table.numbers(scored, "tokens" if data["unit"] == "tokens" else "right", of)


def claims_differences(path: Path, study: Path, project: Project) -> list[Change] | None:
    """What in the verdicts does not follow from results by the rules of config/; None if its artefacts are gone."""
    data = read_json(path, "verdicts that chord judge wrote", "judge again")
    if not set(data["artefacts"]) <= project.artefacts.keys():
        return None
    chosen = {"seeds": tuple(data["seeds"]), "artefacts": tuple(data["artefacts"])}
    same = project.model_copy(update={"choice": project.choice.model_copy(update=chosen)})
    return differences(SAID, _by_id(data["claims"]), _by_id(claims.as_data(same, study)["claims"]))


def figure_differences(path: Path, study: Path, project: Project) -> list[Change] | None:
    """What in a figure does not follow from its metrics; None where config/ no longer has its arms."""
    data = read_json(path, "a figure that chord plot wrote", "plot again")
    if isinstance(drawn := project.artefacts.get(data["artefact"]), Scheme):
        return differences(SAID, data["rollouts"], figures.scheme_data(project, data["artefact"], drawn)["rollouts"])
    arms = [curve["arm"] for panel in data["panels"] for curve in panel["curves"]]
    arms += [arm for panel in data["panels"] for arm in panel["arms_without_values"]]
    if not set(arms) <= project.arms.keys():
        return None
    panels = tuple(
        Panel(metric=panel["metric"], label="", smooth_steps=panel["smoothing"]["points"]) for panel in data["panels"]
    )
    x: Any = next(name for name, key in figures.X_KEYS.items() if key == data["x"]["key"])
    kept = tuple(dict.fromkeys(arms))
    figure = Figure(kind="figure", title="", arms=kept, x=x, panels=panels, paper=Paper(model=""))
    same = _with_seeds(project, data["seeds"])
    made = figures.as_data(same, data["artefact"], figure, study)
    return differences(SAID, _points(data), _points(made))


def told(found: list[Change]) -> str:
    """The first few differences as a sentence: what stands there, and what the inputs give."""
    parts = [f"{one.where} is {one.old}, its inputs give {one.new}" for one in found[:SHOWN]]
    return "; ".join(parts) + (f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else "")


def complaint(check: Callable[[], list[Change] | None]) -> str | None:
    """What a check has to say: differences, or why it could not be made; None where all follows."""
    try:
        found = check()
    except UserError as error:
        return str(error)
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration) as error:
        return f"found something else than its verb writes ({type(error).__name__}: {error})"
    return told(found) if found else None


def _by_id(found: list[dict[str, Any]]) -> dict[str, Any]:
    kept = ("verdict", "difference", "se", "interval", "smallest", "in_smallest", "p", "p_corrected", "seeds_needed")
    return {claim["id"]: {name: claim[name] for name in kept} for claim in found}


def _points(data: Mapping[str, Any]) -> dict[str, Any]:
    """The curves of a figure by metric and arm."""
    kept = ("x", "mean", "low", "high", "by_seed")
    return {
        panel["metric"]: {curve["arm"]: {name: curve[name] for name in kept} for curve in panel["curves"]}
        for panel in data["panels"]
    }


def _with_seeds(project: Project, seeds: list[int]) -> Project:
    return project.model_copy(update={"choice": project.choice.model_copy(update={"seeds": tuple(seeds)})})


def recomputed(check: Check, project: Project | None, path: Path, cell: tuple[str, str] | None) -> Iterator[Finding]:
    """What the numbers in a file say that its inputs do not give; asked only where these are what its maker read."""
    maker, study = check.lineage.makers.get(path), check.lineage.study
    if maker is None or path.suffix != ".json" or check.changed_inputs(maker):
        return
    verb, shown = maker.manifest.verb, check.lineage.shown(path)
    needs_project = {"chord plot": "drawn", "chord judge": "judged"}
    if project is None and verb in needs_project:
        found = f"not {needs_project[verb]} again: there is no config/ beside results/"
        yield Finding(Status.NOT_JUDGED, shown, found, "copy config/ too")
        return
    checks: dict[str, Callable[[], list[Change] | None]] = {
        "chord score": lambda: score_differences(path),
        "chord tabulate": lambda: table_differences(path, study, cell),
        "chord plot": lambda: figure_differences(path, study, project) if project else None,
        "chord judge": lambda: claims_differences(path, study, project) if project else None,
    }
    if verb in checks and (reason := complaint(checks[verb])):
        yield Finding(Status.ALTERED, shown, reason, f"snakemake --cores 2 --force {shown}")
