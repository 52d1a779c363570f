"""Every job of a study and what decides it: verb, code that only other jobs reach, pins, the slice of config/.

The Snakefile, `chord why` and `chord audit` compare this with the manifests. Knows no files but those of config/; names
every job by its manifest, relative to results/STUDY. The rules in workflow/ say the same paths; a test compares them.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chord.config import slices, uses
from chord.config.load import ours
from chord.config.paper import Figure, Tabled, benchmarks_of
from chord.config.project import Project
from chord.config.sets import (
    BENCHMARK,
    answered,
    asked_expert,
    beside_benchmark,
    corpus_name,
    corpus_of_start,
    is_served,
    models_from,
    problem_sets,
    source_of,
    start_models,
    started_from,
    tested_on,
    trace_sets,
    trained_starts,
)
from chord.evaluation.benchmarks import read_benchmark
from chord.findings import rendering
from chord.provenance.digest import Uses
from chord.provenance.freshness import Expected

ENDING = ".manifest.json"


def expectations(project: Project, root: Path = Path(".")) -> dict[str, Expected]:
    """What should decide each job of the study today, by the path of its manifest below results/STUDY."""
    return dict(_jobs(project, root))


def run_texts(project: Project) -> dict[str, str]:
    """The content of every run.json of the study today, by its path below results/STUDY."""
    texts = {}
    for start in trained_starts(project.study):
        texts[f"models/{start}/run.json"] = run_text(project, start, project.study.data.seed)
    for arm in (name for name in project.trainable if project.arms[name].recipe):
        texts |= {f"runs/{arm}/seed-{seed}/run.json": run_text(project, arm, seed) for seed in project.seeds}
    return texts


def run_text(project: Project, arm: str, seed: int) -> str:
    """The content of one run.json: all that this training is told."""
    return project.run(arm, seed).model_dump_json(indent=2)


def of_page(project: Project, root: Path = Path(".")) -> dict[str, Any]:
    """What decides the page beside results: what it shows of config/, marked comments too, its style and its script."""
    studies = sorted(path.stem for path in (root / "config" / "studies").glob("*.yaml"))
    marked = [list(one) for one in ours(root / "config", files_with_ours(project))]
    code = root if (root / "chord").is_dir() else None
    return slices.of_page(project, studies) | {"ours": marked, "web": rendering.digests(code)}


def files_with_ours(project: Project) -> list[str]:
    """The files below config/ whose marked values concern the study."""
    study = project.study
    benchmarks = dict.fromkeys(f"benchmarks/{benchmark.file}" for benchmark in study.benchmarks.values())
    artefacts = [f"experiments/{name}.yaml" for name in project.choice.artefacts]
    return ["arms.yaml", f"studies/{study.name}.yaml", *benchmarks, *artefacts, "claims.yaml"]


def planned(project: Project, root: Path = Path(".")) -> dict[str, Expected]:
    """Of `expectations` the jobs that the chosen tables, figures and their page stand on, as the rules say it."""
    chosen = {name: project.artefacts[name] for name in project.choice.artefacts}
    shown = {name for artefact in chosen.values() for name in artefact.arms}
    arms = _below(project, shown)
    trained = [recipe for name in arms if (recipe := project.arms[name].recipe)]
    study = project.study
    starts = {"base", *(start for name in arms for start in started_from(project.arms[name]))}
    starts &= set(start_models(study)) if arms else set()
    learned = starts & set(trained_starts(study))
    trained += [corpus_of_start(study, start).recipe for start in learned]
    traces = {corpus_name(study, start) for start in learned}
    traces |= {recipe.traces for recipe in trained if recipe.needs_experts and recipe.init != "random"}
    problems = {
        *(answered(study, name) for name in traces),
        "validation",
        *(["train"] if any(one.needs_rollouts for one in trained) else []),
    }
    # No problem may overlap a benchmark: of each pair the one that is drawn later reads the other.
    all_drawn = bool(arms) and any(source_of(study, name) == "hub" for name in problems)
    cells = {(arm, key) for one in chosen.values() for arm in one.arms for key in benchmarks_of(study, one)}
    tested = {name for arm in arms if project.arms[arm].choose_on == "test" for name in project.arms[arm].choose or ()}
    cells |= {(name, tested_on(study)) for name in tested}
    benchmarks = set(study.benchmarks) if all_drawn else {name for _, name in cells}
    problems |= {one for name in benchmarks for one in beside_benchmark(study, f"{BENCHMARK}{name}")}
    graded = {name for arm in arms for name in project.arms[arm].choose or ()}
    graded |= {arm for artefact in chosen.values() if isinstance(artefact, Figure) for arm in artefact.arms}

    def is_needed(key: str) -> bool:
        match key.removesuffix(ENDING).split("/"):
            case ["data", "problems", name]:
                return name in problems
            case ["data", "traces", name]:
                return name in traces
            case ["data", "benchmarks", name]:
                return name in benchmarks
            case ["runs", arm, _, "validation"]:
                return arm in graded
            case ["runs", arm, _, "eval", benchmark, _]:
                return (arm, benchmark) in cells
            case ["runs", arm, *_]:
                return arm in arms
            case ["models", start, *_] if start.startswith("base-"):
                return start in starts
            case ["models", expert, *_] if expert.startswith("expert"):
                return expert in {asked_expert(study, name) for name in traces if is_served(study, name)}
            case [name]:
                return name not in project.artefacts or name in chosen
            case _:
                return True

    return {key: one for key, one in expectations(project, root).items() if is_needed(key)}


def _below(project: Project, names: set[str]) -> set[str]:
    """The arms of these names, and those that they start from or choose between."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in project.arms and name not in found:
            found.add(name)
            arm = project.arms[name]
            waiting += [*(arm.choose or ()), *([arm.recipe.init] if arm.recipe else [])]
    return found


def _jobs(project: Project, root: Path) -> Iterator[tuple[str, Expected]]:
    study = project.study
    for name in problem_sets(study):
        place = (
            f"data/benchmarks/{name.removeprefix(BENCHMARK)}" if name.startswith(BENCHMARK) else f"data/problems/{name}"
        )
        decided = slices.of_problems(study, name, project.lock)
        yield f"{place}.manifest.json", Expected("chord prepare", uses.of_problems(study, name), "data", decided)
    for name in trace_sets(study):
        verb, step = ("chord ask-expert", "engines") if is_served(study, name) else ("chord demonstrate", "data")
        decided = slices.of_traces(study, name, project.lock)
        yield f"data/traces/{name}.manifest.json", Expected(verb, uses.of_traces(study, name), step, decided)
    for start in trained_starts(study):
        reached = uses.of_training(project.run(start, study.data.seed))
        yield f"models/{start}/train.manifest.json", Expected("chord train", reached, "train", {})
    for name in models_from(study, "package"):
        decided = slices.of_package(study, name)
        yield f"models/{name}/unpack.manifest.json", Expected("chord unpack", {}, "train", decided)
    for name in models_from(study, "hub"):
        decided = slices.of_fetched(study, project.lock, name)
        yield f"models/{name}/adopt.manifest.json", Expected("chord adopt", {}, "data", decided)
    tasks = {name: read_benchmark(root, study, name).definition for name in study.benchmarks}
    step = "engines" if study.execution.answers == "vllm" else "generate"
    for name in project.trainable:
        reached = uses.of_training(project.run(name, project.seeds[0])) if project.arms[name].recipe else {}
        for seed in project.seeds:
            yield from _of_model(project, name, seed, reached)
            for benchmark, task in tasks.items():
                answers = slices.of_answers(study, benchmark, task, seed)
                scores = slices.of_scores(study, benchmark, task)
                place, reach = f"runs/{name}/seed-{seed}/eval/{benchmark}", uses.of_answers(study, task)
                yield f"{place}/answers.manifest.json", Expected("chord generate", reach, step, answers)
                reach = uses.of_scores(study, benchmark, task)
                yield f"{place}/scores.manifest.json", Expected("chord score", reach, "evaluate", scores)
    for name, artefact in project.artefacts.items():
        if project.why_not(name):
            continue
        verb = "chord tabulate" if isinstance(artefact, Tabled) else "chord plot"
        yield f"{name}.manifest.json", Expected(verb, {}, "report", slices.of_artefact(project, name))
    yield "claims.manifest.json", Expected("chord judge", {}, "report", slices.of_claims(project))
    yield "report.manifest.json", Expected("chord report", {}, "report", of_page(project, root))


def _of_model(project: Project, name: str, seed: int, reached: Uses) -> Iterator[tuple[str, Expected]]:
    """The jobs that make one arm's model."""
    arm, study, run = project.arms[name], project.study, f"runs/{name}/seed-{seed}"
    if arm.recipe:
        yield f"{run}/train.manifest.json", Expected("chord train", reached, "train", {})
    if arm.only_imitates:
        grading, decided = uses.of_grading(study.grading.form), slices.of_validation(study)
        yield f"{run}/validation.manifest.json", Expected("chord validate", grading, "evaluate", decided)
    if arm.choose:
        on = {"on": "test", "benchmark": tested_on(study)} if arm.choose_on == "test" else {}
        decided = {"candidates": list(arm.choose)} | on
        yield f"{run}/choose.manifest.json", Expected("chord choose", {}, "train", decided)
