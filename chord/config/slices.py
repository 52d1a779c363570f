"""What of `config/` decides each file of a study, as plain data: no more, so that nothing else rebuilds it; no less.

Verbs put it into their manifests (`decided_by`); the Snakefile, `chord why` and `chord audit` compare it with the
present. Labels, captions and the paper's numbers are in the slices of tables, figures and the page alone. What a job
computes must never come from here, since the code of this module is no part of a job's digest.
"""

from typing import Any, cast

from chord.config.lock import Lock, Wanted, wanted_dataset, wanted_model
from chord.config.paper import Figure, Table, Tabled, benchmarks_of, divisions
from chord.config.project import Project
from chord.config.reading import FUNCTION, FunctionName
from chord.config.sets import (
    BENCHMARK,
    answered,
    beside_benchmark,
    checked,
    corpus_of,
    expert_of,
    hub_split_of,
    is_published,
    models_from,
    part_sizes,
    place,
    purpose,
    sizes,
    source_of,
    split_of,
    trace_sets,
)
from chord.config.sets import hub_apart_from as apart_from
from chord.config.study import Execution, Study, Task
from chord.reach import decides_nothing

RECORDED = "it is what the manifest records of config/"

# Values that say how a machine is used: they move no bit of any result, or are given to jobs by the workflow.
HOW_NOT_WHAT = ("cpu_threads", "checkpoint_every_steps", "checkpoint_every_minutes")
# Keys of an lm-eval task by which people and lists of tasks find it; no prompt and no number depends on them.
DESCRIBES = {"task_alias", "tag", "group", "group_alias"}
HOW_SERVED = {"replicas", "shard_size", "requests_at_once", "start_minutes"}


@decides_nothing(RECORDED)
def of_problems(study: Study, problems: str, lock: Lock | None = None) -> dict[str, Any]:
    """What decides one set of problems: `train`, `validation`, `expert`, `base` or `benchmark:NAME`."""
    wanted = sizes(study, problems)
    if source_of(study, problems) == "hub":
        return _of_hub_set(study, problems, lock)
    if source_of(study, problems) == "package":
        return _of_packaged_set(study, problems)
    return {
        "set": problems,
        "seed": study.data.seed,
        "sizes": wanted,
        "place": place(study, problems),
        "tasks": {task: _of_task(study.tasks[task]) for task in wanted},
        "max_prompt_tokens": study.rollouts.max_prompt_tokens if study.model.alphabet else None,
        "characters": _characters(study),
    }


@decides_nothing(RECORDED)
def of_traces(study: Study, traces: str, lock: Lock | None = None) -> dict[str, Any]:
    """What decides one file of traces beside its problems: `expert`, `aligned` or `base`. Rewards do not."""
    checked(traces, trace_sets(study), study)
    of_hub = is_published(study, traces)
    dataset = study.tasks[split_of(study, answered(study, traces)).task].dataset if of_hub else ""
    return {
        **({"seed": study.data.seed, "dataset": _of_dataset(study, dataset, lock)} if of_hub else {}),
        "traces": traces,
        **_of_writer(study, traces),
        "grader": study.grading.grader,
        "mark": study.grading.mark,
        "max_response_tokens": study.rollouts.max_response_tokens,
        "characters": _characters(study),
    }


def of_package(study: Study, of: str = "base") -> dict[str, Any]:
    """What decides a model that a package carries, of this folder in models/: the base model, or a served expert's."""
    return {"model": models_from(study, "package")[of].model_dump(mode="json")}


@decides_nothing(RECORDED)
def of_answers(study: Study, benchmark: str, task: dict[str, Any], seed: int) -> dict[str, Any]:
    """What decides a model's answers to a benchmark, whose lm-eval task says `task`; how they are graded does not."""
    how = how_answered(study.execution)
    return {"benchmark": benchmark, "task": deciding(task), "seed": seed, "execution": how, **_dated(study)}


def how_answered(execution: Execution) -> dict[str, Any]:
    """What of `execution` may move last bits of answers."""
    names = ["compute_dtype", "sampler_rows", "deterministic"]
    if execution.answers == "vllm":
        names += ["answers", "answers_options", "answers_batch_invariant"]
    return {name: getattr(execution, name) for name in names}


@decides_nothing(RECORDED)
def of_scores(study: Study, benchmark: str, task: dict[str, Any]) -> dict[str, Any]:
    """What decides the scores of answers that are there; what an outcome pays does not."""
    return {"benchmark": benchmark, "task": deciding(task), "grading": study.form_of(benchmark).model_dump(mode="json")}


def deciding(task: dict[str, Any]) -> dict[str, Any]:
    """An lm-eval task without what only names, groups or describes it. Of its metadata the version is recorded.

    `description` stays: lm-eval puts it before every prompt. So does all metadata where lm-eval hands it to a
    `custom_dataset`.
    """
    found = {key: _unnamed(value) for key, value in task.items() if key not in DESCRIBES}
    metadata = found.get("metadata")
    if isinstance(metadata, dict) and "custom_dataset" not in task:
        found["metadata"] = {"version": metadata["version"]} if "version" in metadata else {}
    return found


def _unnamed(value: Any) -> Any:
    """The same without the names of functions, whose code is a part of the job's."""
    if isinstance(value, dict):
        return {key: _unnamed(one) for key, one in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_unnamed(one) for one in cast("list[Any]", value)]
    return FUNCTION if isinstance(value, FunctionName) else value


def of_validation(study: Study) -> dict[str, Any]:
    """What decides the grades of answers to validation problems that training left behind."""
    return {"grading": study.grading.form.model_dump(mode="json")}


def of_artefact(project: Project, name: str) -> dict[str, Any]:
    """What a table or figure shows beside numbers: titles, labels, the paper's cells, smoothing; and whose numbers."""
    artefact, study = project.artefacts[name], project.study
    is_table = isinstance(artefact, Tabled)
    keys = {"label", "note", "same_as"} if is_table else {"label"}
    shown = benchmarks_of(study, artefact)
    columns: list[list[Any]] = [
        [key, study.benchmarks[key].label, *study.benchmarks[key].paper_columns] for key in shown
    ]
    for key, (by, parts) in divisions(study, artefact).items():
        columns[shown.index(key)] += [by, *parts.items()]
    return {
        "study": study.title,
        "artefact": artefact.model_dump(mode="json", exclude={"not_here"}),
        "arms": {arm: project.arms[arm].model_dump(mode="json", include=keys) for arm in artefact.arms},
        "columns": columns,  # a list, for their order is that of the table
        "seeds": list(project.seeds),
    }


def of_claims(project: Project) -> dict[str, Any]:
    """What decides verdicts and how they are told, beside the results: rules, labels, and which results are there."""
    chosen = {name: project.artefacts[name] for name in project.choice.artefacts}
    judged = {arm for claim in project.claims.claims for arm in claim.arms}
    panels = {name: one.panels for name, one in chosen.items() if isinstance(one, Figure)}
    return {
        "claims": project.claims.model_dump(mode="json"),
        "arms": {
            arm: project.arms[arm].model_dump(mode="json", include={"label", "same_as"}) for arm in sorted(judged)
        },
        "benchmarks": [[key, one.label, one.paper_column] for key, one in project.study.benchmarks.items()],
        "artefacts": {name: [one.kind, *one.arms] for name, one in chosen.items()},
        "columns": {name: one.benchmarks for name, one in chosen.items() if isinstance(one, Table)},
        "metrics": {name: sorted({panel.metric for panel in found}) for name, found in panels.items()},
        "seeds": list(project.seeds),
    }


def of_page(project: Project, studies: list[str]) -> dict[str, Any]:
    """All that the page shows of the configuration, and the names of all `studies`; not how the machine is used."""
    left_out: Any = {"study": {"execution": set(HOW_NOT_WHAT)}, "choice": {"seeds"}, "lock": True}
    whole = project.model_dump(mode="json", exclude=left_out)
    order = list(project.study.benchmarks)
    return whole | {"seeds": list(project.seeds), "studies": studies, "order_of_benchmarks": order}


def of_fetched(study: Study, lock: Lock | None, of: str = "base") -> dict[str, Any]:
    """What decides a model that was fetched from a hub, of this folder in models/."""
    model = models_from(study, "hub")[of]
    return {"model": model.model_dump(mode="json"), "fetched": _pinned(lock, wanted_model(model))}


def _of_hub_set(study: Study, problems: str, lock: Lock | None) -> dict[str, Any]:
    split, is_benchmark = hub_split_of(study, problems), problems.startswith(BENCHMARK)
    task = study.tasks[split.task]
    needs_grades = bool(task.filters and task.filters.generations)
    return {
        "set": problems,
        "seed": study.data.seed,
        "split": split.model_dump(mode="json"),
        "task": _of_task(task),
        "dataset": _of_dataset(study, task.dataset, lock),
        "apart_from": apart_from(study, problems),
        **({"max_prompt_tokens": None} if is_benchmark else _measured(study)),
        **_compared(study, problems),
        "grading": study.grading.form.model_dump(mode="json") if needs_grades else None,
    }


def _compared(study: Study, problems: str) -> dict[str, Any]:
    """What a set is compared with, so that no benchmark is trained on; a set out of a hub with all benchmarks."""
    others = beside_benchmark(study, problems)
    compared = others if problems.startswith(BENCHMARK) else list(study.benchmarks)
    return {"compared_with": compared, "overlap": study.data.overlap} if compared else {}


def _measured(study: Study) -> dict[str, Any]:
    """How long a prompt may be, and what of the study is in every prompt that is measured."""
    return {"max_prompt_tokens": study.rollouts.max_prompt_tokens, **_dated(study)}


def _dated(study: Study) -> dict[str, Any]:
    """The day that prompts show; nothing where the study names none."""
    return {"prompt_date": study.prompt_date} if study.prompt_date else {}


def _of_packaged_set(study: Study, problems: str) -> dict[str, Any]:
    """The pins of the step say which release of the package."""
    split = split_of(study, problems)
    task = _of_task(study.tasks[split.task])
    drawn = {"set": problems, "seed": study.data.seed, "split": split.model_dump(mode="json"), "task": task}
    return drawn | _compared(study, problems)


def _of_dataset(study: Study, dataset: str, lock: Lock | None) -> dict[str, Any]:
    return {
        **study.datasets[dataset].model_dump(mode="json", include={"columns", "may_lack"}),
        "files": study.datasets[dataset].files,
        "fetched": _pinned(lock, wanted_dataset(study, dataset)),
    }


def _pinned(lock: Lock | None, wanted: Wanted) -> dict[str, Any]:
    """The repository as the lock file has it; nothing where it was never fetched."""
    locked = lock.find(wanted) if lock else None
    commit = locked.commit if locked else None
    files = {name: file.sha256 for name, file in sorted(locked.files.items())} if locked else {}
    return {"repository": wanted.name, "revision": wanted.revision, "commit": commit, "files": files}


def _of_expert(study: Study, traces: str) -> dict[str, Any]:
    """All of the expert but how machines are used for one that is served; the seed decides what that one says."""
    expert = expert_of(study, traces)
    if expert.source != "served":
        return expert.model_dump(mode="json")
    return {**expert.model_dump(mode="json", exclude=HOW_SERVED), "seed": study.data.seed, **_dated(study)}


def _of_task(task: Task) -> dict[str, Any]:
    """All of a task; of a generator without what only tasks of a hub have."""
    return task.model_dump(mode="json", exclude={"source", "filters"} if task.source == "generator" else None)


def _of_writer(study: Study, traces: str) -> dict[str, Any]:
    if purpose(traces) != "base":
        return {"expert": _of_expert(study, traces)}
    corpus = corpus_of(study, traces)
    parts = zip(corpus.parts, part_sizes(corpus), strict=True)
    return {"seed": study.data.seed, "parts": [[part.task, part.style, size] for part, size in parts]}


def _characters(study: Study) -> str | None:
    """What the model can read and write, in an order of its own; None is anything."""
    return None if study.model.alphabet is None else "".join(sorted(set(study.model.alphabet)))
