"""What no single file shows: names that do not exist, circles, methods without their data."""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from chord.config.artefacts import NOT_PUBLISHED, Artefact, Choice, Figure, Lengths, Paper, Table, Tabled
from chord.config.building import started_from, why_not
from chord.config.claims import Against, Cells, Claims, Elsewhere
from chord.config.datasets import OF_GENERATIONS, Task
from chord.config.limits import COLUMNS
from chord.config.messages import expected
from chord.config.planning import Planning
from chord.config.recipe import Arm
from chord.config.study import Benchmark, Study
from chord.config.tasks import misfits

STUDIES = ("demo", "small", "math", "tools")  # those of the project; a copy of it may hold fewer


def crossed(
    study: Study, arms: Mapping[str, Arm], artefacts: Mapping[str, Artefact], choice: Choice, root: Path
) -> Iterator[str]:
    """Every such problem of what is to be built, one line each: file, key, found, expected."""
    for name, arm in arms.items():
        yield from _arm(name, arm, arms)
    used = {name for key in choice.artefacts if key in artefacts for name in artefacts[key].arms}
    yield from _data(study, {name: arm for name, arm in arms.items() if name in used})
    yield from _names(choice.artefacts, artefacts, "config/config.yaml: artefacts")
    yield from _repeats(choice.seeds or (), "config/config.yaml: seeds")
    for key in choice.artefacts:
        if key in artefacts and (reason := why_not(study, arms, artefacts[key])):
            yield (
                f"config/config.yaml: artefacts names '{key}', which study {study.name} does not build ({reason}),"
                " expected others"
            )
    known = sorted({*STUDIES, *(path.stem for path in (root / "config" / "studies").glob("*.yaml"))})
    for key, artefact in artefacts.items():
        yield from _artefact(key, artefact, study, arms)
        yield from _known(tuple(artefact.not_here), known, f"config/experiments/{key}.yaml: not_here")


def alone(study: Study, name: str, root: Path, built: Sequence[Arm]) -> Iterator[str]:
    """Every such problem of the study in `name`.yaml; `built` are the arms of what is to be built, in any study."""
    file = f"config/studies/{name}.yaml"
    yield from _study(study, name, root)
    yield from _sources(study, file)
    yield from misfits(study, file, {one for arm in built for one in (*started_from(arm), *_traces(arm))})


def _traces(arm: Arm) -> list[str]:
    return [arm.recipe.traces] if arm.recipe else []


def misnamed(claims: Claims, arms: Mapping[str, Arm], root: Path) -> Iterator[str]:
    """Arms, studies and columns of claims that do not exist, one line each."""
    studies = sorted(path.stem for path in (root / "config" / "studies").glob("*.yaml"))
    for claim in claims.claims:
        where, rule = f"config/claims.yaml: {claim.id}", claim.rule
        if not isinstance(rule, Elsewhere):
            yield from _names([rule.arm], arms, f"{where}.rule.arm")
            yield from _names(rule.against if isinstance(rule, Against) else (), arms, f"{where}.rule.against")
        if isinstance(rule, Cells):
            yield from _names(rule.columns, COLUMNS, f"{where}.rule.columns")
        yield from _names(claim.studies or (), studies, f"{where}.studies")


def unplanned(planning: Planning, arms: Mapping[str, Arm], studies: Sequence[str]) -> Iterator[str]:
    """Arms, studies and models of planning.yaml that do not exist, one line each."""
    file = "config/planning.yaml"
    known = sorted({*STUDIES, *studies})
    for name, lengths in planning.lengths.items():
        yield from _known([name], known, f"{file}: lengths")
        yield from _known(list(lengths.arms), arms, f"{file}: lengths.{name}.arms")
    for name, one in planning.unbuilt.items():
        yield from _known([one.study], known, f"{file}: unbuilt.{name}.study")
        yield from _names(one.arms, arms, f"{file}: unbuilt.{name}.arms")
        yield from _known(list(one.lengths.arms), arms, f"{file}: unbuilt.{name}.lengths.arms")
        yield from _known([one.model], planning.models, f"{file}: unbuilt.{name}.model")
        yield from _known(
            [one.judge.model] if one.judge else [], planning.models, f"{file}: unbuilt.{name}.judge.model"
        )


def _study(study: Study, name: str, root: Path) -> Iterator[str]:
    file = f"config/studies/{name}.yaml"
    if study.name != name:
        yield f"{file}: name is '{study.name}', expected '{name}', the name of the file"
    have = sorted(path.name for path in (root / "config" / "benchmarks").glob("*.yaml"))
    for name, benchmark in study.benchmarks.items():
        if benchmark.file not in have:
            yield f"{file}: benchmarks.{name}.file is '{benchmark.file}', {expected(benchmark.file, have)}"
    for name, other in study.other_models.items():
        model, where = other.model or study.model, f"{file}: other_models.{name}"
        if (model.source == "random") != bool(other.base_corpus or (other.model and study.base_corpus)):
            yield f"{where} has source {model.source}, expected a corpus, its own or the study's, with random alone"
        if model.alphabet != study.model.alphabet:
            yield f"{where}.model has another alphabet, expected the study's: both answer the same prompts"


def _sources(study: Study, file: str) -> Iterator[str]:
    """Problems and traces that cannot come from where the study says."""
    for name, task in study.tasks.items():
        if task.source == "hub":
            yield from _hub_task(study, f"{file}: tasks.{name}", task)
    for name, benchmark in study.benchmarks.items():
        yield from _benchmark(study, f"{file}: benchmarks.{name}", benchmark)
    parts = {name: study.tasks[getattr(study.data, name).task] for name in ("train", "validation", "expert")}
    sources = {name: task.source for name, task in parts.items()}
    if "package" in sources.values():
        name = next(name for name, source in sources.items() if source == "package")
        yield f"{file}: data.{name} has a task of source package, expected it in benchmarks alone: it is a test set"
        return
    if len(set(sources.values())) > 1:
        yield f"{file}: data has tasks of sources {sources}, expected one source: else sets could share a prompt"
        return
    fitting = {"scripted": "generator", "published": "hub"}.get(study.expert.source)
    if fitting and fitting != sources["expert"]:
        yield (
            f"{file}: expert.source is {study.expert.source} and the problems are of source {sources['expert']},"
            f" expected problems of source {fitting}"
        )
    elif fitting == "hub":
        answered = ["expert", *(["train"] if study.data.aligned_traces else [])]
        for task in dict.fromkeys(getattr(study.data, name).task for name in answered):
            filters = study.tasks[task].filters
            if not (filters and filters.generations):
                yield (
                    f"{file}: tasks.{task}.filters.generations is not given, expected at least 1: with expert.source"
                    " published each of its problems must have a trace"
                )


def _benchmark(study: Study, place: str, benchmark: Benchmark) -> Iterator[str]:
    """BFCL's items have answers that no other grader reads, and its grader reads no other answers."""
    grader = (benchmark.grading or study.grading.form).grader
    source = study.tasks[benchmark.problems.task].source
    if (grader == "bfcl") != (source == "package"):
        wanted = "grading.grader bfcl" if source == "package" else "problems of source package with it"
        yield f"{place} has problems of source {source} and grader {grader}, expected {wanted}"
    task = study.tasks[benchmark.problems.task]
    columns = study.datasets[task.dataset].columns if task.source == "hub" and task.dataset in study.datasets else None
    if columns is not None and benchmark.categories and benchmark.categories not in columns:
        yield f"{place}.categories is '{benchmark.categories}', {expected(benchmark.categories, columns)}"


def _hub_task(study: Study, place: str, task: Task) -> Iterator[str]:
    if task.dataset not in study.datasets:
        yield f"{place}.dataset is '{task.dataset}', {expected(task.dataset, study.datasets)}"
        return
    lacking = [name for name in OF_GENERATIONS if name not in study.datasets[task.dataset].columns]
    if task.filters and task.filters.generations and lacking:
        yield (
            f"{place}.filters.generations asks for verified ones and datasets.{task.dataset}.columns has no"
            f" `{lacking[0]}`, expected the columns of {' and '.join(OF_GENERATIONS)}"
        )


def _arm(name: str, arm: Arm, arms: Mapping[str, Arm]) -> Iterator[str]:
    file = "config/arms.yaml"
    trained = [key for key, other in arms.items() if other.recipe]
    if arm.choose:
        yield from _names(arm.choose, trained, f"{file}: {name}.choose")
        for key in arm.choose:
            recipe = arms[key].recipe if key in arms else None
            if recipe and recipe.keep != "every":
                yield (
                    f"{file}: {name}.choose names '{key}', which keeps {recipe.keep}, expected an arm that keeps the"
                    " weights of `every` validation"
                )
    start = arm.recipe.init if arm.recipe else "base"
    if arm.recipe and start.partition("-")[0] != "base" and start not in (k for k in arms if not arms[k].same_as):
        known = ["base", *(key for key in arms if key != name and not arms[key].same_as)]
        yield f"{file}: {name}.recipe.init is '{arm.recipe.init}', {expected(arm.recipe.init, known)}"
    if circle := _circle(name, arms):
        key = "recipe.init" if arm.recipe else "choose"
        yield f"{file}: {name}.{key} starts from itself ({' -> '.join(circle)}), expected a chain that ends at base"


def _circle(start: str, arms: Mapping[str, Arm]) -> list[str] | None:
    """The chain of starting models that leads from `start` back to it, if there is one."""
    chains, seen = [[start]], set[str]()
    while chains:
        chain = chains.pop()
        arm = arms.get(chain[-1])
        for following in (arm.choose or (arm.recipe and [arm.recipe.init]) or ()) if arm else ():
            if following == start:
                return [*chain, following]
            if following not in seen:
                chains.append([*chain, following])
                seen.add(following)
    return None


def _data(study: Study, used: Mapping[str, Arm]) -> Iterator[str]:
    """What the arms to be built need of the study and do not get."""
    file = f"config/studies/{study.name}.yaml"
    groups = [name for name, arm in used.items() if arm.recipe and arm.recipe.needs_rollouts]
    if groups and study.rollouts.per_prompt < 2:
        yield (
            f"{file}: rollouts.per_prompt is {study.rollouts.per_prompt}, expected at least 2: the rollouts of one"
            f" prompt are compared with each other by {', '.join(groups)}"
        )
    aligned = [name for name, arm in used.items() if arm.recipe and arm.recipe.traces == "aligned"]
    if aligned and not study.data.aligned_traces:
        yield (
            f"{file}: data.aligned_traces is false, expected true: {', '.join(aligned)} need expert traces of the"
            " training prompts themselves"
        )


def _artefact(key: str, artefact: Artefact, study: Study, arms: Mapping[str, Arm]) -> Iterator[str]:
    file = f"config/experiments/{key}.yaml"
    if not re.fullmatch(r"[a-z][a-z0-9]*", key):
        yield f"{file}: found a file of this name, expected small letters and digits: it is what is typed to build it"
    if key in ("all", "claims"):
        yield f"{file}: found a file of this name, expected another: `snakemake {key}` builds something else"
    yield from _names(artefact.arms, arms, f"{file}: arms")
    if isinstance(artefact, Figure):
        for name in artefact.arms:
            if name in arms and arms[name].same_as:
                yield f"{file}: arms names '{name}', expected arms that are trained: only those have curves"
    if isinstance(artefact, Table | Lengths):
        yield from _names(artefact.benchmarks or (), (*COLUMNS, *study.benchmarks), f"{file}: benchmarks")
    if isinstance(artefact, Tabled):
        yield from _cells(artefact.paper, arms, file)
    if isinstance(artefact, Lengths):
        yield from _lacks(artefact.expert, artefact.paper.columns, f"{file}: expert")


def _cells(paper: Paper, arms: Mapping[str, Arm], file: str) -> Iterator[str]:
    """Rows that no arm has, and cells of the paper's rows that are passed over in silence.

    An arm without a row is none of the paper's: whoever adds one of their own has nothing to say of the paper.
    """
    for row, cells in paper.rows.items():
        near = difflib.get_close_matches(row, arms, n=1, cutoff=0.8)
        if row not in arms and near:
            yield f"{file}: paper.cells has a row '{row}', expected `{near[0]}` (nearest) or another arm"
        if isinstance(cells, dict):
            yield from _lacks(cells, paper.columns, f"{file}: paper.cells.{row}")


def _lacks(cells: Mapping[str, object], wanted: Sequence[str], where: str) -> Iterator[str]:
    for key in wanted:
        if key not in cells:
            yield f"{where} has no '{key}', expected the paper's number or `{NOT_PUBLISHED}`"


def _names(names: Sequence[str], known: Mapping[str, object] | Sequence[str], where: str) -> Iterator[str]:
    yield from _known(names, known, where)
    yield from _repeats(names, where)


def _known(names: Sequence[str], known: Mapping[str, object] | Sequence[str], where: str) -> Iterator[str]:
    for name in names:
        if name not in known:
            yield f"{where} names '{name}', {expected(name, known)}"


def _repeats(items: Sequence[object], where: str) -> Iterator[str]:
    for item in dict.fromkeys(items):
        if items.count(item) > 1:
            yield f"{where} has '{item}' {items.count(item)} times, expected once"
