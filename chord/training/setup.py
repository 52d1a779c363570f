"""What surrounds a training: command line, start model, data, resume state, outputs."""

import argparse
import hashlib
import math
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import safetensors.torch
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from chord.config.project import Run
from chord.config.study import Zero
from chord.data.prompts import as_recorded, end_ids
from chord.errors import UserError
from chord.provenance.cli import Number
from chord.provenance.digest import code_digest
from chord.provenance.files import Lease, atomic_folder, content_hash, write_atomically
from chord.reach import PlugPoint
from chord.records import Problem, Sampler, Trace, candidate_name, read_lines
from chord.settings import derive
from chord.steps import of_training
from chord.training import checkpoint
from chord.training.checkpoint import Logs, Progress
from chord.training.engine import Engine, Plain, World, adam
from chord.training.policy import (
    DTYPES,
    as_policy,
    blank_model,
    character_tokenizer,
    configured_ends,
    load_policy,
    recompute_layers,
    weights_dtype,
)
from chord.training.rollouts import PRACTICE, Feed

if TYPE_CHECKING:
    from chord.training.rollouts import Practice
    from chord.training.weight_sync import HandOver

# --- command line --------------------------------------------------------------------------------

INPUTS = {
    "run": "the resolved recipe, run.json",
    "start": "folder of the model to start from; none for a recipe with init: random",
    "prompts": "training problems (JSON lines); for recipes that sample",
    "traces": "expert traces (JSON lines); for recipes that imitate",
    "solved": "problems that the traces solve (JSON lines); for recipes that sample and imitate",
    "validation": "validation problems (JSON lines)",
}
OUTPUTS = {
    "model": "folder to write the trained model to",
    "metrics": "file to write the metrics to, a JSON line a step",
    "timing": "file to write seconds and memory to, a JSON line a step",
    "tensorboard": "folder for TensorBoard events",
    "validation-answers": "file to write answers to validation problems to; for recipes that only imitate",
    "candidates": "folder to write the weights of each validated step to; for recipes with keep: every",
}
OTHERS = {
    "manifest": "file to write the manifest to",
    "state": "folder for checkpoints; the same folder continues a run that was stopped",
}
REQUIRED = ("run", "validation", "model", "metrics", "timing", "manifest", "state")


def arguments() -> argparse.Namespace:
    """The command line of `chord train`."""
    parser = argparse.ArgumentParser(prog="chord train", description="Train one arm as its run.json says.")
    for name, what in (INPUTS | OUTPUTS | OTHERS).items():
        parser.add_argument(f"--{name}", type=Path, required=name in REQUIRED, help=what)
    for name, least, default, what in (
        ("threads", 1, 1, "threads of the CPU; another number may move the last bits of the result"),
        ("checkpoint-every-steps", 1, 20, "steps that a kill costs at most; moves no bit of the result"),
        ("checkpoint-every-minutes", None, 5.0, "the same in minutes; whichever comes first"),
    ):
        number: dict[str, Any] = {"action": Number, "kind": type(default), "least": least, "default": default}
        parser.add_argument(f"--{name}", help=f"{what} (default: {default})", **number)
    return parser.parse_args()


class Task(NamedTuple):
    """What a rank is asked to do: its command line, run.json, and its place among the ranks."""

    args: argparse.Namespace
    run: Run
    world: World

    def files(self, table: dict[str, str]) -> dict[str, Path]:
        """The paths that were given for the flags of a table, by name."""
        names = [flag.replace("-", "_") for flag in table]
        return {name: path for name, path in vars(self.args).items() if name in names and path is not None}

    def records(self, name: str, kind: Any, needed: bool) -> list[Any]:
        """The records of one input, none if the recipe has no use for them."""
        path = vars(self.args)[name]
        if needed and path is None:
            raise UserError(
                f"--{name}: found nothing, expected a file of {kind.__name__} lines: arm '{self.run.arm}' reads them"
            )
        return read_lines(path, kind) if needed else []


def check_outputs(task: Task) -> None:
    """Raises UserError for an output flag that the recipe lacks or has no use for."""
    recipe, given = task.run.recipe, task.files(OUTPUTS)
    imitates = not recipe.needs_rollouts
    for name, wanted in {"validation_answers": imitates, "candidates": recipe.keep == "every"}.items():
        if (wanted and name not in given) or (name in given and not imitates):
            found, expected = ("a path", "none") if name in given else ("nothing", "a path to write to")
            kind = "only imitates" if imitates else "samples rollouts"
            raise UserError(
                f"--{name.replace('_', '-')}: found {found}, expected {expected}: arm '{task.run.arm}' {kind} and"
                f" keeps {recipe.keep}"
            )


# --- training ------------------------------------------------------------------------------------


@dataclass
class Training:
    """One run in progress. Only the leading rank has logs and a lease."""

    args: argparse.Namespace
    run: Run
    world: World
    engine: Engine
    tokenizer: PreTrainedTokenizerBase
    feed: Feed
    practice: "Practice | None"  # none where nothing is sampled to learn from
    sync: "HandOver | None"  # to a sampler that has weights of its own
    state: Path
    steps: int
    progress: Progress
    extra: dict[str, Any]  # for the manifest
    logs: Logs | None = None
    lease: Lease | None = None
    stop: str = ""  # the signal that asked for a stop
    saved_at: float = field(default_factory=time.monotonic)

    def say(self, message: str) -> None:
        """One plain line for a person or a log, from the leading rank."""
        if self.world.leads:
            print(f"chord train: {message}", file=sys.stderr, flush=True)

    def ask_to_stop(self, number: int, _frame: object) -> None:
        """Remembers the signal; the loop saves and stops after the step in hand."""
        self.stop = signal.Signals(number).name

    def save(self) -> None:
        """Writes a checkpoint on the leading rank; the others give it what they alone hold."""
        weights, moments = self.engine.weights(), self.engine.moments()
        if self.logs is not None and self.lease is not None:
            self.lease.check()  # suspended for minutes, this process may have been replaced by another
            self.progress.log_bytes = self.logs.sync()
            checkpoint.save(self.state, self.progress, weights, moments)
            self.saved_at = time.monotonic()

    def keep_weights(self, step: int) -> dict[str, str]:
        """Keeps the present weights as those of `step`; gives their hash by step, nothing on other ranks."""
        weights = self.engine.weights()
        return {str(step): checkpoint.keep_weights(self.state, step, weights)} if self.world.leads else {}

    def write_outputs(self) -> None:
        """The kept model with its tokenizer, candidates and logs, each whole or absent; by the leading rank."""
        args, progress, model = self.args, self.progress, self.engine.model
        weights = self.engine.weights()
        if self.logs is None:
            return
        self.logs.sync()
        if self.run.recipe.keep == "best":
            weights = safetensors.torch.load_file(checkpoint.kept_file(self.state, progress.best_step))
            self.say(f"keeps step {progress.best_step}, validation accuracy {progress.best_accuracy:.3f}")
        with checkpoint.full_disk_explained(args.state), atomic_folder(args.model) as folder:
            config: Any = model.config
            config._attn_implementation = "sdpa"  # what any other reader of the folder should use
            model.save_pretrained(folder, state_dict=weights)
            self.tokenizer.save_pretrained(folder)
        if args.candidates is not None:
            with atomic_folder(args.candidates) as folder:
                for step in map(int, progress.kept):
                    shutil.copyfile(checkpoint.kept_file(self.state, step), folder / candidate_name(step))
        logs = {checkpoint.METRICS: args.metrics, checkpoint.TIMING: args.timing}
        for name, target in (logs | {checkpoint.ANSWERS: args.validation_answers}).items():
            if target is not None:
                write_atomically(target, (self.state / name).read_bytes())


def set_up(task: Task, stack: ExitStack) -> Training:
    """Model, optimizer, data and logs as of the newest whole checkpoint. What grades ends with the stack."""
    args, run, world = task
    recipe = run.recipe
    prompts = task.records("prompts", Problem, recipe.needs_rollouts)
    traces = task.records("traces", Trace, recipe.needs_experts)
    solved = task.records("solved", Problem, recipe.needs_rollouts and recipe.needs_experts)
    validation = read_lines(args.validation, Problem)
    _check_alignment(task, prompts, traces)
    model, tokenizer = _start(task)
    state = args.state / _state_digest(task)
    found = world.from_leader(checkpoint.newest(state) if world.leads else None)
    progress, moments = checkpoint.load(found, model) if found else (Progress(), {})
    engine, extra = ENGINES["deepspeed" if run.execution.zero.stage else "torch"](task, model)
    engine.load_moments(moments)
    ends = end_ids(tokenizer, configured_ends(engine.readable))
    sampler, sync = SAMPLERS[run.execution.sampler](task, engine.readable, tokenizer, ends)
    feed = Feed(run, tokenizer, sampler, world, traces, validation)
    practice = PRACTICE["rollouts" if recipe.needs_rollouts else "none"](stack, feed, prompts)
    if practice is not None and recipe.needs_experts:
        practice.check_experts(solved, args.traces)
    first = (prompts or traces or validation)[0].prompt
    here = {"ranks": world.size, "zero": run.execution.zero.model_dump()}
    if not progress.stretches or {key: progress.stretches[-1][key] for key in here} != here:
        progress.stretches.append({"from_step": progress.step} | here)  # equal to others up to float order
    extra |= as_recorded(tokenizer, ends, first, date=run.prompt_date) | {"stretches": progress.stretches}
    steps = _steps(run, len(traces))
    training = Training(*task, engine, tokenizer, feed, practice, sync, state, steps, progress, extra)
    if world.leads:
        if progress.step == 0 and {path.parent for path in args.state.glob("*/step-*")} - {state}:
            training.say(f"{args.state} holds the state of another recipe, code or data; starting fresh beside it")
        training.logs = Logs(state, progress.log_bytes, args.tensorboard)
    return training


def _steps(run: Run, traces: int) -> int:
    """The number of updates; epochs count passes over the expert set, and a started step is a whole one."""
    if run.recipe.steps is not None:
        return run.recipe.steps
    assert run.recipe.epochs is not None and run.expert_rows_per_step is not None
    return max(1, math.ceil(run.recipe.epochs * traces / run.expert_rows_per_step - 1e-9))


def _check_alignment(task: Task, prompts: list[Problem], traces: list[Trace]) -> None:
    """LUFFY's expert answers the very prompts that the policy answers."""
    recipe = task.run.recipe
    missing = {problem.id for problem in prompts} - {trace.problem for trace in traces}
    if missing and recipe.traces == "aligned":
        raise UserError(
            f"{task.args.traces}: found no trace for {len(missing)} of {len(prompts)} prompts, {min(missing)} first;"
            f" expected one for each: method {recipe.method} needs prompt-aligned traces"
        )


def _state_digest(task: Task) -> str:
    """What resume state belongs to: the recipe, the data, the start model and the code that this recipe can reach.

    How the sums are divided among ranks is left out: one state is continued by any of them.
    """
    run = task.run
    told = run.model_copy(update={"execution": run.execution.model_copy(update={"zero": Zero()})}).model_dump_json()
    code = code_digest("chord train", {**of_training(run).uses, "engine": ENGINES.names})
    parts = [f"{name} {content_hash(path)}" for name, path in sorted(task.files(INPUTS).items()) if name != "run"]
    return hashlib.sha256("\n".join([*parts, f"run {told}", f"code {code}"]).encode()).hexdigest()[:16]


# --- start model, engine, sampler ----------------------------------------------------------------

Start = tuple[PreTrainedModel, PreTrainedTokenizerBase]


def _start(task: Task) -> Start:
    """The model to train: a blank one, or the one of --start. Weights in float32, in float64 if computed so."""
    execution, cuda = task.run.execution, torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if cuda else torch.device("cpu")
    dtype = weights_dtype(DTYPES[execution.compute_dtype])
    model, tokenizer = STARTS["random" if task.run.recipe.init == "random" else "model"](task, dtype)
    torch.nn.Module.to(model, device=device, dtype=dtype)  # the method of transformers is typed for one argument
    if execution.recompute_activations:
        recompute_layers(model)
    return model, tokenizer


STARTS = PlugPoint[Callable[[Task, torch.dtype], Start]]("start")


@STARTS.entry("random")
def _blank(task: Task, _dtype: torch.dtype) -> Start:
    described, seed = task.run.model, derive(task.run.seed, "initial weights")
    if described is None or described.architecture is None or described.alphabet is None:
        raise UserError(f"{task.args.run}: recipe.init is random, expected `model` with architecture and alphabet")
    tokenizer = character_tokenizer(described.alphabet)
    return as_policy(blank_model(described.architecture.model_dump(), tokenizer, seed)), tokenizer


@STARTS.entry("model")
def _loaded(task: Task, dtype: torch.dtype) -> Start:
    start, run = task.args.start, task.run
    if start is None or not (start / "config.json").is_file():
        raise UserError(
            f"--start: found {start or 'nothing'}, expected the folder of a model: arm '{run.arm}' starts from"
            f" {run.recipe.init}"
        )
    try:
        return load_policy(start, dtype)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{start}: found no model that can be read ({error}), expected config.json, safetensors, tokenizer"
        ) from None


# What carries the model through its steps, and what the manifest says of it.
ENGINES = PlugPoint[Callable[[Task, PreTrainedModel], tuple[Engine, dict[str, Any]]]]("engine")


@ENGINES.entry("torch")
def _torch(task: Task, model: PreTrainedModel) -> tuple[Engine, dict[str, Any]]:
    return Plain(model, adam(model, task.run.recipe.learning_rate, task.run.optimiser), task.world), {}


@ENGINES.entry("deepspeed")
def _deepspeed(task: Task, model: PreTrainedModel) -> tuple[Engine, dict[str, Any]]:
    from chord.training.sharded import Sharded, preflight

    run, world = task.run, task.world
    measured = preflight(model, run.execution, run.optimiser, world)
    engine = Sharded(model, run.recipe.learning_rate, run.optimiser, run.execution.zero, world)
    return engine, {"preflight": measured}


# What samples, until one of the end tokens: the model itself, or an engine to which the weights are handed over.
SamplerOf = tuple[Sampler, "HandOver | None"]
SAMPLERS = PlugPoint[Callable[[Task, PreTrainedModel, PreTrainedTokenizerBase, list[int]], SamplerOf]]("sampler")


@SAMPLERS.entry("transformers")
def _by_transformers(
    task: Task, model: PreTrainedModel, _tokenizer: PreTrainedTokenizerBase, ends: list[int]
) -> SamplerOf:
    from chord.training.transformers_sampler import TransformersSampler

    execution = task.run.execution
    return TransformersSampler(model, ends, execution.sampler_rows, DTYPES[execution.compute_dtype]), None


@SAMPLERS.entry("vllm")
def _by_vllm(task: Task, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, ends: list[int]) -> SamplerOf:
    from chord.training.weight_sync import start

    sync = start(task.run, model, tokenizer, ends, task.world, task.args.state / "sampler")
    return sync.sampler, sync
