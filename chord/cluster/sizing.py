"""What each job that computes with a model needs: seconds, GPUs and memory, on a machine of config/planning.yaml.

`chord plan` adds it up, the rules ask Slurm for it, `chord doctor` holds it against a profile. Loads no torch.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from chord.cluster import costs
from chord.cluster.costs import BYTES, GB, Bench, Cost, Setting, cache_bytes, dimensions, parameters, saved_gb, steps_of
from chord.config.project import Project
from chord.config.reading import validated
from chord.config.sets import answered, asked_expert, corpus_of_start, expert_of, split_of, start_models, start_of
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


# --- seconds ---


@dataclass(frozen=True)
class Layout:
    """Which machine, and how many of its devices a training and an answering job get."""

    name: str
    machine: Machine
    devices: int
    answering: int


def shape_of(
    study: Study, planning: Planning, folder: str, model: Model | None = None, root: Path = Path(".")
) -> Dimensions:
    """The shape of a model, by default a start, in a folder of models/ below `root`: its own file's if it is there."""
    fetched = root / "results" / study.name / "models" / folder / "model"
    return dimensions(model or start_models(study)[folder], planning, fetched)


def shapes_below(project: Project, planning: Planning, works: Iterable[Work], root: Path) -> dict[str, Dimensions]:
    """The shape of each start model that the jobs compute with."""
    starts = dict.fromkeys(start for work in works if (start := start_below(project, work)))
    return {start: shape_of(project.study, planning, start, root=root) for start in starts}


def start_below(project: Project, work: Work) -> str | None:
    """The start model whose shape a job computes with; None for jobs that need no policy."""
    if work.rule == "train_base":
        return work.of
    return start_of(project.arms, work.of) if work.rule in (*TRAINS, "generate", "choose") else None


def lengths_of(study: Study, planning: Planning) -> Lengths:
    """The study's mean lengths. Raises UserError where config/planning.yaml has none."""
    if study.name not in planning.lengths:
        raise UserError(f"config/planning.yaml: lengths has no '{study.name}', expected the study's mean lengths")
    return planning.lengths[study.name]


def machine_of(planning: Planning, name: str, where: str) -> Machine:
    """The machine of this name; `where` it was named. Raises UserError for one that is not known."""
    if name not in planning.machines:
        raise UserError(f"{where}: found '{name}', expected one of {', '.join(planning.machines)}")
    return planning.machines[name]


def cost(project: Project, planning: Planning, layout: Layout, work: Work, root: Path = Path(".")) -> Cost:
    """Of one job, with the shape of the model that it computes with; one that needs no device costs its start alone."""
    study, machine, start = project.study, layout.machine, start_below(project, work)
    lengths = lengths_of(study, planning)
    if work.rule == "ask_expert":  # on the devices of all its replicas, by its own shape
        expert = _served(study, work.of)
        shape, devices = _asked_shape(study, planning, work.of, root), expert.tensor_parallel * expert.replicas
        bench = Bench(study, shape, machine, lengths, devices, at_once=expert.requests_at_once)
        questions = split_of(study, answered(study, work.of)).size * expert.samples_per_problem
        return bench.answering(questions, lengths.expert)
    if start is None or work.rule == "choose":
        return Cost(machine.start_seconds, 0)
    shape = shape_of(study, planning, start, root=root)
    if work.rule == "generate":
        length = lengths.base if project.arms[work.of].same_as else lengths.of(work.of)
        samples = read_benchmark(root, study, work.benchmark).samples_per_problem
        bench = Bench(study, shape, machine, lengths, layout.answering)
        return bench.answering(study.benchmarks[work.benchmark].problems.size * samples, length)
    bench = Bench(study, shape, machine, lengths, layout.devices, study.execution.recompute_activations)
    if work.rule == "train_base":  # texts of an expert's length, nothing sampled
        corpus = corpus_of_start(study, start)
        steps, rows = corpus.recipe.steps or 1, corpus.rows_per_step
        seconds = machine.start_seconds + steps * bench.learning(rows, lengths.expert)
        return Cost(seconds, layout.devices, steps * rows * lengths.expert)
    recipe = project.arms[work.of].recipe
    assert recipe is not None, "only arms with a recipe are trained"
    return bench.training(work.of, recipe, study.expert_rows_per_step)


def _served(study: Study, traces: str) -> ExpertServed:
    expert = expert_of(study, traces)
    assert expert.source == "served", "only a served expert is asked"
    return expert


def _asked_shape(study: Study, planning: Planning, traces: str, root: Path = Path(".")) -> Dimensions:
    return shape_of(study, planning, asked_expert(study, traces), _served(study, traces).model, root)


def disk(project: Project, shapes: Mapping[str, Dimensions], works: Iterable[Work]) -> dict[str, float]:
    """10^9 bytes that stay in results/, and that trainings in progress need besides, each at most."""
    study, kept = project.study, 0.0
    sizes = {start: saved_gb(shape, study.execution.compute_dtype) for start, shape in shapes.items()}
    for work in works:
        start = start_below(project, work)
        if start and work.rule != "generate":
            candidates = 0
            if work.rule == "train_sft":  # an arm may keep the model of every validation, to choose one
                recipe = project.arms[work.of].recipe
                keeps_every = recipe is not None and recipe.keep == "every"
                steps = steps_of(study, recipe, study.expert_rows_per_step) if recipe and keeps_every else 1
                candidates = -(-steps // study.validation.every_steps)
            kept += sizes[start] * (1 + candidates)
    return {"models": kept, "one_training_in_progress": 5 * max(sizes.values())}


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

    project: Project
    planning: Planning
    site: Site

    @classmethod
    def of(cls, project: Project, root: Path, site: Site) -> "Sizing":
        """With config/planning.yaml below `root`, all that it is asked for looked up once."""
        found = cls(project, Planning.read(root), site)
        lengths_of(project.study, found.planning)
        for folder in start_models(project.study):
            shape_of(project.study, found.planning, folder)
        machine_of(found.planning, site.machine, WHERE)
        return found

    @property
    def machine(self) -> Machine:
        """What a GPU of the site is, or its processor."""
        return machine_of(self.planning, self.site.machine, WHERE)

    def need(self, work: Work, gpus: int | None = None, nodes: int = 1) -> Need:
        """What the job needs with so many GPUs on each of `nodes` nodes; else with those that the plan gives it.

        These are the fewest that hold the model and with which one attempt is enough; where none are, all of a node.
        """
        if work.rule == "ask_expert":
            return self._asking(work, gpus)
        if work.rule == "generate":
            return self._answering(work, gpus)
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
        cpus = self.project.study.execution.cpu_threads * -(-need.ranks // need.nodes)
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
        servers, size = servers_of(self.project.study.execution), self.site.gpus
        ranks = 1
        while ranks + servers < size:
            yield ranks + servers, 1
            ranks *= 2
        if size <= servers:
            yield 1 + servers, 1
        else:
            yield from ((size, nodes) for nodes in range(1, most // size + 1))

    def _training(self, work: Work, gpus: int, nodes: int) -> Need:
        study, machine = self.project.study, self.machine
        shape = self._shape(work)
        longest = costs.longest_sequence(study, lengths_of(study, self.planning))
        servers = servers_of(study.execution)
        ranks = max(1, gpus * nodes - servers) if gpus else nodes
        peak = costs.fullest(study, shape, machine, Setting.of(study, ranks), longest)
        weights, here = saved_gb(shape, "float32"), -(-(ranks + servers) // nodes)
        moments = peak.host.get("moments", 0.0)
        seconds = self._seconds(work, ranks)
        if gpus:
            # Each rank reads all weights, and the first holds them twice more while it saves.
            host = here * (PROCESS_GB + weights) + 2 * weights + here * moments
            holds = costs.fits(peak.device_gb, machine) and gpus > servers
            return Need(gpus, nodes, ranks, peak.device_gb, host, seconds, holds)
        host = peak.device_gb + moments + 2 * weights + self._engines(weights)
        return Need(0, nodes, ranks, 0.0, MEMORY_MARGIN * host, seconds, not self.site.gpus)

    def _shape(self, work: Work) -> Dimensions:
        start = start_below(self.project, work)
        assert start is not None, "what trains or answers has a model to start from"
        return shape_of(self.project.study, self.planning, start)

    def _seconds(self, work: Work, ranks: int = 1) -> float:
        return cost(self.project, self.planning, Layout("", self.machine, ranks, 1), work).seconds

    def _engines(self, weights: float) -> float:
        """10^9 bytes of vLLM on the processors of a training's node: servers, or an engine in the process."""
        engine = self.project.study.execution.vllm
        if self.project.study.execution.sampler != "vllm" or (engine and engine.address):
            return 0.0
        return (engine.replicas if engine else 1) * (PROCESS_GB + weights + ((engine and engine.cache_gb) or 0.0))

    def _answering(self, work: Work, gpus: int | None) -> Need:
        """All benchmarks: the first job of a model answers the others ahead."""
        study, machine, shape = self.project.study, self.machine, self._shape(work)
        dtype = study.execution.compute_dtype
        seconds = sum(self._seconds(work._replace(benchmark=name)) for name in study.benchmarks)
        weights, held = saved_gb(shape, dtype), BYTES[dtype] * parameters(shape) / GB
        if study.execution.answers == "transformers" and dtype == "bfloat16":
            held += weights  # kept as they are read, beside those that are computed with
        if self.site.gpus if gpus is None else gpus:
            device = held + machine.base_gb
            return Need(gpus or 1, 1, 1, device, PROCESS_GB + 2 * weights, seconds, costs.fits(device, machine))
        longest = study.rollouts.max_prompt_tokens + study.rollouts.max_response_tokens
        row = longest * cache_bytes(shape, dtype) + 8 * 4 * shape.vocab_size
        host = PROCESS_GB if study.execution.answers == "vllm" else machine.base_gb
        host += held + weights + study.execution.sampler_rows * row / GB
        return Need(0, 1, 1, 0.0, MEMORY_MARGIN * host, seconds, not self.site.gpus)

    def _asking(self, work: Work, gpus: int | None) -> Need:
        study, expert = self.project.study, _served(self.project.study, work.of)
        dtype = str(expert.options.get("dtype", study.execution.compute_dtype))
        weights = BYTES.get(dtype, 2) * parameters(_asked_shape(study, self.planning, work.of)) / GB
        devices, seconds = expert.tensor_parallel * expert.replicas, self._seconds(work)
        host = devices * PROCESS_GB + expert.replicas * weights
        if self.site.gpus if gpus is None else gpus:
            device = weights / expert.tensor_parallel + self.machine.base_gb
            holds = costs.fits(device, self.machine) and (gpus is None or gpus >= devices)
            return Need(devices if gpus is None else gpus, 1, 1, device, host, seconds, holds)
        return Need(0, 1, 1, 0.0, MEMORY_MARGIN * host, seconds, not self.site.gpus)
