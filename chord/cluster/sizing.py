"""What each job that computes with a model needs: seconds, GPUs and memory, on a machine of config/planning.yaml.

`chord plan` adds it up, the rules ask Slurm for it, `chord doctor` holds it against a profile. Loads no torch.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from chord.cluster import costs
from chord.cluster.costs import BYTES, GB, Bench, Cost, cache_bytes, dimensions, parameters, saved_gb, steps_of
from chord.config.project import Project
from chord.config.reading import validated
from chord.config.sets import (
    answered,
    any_seed,
    asked_expert,
    corpus_of_start,
    expert_of,
    split_of,
    start_models,
    start_of,
)
from chord.config.study import Dimensions, Execution, ExpertServed, Lengths, Machine, Model, Planning, Study
from chord.errors import UserError
from chord.evaluation.benchmarks import read_benchmark
from chord.settings import Count, CountOrNone, Frozen

TRAINS = ("train_base", "train_sft", "train")
COMPUTES = (*TRAINS, "generate", "ask_expert")
RESOURCES = ("slurm_partition", "gres", "mem_mb", "runtime", "cpus_per_task", "nodes", "tasks", "tasks_per_gpu", "mpi")
TIME_MARGIN, MEMORY_MARGIN = 2.0, 1.2  # an estimate too low ends a job; one too high only lets it wait
LEAST_MINUTES, LEAST_GB = 60, 4.0
STEP_MINUTES = 30  # limits are rounded up to it, so that jobs of one kind are sent alike
WHERE = "the profile: set-resources.site.machine"
PROCESS_GB = 8.0  # of the host, beside weights: libraries, CUDA, buffers that the GPU reads, a vLLM engine


class Work(NamedTuple):
    """A job by its rule; the arm, start model or traces that it is of; the benchmark that it answers."""

    rule: str
    of: str
    benchmark: str = ""

    @classmethod
    def of_job(cls, rule: str, output: str) -> "Work":
        """The job of this rule that writes this file of results/STUDY."""
        parts = Path(output).parts[2:]
        place = {"train_base": "models", "ask_expert": "traces"}.get(rule, "runs")
        of = parts[parts.index(place) + 1] if place in parts else ""
        benchmark = parts[parts.index("eval") + 1] if rule == "generate" else ""
        return cls(rule, Path(of).stem if place == "traces" else of, benchmark)


class Site(Frozen):
    """What a profile says of the nodes that train and answer: `site` of its `set-resources`.

    `gpus`, `cpus` and `mem_mb` are those of a node, `nodes` how many one training may take, `runtime` the longest time
    that the partition allows, in minutes. Without GPUs a job computes on the processors of its node.
    """

    machine: str
    slurm_partition: str | None = None
    gpus: CountOrNone = 0
    gres: str = "gpu"
    nodes: Count = 1
    cpus: Count | None = None
    mem_mb: Count
    runtime: Count


def site_of(overrides: Mapping[str, Mapping[str, Any]]) -> Site | None:
    """The site among Snakemake's resources by rule; None if the profile has none. Raises ConfigError for bad keys."""
    block = overrides.get("site")
    if not block:
        return None
    raw = {name: one.raw.strip("'\"") if isinstance(one.raw, str) else one.raw for name, one in block.items()}
    return validated(TypeAdapter(Site), raw, "the profile", "set-resources.site")


def gpus_named(gres: object) -> int | None:
    """GPUs on a node of a `gres` such as gpu:4 or gpu:h100:4; None for an expression that only Snakemake can read."""
    first, *rest = str(gres or "").strip("'\"").split(":")
    if first != "gpu":
        return None if first else 0
    return int(rest[-1]) if rest and rest[-1].isdigit() else 1


def servers_of(execution: Execution) -> int:
    """GPUs of a training that do not learn: those of vLLM servers of its own."""
    engine = execution.vllm
    return engine.replicas if engine and engine.placement == "server" and engine.address is None else 0


def divided(gres: object, execution: Execution) -> tuple[int, int]:
    """Processes on each node, and how many fewer on the first, whose last GPUs are those of servers.

    A first node without a GPU for the learner has one process all the same, which says what is missing.
    """
    gpus = gpus_named(gres) or 1
    return gpus, min(servers_of(execution), gpus - 1)


# --- what jobs cost ---


@dataclass(frozen=True)
class Layout:
    """Which machine, and how many of its devices a training and an answering job get."""

    name: str
    machine: Machine
    devices: int
    answering: int = 1


@dataclass(frozen=True)
class Estimates:
    """What the jobs of a study cost, by config/planning.yaml and the models that were fetched below `root`."""

    project: Project
    planning: Planning
    root: Path = Path(".")

    @property
    def lengths(self) -> Lengths:
        """The study's mean lengths. Raises UserError where config/planning.yaml has none."""
        study, known = self.project.study.name, self.planning.lengths
        if study not in known:
            raise UserError(f"config/planning.yaml: lengths has no '{study}', expected the study's mean lengths")
        return known[study]

    def machine(self, name: str, where: str) -> Machine:
        """The machine of this name; `where` it was named. Raises UserError for one that is not known."""
        if name not in self.planning.machines:
            raise UserError(f"{where}: found '{name}', expected one of {', '.join(self.planning.machines)}")
        return self.planning.machines[name]

    def shape(self, folder: str, model: Model | None = None) -> Dimensions:
        """The shape of a model, by default a start, in a folder of models/: its own file's if it is there."""
        fetched = self.root / "results" / self.project.study.name / "models" / folder / "model"
        return dimensions(model or start_models(self.project.study)[folder], self.planning, fetched)

    def start(self, work: Work) -> str | None:
        """The start model whose shape a job computes with; None for jobs that need no policy."""
        if work.rule == "train_base":
            return work.of
        return start_of(self.project.arms, work.of) if work.rule in (*TRAINS, "generate", "choose") else None

    def shapes(self, works: Iterable[Work]) -> dict[str, Dimensions]:
        """The shape of each start model that the jobs compute with."""
        return {start: self.shape(start) for start in dict.fromkeys(map(self.start, works)) if start}

    def bench(self, shape: Dimensions, machine: Machine, devices: int) -> Bench:
        """The study's policy of this shape there."""
        return Bench(self.project.study, shape, machine, self.lengths, devices)

    def expert(self, traces: str) -> tuple[ExpertServed, Dimensions]:
        """The served expert of these traces, and its shape."""
        expert = expert_of(self.project.study, traces)
        assert expert.source == "served", "only a served expert is asked"
        return expert, self.shape(asked_expert(self.project.study, traces), expert.model)

    def cost(self, work: Work, layout: Layout) -> Cost:
        """Of one job, with the shape of the model that it computes with; one without a model costs its start alone."""
        study, machine, lengths, start = self.project.study, layout.machine, self.lengths, self.start(work)
        if work.rule == "ask_expert":  # on the devices of all its replicas
            expert, shape = self.expert(work.of)
            bench = self.bench(shape, machine, expert.tensor_parallel * expert.replicas)
            questions = split_of(study, answered(study, work.of)).size * expert.samples_per_problem
            return replace(bench, at_once=expert.requests_at_once).answering(questions, lengths.expert)
        if start is None or work.rule == "choose":
            return Cost(machine.start_seconds, 0)
        if work.rule == "generate":
            samples = read_benchmark(self.root, study, work.benchmark).samples_per_problem
            length = lengths.base if self.project.arms[work.of].same_as else lengths.of(work.of)
            bench = self.bench(self.shape(start), machine, layout.answering)
            return bench.answering(study.benchmarks[work.benchmark].problems.size * samples, length)
        bench = self.bench(self.shape(start), machine, layout.devices)
        if work.rule == "train_base":  # texts of an expert's length, nothing sampled
            corpus = corpus_of_start(study, start)
            steps, rows = corpus.recipe.steps or 1, corpus.rows_per_step
            seconds = machine.start_seconds + steps * bench.learning(rows, lengths.expert)
            return Cost(seconds, layout.devices, steps * rows * lengths.expert)
        recipe = self.project.arms[work.of].recipe
        assert recipe is not None, "only arms with a recipe are trained"
        return bench.training(work.of, recipe, study.expert_rows_per_step)

    def disk(self, works: Iterable[Work], shapes: Mapping[str, Dimensions]) -> dict[str, float]:
        """10^9 bytes that stay in results/, and that trainings in progress need besides, each at most."""
        dtype = self.project.study.execution.compute_dtype
        sizes = {start: saved_gb(shape, dtype) for start, shape in shapes.items()}
        makers = [(work, start) for work in works if work.rule != "generate" and (start := self.start(work))]
        kept = sum(sizes[start] * (1 + self._candidates(work)) for work, start in makers)
        return {"models": kept, "one_training_in_progress": 5 * max(sizes.values())}

    def _candidates(self, work: Work) -> int:
        """Models that a training keeps beside its last: those of every validation, for an arm that chooses one."""
        study, recipe = self.project.study, self.project.arms[work.of].recipe if work.rule == "train_sft" else None
        if recipe is None:
            return 0
        steps = steps_of(study, recipe, study.expert_rows_per_step) if recipe.keep == "every" else 1
        return len(study.validation.planned(steps)) - 1


# --- what a job asks of a node ---


@dataclass(frozen=True)
class Need:
    """What a job holds and takes: on each of its GPUs, on each of its nodes, and as a whole."""

    gpus: int  # on each node; 0 where it computes on processors
    nodes: int
    ranks: int  # processes that learn or answer, on all nodes together
    device_gb: float  # of each GPU, at its fullest
    host_gb: float  # of each node
    seconds: float
    holds: bool  # whether its GPUs hold it; without GPUs, whether the site has none either

    @property
    def minutes(self) -> int:
        """The time to ask for at the first attempt."""
        return max(LEAST_MINUTES, STEP_MINUTES * math.ceil(TIME_MARGIN * self.seconds / 60 / STEP_MINUTES))

    @property
    def mem_mb(self) -> int:
        """The memory of a node to ask for."""
        return 1000 * math.ceil(max(LEAST_GB, self.host_gb))


@dataclass(frozen=True)
class Sizing:
    """The needs of a study's jobs at a site. Raises UserError for a study, model or machine that is not known."""

    estimates: Estimates
    site: Site

    @classmethod
    def of(cls, project: Project, root: Path, site: Site) -> "Sizing":
        """With config/planning.yaml below `root`, all that it is asked for looked up once."""
        estimates = Estimates(project, Planning.read(root))
        for folder in start_models(project.study):
            estimates.bench(estimates.shape(folder), estimates.machine(site.machine, WHERE), 1)
        return cls(estimates, site)

    @property
    def study(self) -> Study:
        """The study whose jobs they are."""
        return self.estimates.project.study

    @property
    def machine(self) -> Machine:
        """What a GPU of the site is, or its processor."""
        return self.estimates.machine(self.site.machine, WHERE)

    def need(self, work: Work, gpus: int | None = None, nodes: int = 1) -> Need:
        """What the job needs with so many GPUs on each of `nodes` nodes; else with those that the plan gives it.

        These are the fewest that hold the model and with which one attempt is enough; where none are, all of a node.
        """
        if work.rule not in TRAINS:
            return (self._asking if work.rule == "ask_expert" else self._answering)(work, gpus)
        if gpus is not None or not self.site.gpus:
            return self._training(work, gpus or 0, nodes)
        found = [self._training(work, *spread) for spread in self._spreads(self.site.gpus * self.site.nodes)]
        holding = [need for need in found if need.holds] or found[-1:]
        quick = [need for need in holding if need.minutes <= self.site.runtime]
        return quick[0] if quick else max(holding, key=lambda need: (-need.nodes, need.gpus))

    def fewest(self, work: Work, most: int = 1024) -> Need | None:
        """What a training needs that takes the fewest GPUs that hold it, of nodes as the site's; None if none do."""
        if work.rule not in TRAINS or not self.site.gpus:
            return None
        found = (self._training(work, *spread) for spread in self._spreads(most))
        return next((need for need in found if need.holds), None)

    def resources(self, need: Need, attempt: int) -> dict[str, Any]:
        """By the names of Snakemake and its Slurm plugin; what is None is not asked for."""
        site, several = self.site, need.nodes > 1
        cpus = self.study.execution.cpu_threads * -(-need.ranks // need.nodes)
        found: dict[str, Any] = {
            "slurm_partition": site.slurm_partition,
            "gres": f"{site.gres}:{need.gpus}" if need.gpus else None,
            "mem_mb": need.mem_mb,
            "runtime": min(need.minutes * attempt, site.runtime),
            "cpus_per_task": min(cpus, site.cpus) if site.cpus and need.ranks > 1 else None,
            "nodes": need.nodes if several else None,
            "tasks": need.nodes if several else None,
            "tasks_per_gpu": 0 if several else None,
            "mpi": "srun" if several else None,
        }
        return {name: found[name] for name in self.resources_named}

    @property
    def resources_named(self) -> list[str]:
        """The names of `resources`; a partition is asked for only where the site names one."""
        return [name for name in RESOURCES if name != "slurm_partition" or self.site.slurm_partition]

    def _spreads(self, most: int) -> Iterator[tuple[int, int]]:
        """GPUs of a node and nodes, from one rank upward: ranks are doubled on one node, then nodes are added."""
        servers, size = servers_of(self.study.execution), self.site.gpus
        ranks = 1
        while ranks + servers < size:
            yield ranks + servers, 1
            ranks *= 2
        if size <= servers:
            yield 1 + servers, 1
        else:
            yield from ((size, nodes) for nodes in range(1, most // size + 1))

    def _training(self, work: Work, gpus: int, nodes: int) -> Need:
        servers, shape = servers_of(self.study.execution), self._shape(work)
        ranks = max(1, gpus * nodes - servers) if gpus else nodes
        bench, here = self.estimates.bench(shape, self.machine, ranks), -(-(ranks + servers) // nodes)
        peak, weights, seconds = bench.fullest, saved_gb(shape, "float32"), self._seconds(work, ranks)
        moments = peak.host.get("moments", 0.0)
        if not gpus:
            host = peak.device_gb + moments + 2 * weights + self._engines(weights)
            return self._on_processors(host, seconds, nodes)
        # Each rank reads all weights, and the first holds them twice more while it saves.
        host = here * (PROCESS_GB + weights) + 2 * weights + here * moments
        return Need(gpus, nodes, ranks, peak.device_gb, host, seconds, bench.holds and gpus > servers)

    def _on_processors(self, host_gb: float, seconds: float, nodes: int = 1) -> Need:
        return Need(0, nodes, nodes, 0.0, MEMORY_MARGIN * host_gb, seconds, not self.site.gpus)

    def _shape(self, work: Work) -> Dimensions:
        start = self.estimates.start(work)
        assert start is not None, "what trains or answers has a model to start from"
        return self.estimates.shape(start)

    def _seconds(self, work: Work, ranks: int = 1) -> float:
        return self.estimates.cost(work, Layout(self.site.machine, self.machine, ranks)).seconds

    def _engines(self, weights: float) -> float:
        """10^9 bytes of vLLM on the processors of a training's node: servers, or an engine in the process."""
        execution, engine = self.study.execution, self.study.execution.vllm
        if execution.sampler != "vllm" or (engine and engine.address):
            return 0.0
        return (engine.replicas if engine else 1) * (PROCESS_GB + weights + ((engine and engine.cache_gb) or 0.0))

    def _answering(self, work: Work, gpus: int | None) -> Need:
        """All benchmarks: the first job of a model answers the others ahead."""
        study, machine, shape = self.study, self.machine, self._shape(work)
        dtype, by_vllm = study.execution.compute_dtype, study.execution.answers == "vllm"
        seconds = sum(self._seconds(work._replace(benchmark=name)) for name in study.benchmarks)
        weights, held = saved_gb(shape, dtype), BYTES[dtype] * parameters(shape) / GB
        if not by_vllm and dtype == "bfloat16":
            held += weights  # kept as they are read, beside those that are computed with
        if self.site.gpus if gpus is None else gpus:
            device = held + machine.base_gb
            return Need(gpus or 1, 1, 1, device, PROCESS_GB + 2 * weights, seconds, costs.fits(device, machine))
        longest = study.rollouts.max_prompt_tokens + study.rollouts.max_response_tokens
        row = longest * cache_bytes(shape, dtype) + 8 * 4 * shape.vocab_size
        host = PROCESS_GB if by_vllm else machine.base_gb
        return self._on_processors(host + held + weights + study.execution.sampler_rows * row / GB, seconds)

    def _asking(self, work: Work, gpus: int | None) -> Need:
        expert, shape = self.estimates.expert(work.of)
        dtype = str(expert.options.get("dtype", self.study.execution.compute_dtype))
        weights, seconds = BYTES.get(dtype, 2) * parameters(shape) / GB, self._seconds(work)
        devices = expert.tensor_parallel * expert.replicas
        host = devices * PROCESS_GB + expert.replicas * weights
        if not (self.site.gpus if gpus is None else gpus):
            return self._on_processors(host, seconds)
        device, given = weights / expert.tensor_parallel + self.machine.base_gb, devices if gpus is None else gpus
        return Need(given, 1, 1, device, host, seconds, costs.fits(device, self.machine) and given >= devices)


# --- what the rules ask of a cluster ---


@dataclass(frozen=True)
class Requests:
    """What rules ask of a cluster for the study's jobs, under Snakemake's `settings` of resources."""

    project: Project
    settings: Any
    is_main: bool  # not a job that was sent
    sizing: Sizing | None  # None where the profile names no `site`
    needs: dict[Work, Need] = field(default_factory=dict[Work, Need])  # once looked up

    @classmethod
    def of(cls, project: Project, settings: Any, is_main: bool) -> "Requests":
        """Raises UserError where a study, model or machine of the profile's site is not known."""
        site = site_of(settings.overwrite_resources)
        return cls(project, settings, is_main, Sizing.of(project, Path("."), site) if site else None)

    @property
    def retries(self) -> int | None:
        """How often a job that continues what it saved begins again; None where jobs are sent: the profile says it.

        One that failed for a reason of its own fails again there, soon. A job that was sent ends, and is sent again
        with more time.
        """
        return 3 if self.is_main and self.settings.nodes is None else None

    def of_rule(self, rule: str) -> dict[str, Any]:
        """Resources of the jobs of a rule, as the plan needs them; what a profile says of the rule counts more."""
        resources = {name: self._planned(rule, name) for name in (self.sizing.resources_named if self.sizing else ())}
        to_a_cluster = self.is_main and self.settings.nodes is not None and self.settings.default_resources is not None
        return resources | ({"slurm_extra": self._told_before_its_end} if to_a_cluster and rule in TRAINS else {})

    def _planned(self, rule: str, name: str) -> Callable[..., Any]:
        def value(wildcards: Any, attempt: int) -> Any:
            of = next(found for key in ("arm", "start", "traces") if (found := wildcards.get(key)))
            return self._resources(Work(rule, any_seed(of), wildcards.get("benchmark", "")), attempt)[name]

        return value

    def _resources(self, work: Work, attempt: int) -> dict[str, Any]:
        assert self.sizing is not None, "only a site has resources"
        if work not in self.needs:
            given = self.settings.overwrite_resources.get(work.rule, {})
            gpus, nodes = (given[name].raw if name in given else None for name in ("gres", "nodes"))
            spread = nodes if isinstance(nodes, int) else 1
            self.needs[work] = self.sizing.need(work, gpus_named(gpus) if "gres" in given else None, spread)
        return self.sizing.resources(self.needs[work], attempt)

    def _told_before_its_end(
        self, wildcards: Any, input: Any, attempt: int, threads: int, rulename: str, async_run: Any
    ) -> str:
        """`slurm_extra` of all jobs, and that Slurm tells a training five minutes before its time is up."""
        known = {"input": input, "attempt": attempt, "threads": threads, "rulename": rulename, "async_run": async_run}
        extra = self.settings.default_resources.get("slurm_extra").evaluate(wildcards, **known).value
        return f"{extra or ''} --signal=USR1@300".lstrip()

    def shown(self, wildcards: Any, resources: Any) -> str:
        """What a job is sent to Slurm with, for its message: partition, GPUs, memory and minutes; nothing elsewhere."""
        if resources.get("slurm_partition") is None:
            return ""
        names = ("slurm_partition", "gres", "nodes", "mem_mb", "runtime")
        return "".join(f"; {name} {value}" for name in names if (value := resources.get(name)) is not None)

    def launcher(self, wildcards: Any, resources: Any, threads: int) -> str:
        """What goes before the command of a training: a process for each GPU that learns, where there are several."""
        nodes = int(resources.get("nodes", 1))
        gpus, beside = divided(resources.get("gres"), self.project.study.execution)
        if gpus * nodes - beside == 1:
            return ""
        start = wildcards.get("start")
        run = f"models/{start}" if start else f"runs/{wildcards.arm}/seed-{wildcards.seed}"
        served = f"--beside {beside} " if beside else ""
        command = f"python -m chord launch --per-node {gpus} {served}--logs results/{wildcards.study}/{run}/ranks -- "
        cpus = resources.get("cpus_per_task", threads)
        each = f"--nodes={nodes} --ntasks={nodes} --ntasks-per-node=1 --cpus-per-task={cpus} --kill-on-bad-exit=1"
        return command if nodes == 1 else f"{resources.get('mpi', 'srun')} {each} {command}"
