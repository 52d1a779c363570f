"""What is asked of a study, and its answer: every link behind some files, hashed now and judged. Prints nothing.

`chord audit` asks for a person, `chord report` for the page.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from chord.audit.lineage import (
    LEDGER,
    Evidence,
    Finding,
    Job,
    Lineage,
    Proof,
    Status,
    gathered,
    proved,
    read_lineage,
    study_of,
)
from chord.config.load import load
from chord.config.paper import Figure, Panel, Paper, Scheme
from chord.config.project import Project, nearest
from chord.config.reading import expected
from chord.errors import UserError
from chord.findings import claims, figures, table
from chord.findings.reading import read_json, read_scores, scores_path
from chord.provenance import commands
from chord.provenance.digest import PROJECT
from chord.provenance.files import size_bytes
from chord.provenance.freshness import Change, Hasher, changes, differences
from chord.provenance.ledger import read_attempts
from chord.steps import Dag

# --- recomputed ----------------------------------------------------------------------------------

# The numbers of scores, tables and figures made again from what they were made of, by the functions that made them.

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
    kept = ("verdict", "difference", "se", "interval", "margin", "p", "p_corrected", "seeds_needed")
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


# --- inquiry -------------------------------------------------------------------------------------

# What is asked of a study, and its answer: every link behind some files, hashed now and judged. Prints nothing.
#
# `chord audit` asks for a person, `chord report` for the page.

# Folders and files beside results: what trainings save on the way, logs, the ledger, and what `chord export` adds.
BESIDE = ("logs", "provenance", "state", "ranks", "crate")
CRATE = ("ro-crate-metadata.json", "README.md")
NO_RESULTS = (".log", ".benchmark.tsv", "run.json")


@dataclass(frozen=True)
class Question:
    """What is asked about: `targets`, and all `files` behind them, what came first first.

    `told`: what the rules tell each job, by its manifest below the study; `untold`: why that is not known.
    """

    lineage: Lineage
    project: Project | None
    targets: tuple[Path, ...]
    files: tuple[Path, ...]
    whole: bool = False
    cell: tuple[str, str] | None = None
    told: Mapping[str, commands.Told] = field(default_factory=dict)
    untold: str | None = None


# --- the question ------------------------------------------------------------------------------


def asked(target: Path | None, cell: str | None, root: Path) -> Question:
    """What the command line asks. Raises UserError for what no manifest describes."""
    place = Path(os.path.abspath(target or root / "results" / load(root).study.name))
    study = study_of(place)
    if not os.path.lexists(study):
        what = "expected the results of a study"
        raise UserError(f"{study}: found no such folder, {what}; build them: snakemake --cores 2{nearest(study)}")
    lineage = read_lineage(study)
    project = project_of(study)
    if cell:
        return _cell_question(lineage, project, place, cell)
    whole = place == study
    targets = [*lineage.makers, *_expected(lineage, project)] if whole else _described_by(lineage, place)
    return Question(lineage, project, tuple(targets), tuple(lineage.behind(targets)), whole)


def project_of(study: Path) -> Project | None:
    """All of config/ beside the results; None where only the results were copied."""
    root = study.parent.parent
    is_there = (root / "config" / "studies" / f"{study.name}.yaml").is_file()
    return load(root, study.name) if is_there else None


def _expected(lineage: Lineage, project: Project | None) -> Iterator[Path]:
    """What the study should have at the end of its chains, there or not."""
    for name in project.choice.artefacts if project else ():
        yield lineage.study / f"{name}.json"
    if project:
        yield lineage.study / "claims.json"
        yield lineage.study / "report.html"


def _described_by(lineage: Lineage, place: Path) -> list[Path]:
    """The files to ask about for a file, a manifest, or a folder with manifests in it."""
    shown = lineage.shown(place)
    if place in lineage.makers:
        return [place, *(path for path in lineage.makers[place].outputs if path != place)]
    if place in lineage.jobs:
        return list(lineage.jobs[place].outputs)
    if place in lineage.readings:
        return [place]
    within = [path for path in lineage.makers if path.is_relative_to(place)]
    if not within and os.path.lexists(place):
        raise UserError(f"{shown}: found nothing that a manifest describes, expected a result: a table, a model, a run")
    if not within:
        hint = nearest(place)
        raise UserError(f"{shown}: found nothing there, expected a result; build it: snakemake --cores 2{hint}")
    return within


def _cell_question(lineage: Lineage, project: Project | None, place: Path, cell: str) -> Question:
    """The question about one number of a table: only the scores of that cell are in the way."""
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
    known = {*cells} if scored == cell else {*cells, *_shown_cells(place)}
    if scored not in cells or cell not in known:
        raise UserError(f"--cell: '{cell}' is no arm and benchmark of the table, {expected(cell, sorted(known))}")
    targets = (place, *(path for path in maker.outputs if path != place))
    arm, _, benchmark = cell.partition("/")
    return Question(lineage, project, targets, (*lineage.behind(cells[scored]), *targets), cell=(arm, benchmark))


def _shown_cells(table: Path) -> list[str]:
    """The cells that a table has, ARM/BENCHMARK or ARM/BENCHMARK/CATEGORY."""
    data = read_json(table, "a table that chord tabulate wrote", "tabulate again")
    return [f"{row['arm']}/{column}" for row in data.get("rows", ()) for column in row["cells"]]


def about(
    results: Path, project: Project | None, names: Sequence[str], largest_bytes: int
) -> tuple[Question, dict[Path, int]]:
    """The question about these files of a study, as far as a manifest made them; and what is too large to be read.

    In the place of each file or folder of more than `largest_bytes` the manifest of its maker is asked about.
    """
    lineage = read_lineage(results)
    targets = tuple(path for name in names if (path := lineage.study / name) in lineage.makers)
    files = lineage.behind(targets)
    sizes = {path: size_bytes(path) for path in files if path in lineage.makers and path.exists()}
    large = {path: size for path, size in sizes.items() if size > largest_bytes}
    asked_about = dict.fromkeys(lineage.makers[path].path if path in large else path for path in files)
    return Question(lineage, project, targets, tuple(asked_about)), large


# --- the answer --------------------------------------------------------------------------------


def answered(question: Question, hasher: Hasher) -> Proof:
    """Every link behind the targets, hashed once and judged."""
    lineage = question.lineage
    attempts = read_attempts(lineage.study / LEDGER)
    evidence = gathered(lineage, attempts, question.files, hasher, _changes(question), _recipes(question))
    strangers = _strangers(question) if question.whole else {}
    proof = proved(
        evidence, question.files, lambda path: _recomputed(evidence, question, path), question.whole, strangers
    )
    if question.untold is None:
        return proof
    found = f"whether the rules would give each job the same command was not compared: {question.untold}"
    unseen = Finding(Status.NOT_JUDGED, "workflow/", found, "copy the whole project, and install what envs/ pins")
    return replace(proof, findings=(*proof.findings, unseen))


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
            if path not in known and not is_beside:
                found[path] = f"found a file that no finished job made, expected none{_taken_for(question, path)}"
    return {path: what for path, what in found.items() if path.parent != lineage.study or path.name not in CRATE}


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


def _changes(question: Question) -> dict[Path, list[str]]:
    """For each manifest that config/ knows a job for: what of code, settings, pins and command is not as it was."""
    lineage, project = question.lineage, question.project
    if project is None:
        return {}
    expected = Dag(project, lineage.project).specs
    code = lineage.project if (lineage.project / "chord").is_dir() else PROJECT
    found: dict[Path, list[str]] = {}
    for path, job in lineage.jobs.items():
        if (today := expected.get(lineage.place(path))) is not None:
            manifest = job.manifest.model_dump(mode="json")
            others = changes(manifest, today, code)
            if told := question.told.get(lineage.place(path)):
                others += commands.changes(manifest, told, lineage.shown(lineage.study))
            found[path] = [str(one) for one in others]
    return found


def _recipes(question: Question) -> dict[Path, list[str]]:
    """For each run.json in the way: what config/ says otherwise now."""
    lineage, project = question.lineage, question.project
    texts = Dag(project).run_texts | commands.texts(question.told) if project else {}
    found: dict[Path, list[str]] = {}
    for path in question.files:
        text = texts.get(lineage.place(path)) if path.is_relative_to(lineage.study) else None
        if text and path.is_file():
            with suppress(UserError):  # a recipe that cannot be read is not the one that training read: altered
                told = read_json(path, "the recipe of a run", "build it with snakemake")
                found[path] = [str(one) for one in differences("settings", told, json.loads(text))]
    return found


def _recomputed(evidence: Evidence, question: Question, path: Path) -> Iterator[Finding]:
    """What the numbers in a file say beside what its inputs give, where these are what the file was made from."""
    maker, study, project = evidence.lineage.makers.get(path), question.lineage.study, question.project
    if maker is None or path.suffix != ".json" or not _reads_what_is_there(evidence, maker):
        return
    checks: dict[str, Callable[[], Any]] = {
        "chord score": lambda: score_differences(path),
        "chord tabulate": lambda: table_differences(path, study, question.cell),
        "chord plot": lambda: figure_differences(path, study, project) if project else None,
        "chord judge": lambda: claims_differences(path, study, project) if project else None,
    }
    check = checks.get(maker.manifest.verb)
    if check and (reason := complaint(check)):
        shown = evidence.lineage.shown(path)
        yield Finding(Status.ALTERED, shown, reason, f"snakemake --cores 2 --force {shown}")
    if check and maker.manifest.verb in ("chord plot", "chord judge") and project is None:
        shown = evidence.lineage.shown(path)
        again = "drawn" if maker.manifest.verb == "chord plot" else "judged"
        yield Finding(
            Status.NOT_JUDGED, shown, f"not {again} again: there is no config/ beside results/", "copy config/ too"
        )


def _reads_what_is_there(evidence: Evidence, maker: Job) -> bool:
    """Whether the inputs that were hashed are those that the job read; else others are to blame, and named."""
    now = ((evidence.now.get(path), content) for path, content in maker.inputs.items())
    return all(one is None or one.sha256 == content.sha256 for one, content in now)
