"""A training run's surroundings: command line, start model, data, resume state, outputs."""

import argparse
import hashlib
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from chord.config.project import Run
from chord.config.study import Zero
from chord.data.prompts import as_recorded, end_ids
from chord.errors import UserError
from chord.provenance.cli import Number
from chord.provenance.digest import code_digest
from chord.provenance.files import Lease, atomic_folder, content_hash, write_atomically
from chord.reach import PlugPoint
from chord.records import Problem, Trace, candidate_name, derive, read_lines
from chord.sampling.protocol import Sampler
from chord.steps import of_training
from chord.training import checkpoint
from chord.training.checkpoint import Curves, LineLog, Progress
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
from chord.training.rollouts import Feed

if TYPE_CHECKING:
    from chord.training.rollouts import Practice
    from chord.training.weight_sync import HandOver

    Practise = Callable[[Feed, list[Problem]], Practice]


# --- command -------------------------------------------------------------------------------------

# The command line of `chord train`, checked against what the recipe needs. Part of that verb.


def arguments() -> argparse.Namespace:
    """The command line of `chord train`."""
    parser = argparse.ArgumentParser(prog="chord train", description="Train one arm: see run.json for what it is told.")
    for name, required, what in (
        ("run", True, "the resolved recipe, run.json"),
        ("start", False, "folder of the model to start from; none for a recipe with init: random"),
        ("prompts", False, "training problems (JSON lines); for recipes that sample"),
        ("traces", False, "expert traces (JSON lines); for recipes that imitate"),
        ("solved", False, "problems that the traces solve (JSON lines); for recipes that sample and imitate"),
        ("validation", True, "validation problems (JSON lines)"),
        ("model", True, "folder to write the trained model to"),
        ("metrics", True, "file to write the metrics to, a JSON line a step"),
        ("timing", True, "file to write seconds and memory to, a JSON line a step"),
        (
            "validation-answers",
            False,
            "file to write the answers to validation problems to; for recipes that only imitate",
        ),
        ("candidates", False, "folder to write the weights of each validated step to; for recipes with keep: every"),
        ("manifest", True, "file to write the manifest to"),
        ("state", True, "folder for checkpoints; the same folder continues a run that was stopped"),
        ("tensorboard", False, "folder for TensorBoard events"),
    ):
        parser.add_argument(f"--{name}", type=Path, required=required, help=what)
    for name, least, default, what in (
        ("threads", 1, 1, "threads of the CPU; another number may move the last bits of the result"),
        ("checkpoint-every-steps", 1, 20, "steps that a kill costs at most; moves no bit of the result"),
        ("checkpoint-every-minutes", None, 5.0, "the same in minutes; whichever comes first"),
    ):
        parser.add_argument(
            f"--{name}",
            action=Number,
            kind=type(default),
            least=least,
            default=default,
            help=f"{what} (default: {default})",
        )
    return parser.parse_args()


def outputs_of(args: argparse.Namespace, run: Run) -> dict[str, Path]:
    """What this run is to write, by flag. Raises UserError for a flag that it lacks or has no use for."""
    imitates = not run.recipe.needs_rollouts
    needed = {"validation_answers": imitates, "candidates": run.recipe.keep == "every"}
    for name, wanted in needed.items():
        given = getattr(args, name) is not None
        if (wanted and not given) or (given and not imitates):
            found, expected = ("a path", "none") if given else ("nothing", "a path to write to")
            kind = "only imitates" if imitates else "samples rollouts"
            raise UserError(
                f"--{name.replace('_', '-')}: found {found}, expected {expected}: arm '{run.arm}' {kind} and keeps"
                f" {run.recipe.keep}"
            )
    names = ("model", "metrics", "timing", "tensorboard", *needed)
    return {name: path for name in names if (path := getattr(args, name)) is not None}


def records_of(args: argparse.Namespace, name: str, kind: Any, needed: bool, run: Run) -> list[Any]:
    """The records of one input, none if the recipe has no use for them."""
    path = getattr(args, name)
    if not needed:
        return []
    if path is None:
        raise UserError(
            f"--{name}: found nothing, expected a file of {kind.__name__} lines: arm '{run.arm}' reads them"
        )
    return read_lines(path, kind)


# --- session -------------------------------------------------------------------------------------

# A training run's surroundings: command line, start model, data, resume state, outputs. Part of the verb `train`.


@dataclass
class Training:
    """One run in progress. Only the leading rank has logs."""

    run: Run
    world: World
    engine: Engine
    tokenizer: PreTrainedTokenizerBase
    feed: Feed
    practice: "Practice | None"  # none where nothing is sampled to learn from
    state: Path
    steps: int
    progress: Progress
    metrics: LineLog | None = None
    timing: LineLog | None = None
    answers: LineLog | None = None  # to validation problems, where they are graded later
    curves: Curves | None = None
    lease: Lease | None = None
    hand: "HandOver | None" = None  # to a sampler that has weights of its own
    stop: str = ""  # the signal that asked for a stop
    saved_at: float = field(default_factory=time.monotonic)
    preflight: dict[str, Any] | None = None  # what was measured before a training with DeepSpeed
    template: dict[str, Any] = field(default_factory=dict[str, Any])  # the first prompt as it is read, the end tokens

    def told(self) -> dict[str, Any]:
        """What the manifest says of the chat template, and of how steps were summed.

        Several stretches are equal to one up to float order.
        """
        told = {"stretches": self.progress.stretches} | self.template
        return told | ({"preflight": self.preflight} if self.preflight else {})

    def say(self, message: str) -> None:
        """One plain line for a person or a log; the leading rank speaks."""
        if self.world.leads:
            print(f"chord train: {message}", file=sys.stderr, flush=True)


def set_up(
    args: argparse.Namespace, run: Run, world: World, practise: "Practise | None", inputs: dict[str, Path]
) -> Training:
    """Model, optimiser, data and logs as of the newest whole checkpoint. `practise`: for a recipe with rollouts."""
    recipe = run.recipe
    prompts = records_of(args, "prompts", Problem, recipe.needs_rollouts, run)
    traces = records_of(args, "traces", Trace, recipe.needs_experts, run)
    validation = read_lines(args.validation, Problem)
    _check_alignment(run, prompts, traces, args)
    model, tokenizer = _start(args, run)
    if run.execution.recompute_activations:
        recompute_layers(model)
    state = args.state / _state_digest(run, inputs)
    found = world.from_leader(checkpoint.newest(state) if world.leads else None)
    progress, moments = checkpoint.load(found, model) if found else (Progress(), {})
    engine, preflight = ENGINES["deepspeed" if run.execution.zero.stage else "torch"](run, model, world)
    engine.load_moments(moments)
    ends = end_ids(tokenizer, configured_ends(engine.readable))
    sampler, hand = SAMPLERS[run.execution.sampler](args, run, engine.readable, tokenizer, ends, world)
    feed = Feed(run, tokenizer, sampler, world, traces, validation)
    practice = _practice(args, run, feed, practise, prompts)
    training = Training(run, world, engine, tokenizer, feed, practice, state, _steps(run, len(traces)), progress)
    training.hand, training.preflight = hand, preflight
    first = (prompts or traces or validation)[0].prompt
    training.template = as_recorded(tokenizer, ends, first, date=run.prompt_date)
    _begin_stretch(training)
    if world.leads:
        _open_logs(training, args)
    return training


# What carries the model through its steps, and what was measured of DeepSpeed before it may.
Started = tuple[Engine, dict[str, Any] | None]
ENGINES = PlugPoint[Callable[[Run, PreTrainedModel, World], Started]]("engine")


@ENGINES.entry("torch")
def _torch(run: Run, model: PreTrainedModel, world: World) -> Started:
    return Plain(model, adam(model, run.recipe.learning_rate, run.optimiser), world), None


@ENGINES.entry("deepspeed")
def _deepspeed(run: Run, model: PreTrainedModel, world: World) -> Started:
    from chord.training.sharded import Sharded, preflight

    measured = preflight(model, run.execution, run.optimiser, world)
    return Sharded(model, run.recipe.learning_rate, run.optimiser, run.execution.zero, world), measured


def _begin_stretch(training: Training) -> None:
    """Writes down on how many ranks, and how divided, the steps from here on are summed."""
    stretches, zero = training.progress.stretches, training.run.execution.zero
    here = {"ranks": training.world.size, "zero": zero.model_dump()}
    if not stretches or {key: stretches[-1][key] for key in here} != here:
        stretches.append({"from_step": training.progress.step} | here)


# What samples, until one of the end tokens: the model itself, or an engine to which the weights are handed over.
Asked = tuple[Sampler, "HandOver | None"]
SAMPLERS = PlugPoint[
    Callable[[argparse.Namespace, Run, PreTrainedModel, PreTrainedTokenizerBase, list[int], World], Asked]
]("sampler")


@SAMPLERS.entry("transformers")
def _by_transformers(
    _args: argparse.Namespace,
    run: Run,
    model: PreTrainedModel,
    _tokenizer: PreTrainedTokenizerBase,
    ends: list[int],
    _world: World,
) -> Asked:
    from chord.training.transformers_sampler import TransformersSampler

    execution = run.execution
    return TransformersSampler(model, ends, execution.sampler_rows, DTYPES[execution.compute_dtype]), None


@SAMPLERS.entry("vllm")
def _by_vllm(
    args: argparse.Namespace,
    run: Run,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    ends: list[int],
    world: World,
) -> Asked:
    from chord.training import weight_sync

    hand = weight_sync.start(run, model, tokenizer, ends, world, args.state / "sampler")
    return hand.sampler, hand


def _practice(
    args: argparse.Namespace, run: Run, feed: Feed, practise: "Practise | None", prompts: list[Problem]
) -> "Practice | None":
    """What a recipe with rollouts practises on, its expert traces checked; none for one that only imitates."""
    if practise is None:
        return None
    practice = practise(feed, prompts)
    if run.recipe.needs_experts:
        practice.check_experts(records_of(args, "solved", Problem, True, run), args.traces)
    return practice


def _open_logs(training: Training, args: argparse.Namespace) -> None:
    """The logs of the leading rank, cut back to the checkpoint."""
    state, progress = training.state, training.progress
    others = {path.parent for path in args.state.glob("*/step-*")} - {state}
    if progress.step == 0 and others:
        training.say(f"{args.state} holds the state of another recipe, code or data; starting fresh beside it")
    training.metrics = LineLog(state / "metrics.jsonl", progress.metrics_bytes)
    training.timing = LineLog(state / "timing.jsonl", progress.timing_bytes)
    if training.practice is None:
        training.answers = LineLog(state / "validation.jsonl", progress.validation_bytes)
    training.curves = Curves(args.tensorboard, state / "metrics.jsonl")


def save(training: Training) -> None:
    """Writes a checkpoint on the leading rank; the others give it what they alone hold."""
    weights, moments = training.engine.weights(), training.engine.moments()
    if not training.world.leads:
        return
    assert training.lease is not None
    training.lease.check()  # suspended for minutes, this process may have been replaced by another
    _sync_logs(training)
    checkpoint.save(training.state, training.progress, weights, moments)
    training.saved_at = time.monotonic()


def keep_weights(training: Training, step: int) -> dict[str, str]:
    """Keeps the present weights as those of `step`; gives their hash by step, nothing on other ranks."""
    weights = training.engine.weights()
    return {str(step): checkpoint.keep_weights(training.state, step, weights)} if training.world.leads else {}


def _sync_logs(training: Training) -> None:
    assert training.metrics is not None and training.timing is not None
    training.progress.metrics_bytes = training.metrics.sync()
    training.progress.timing_bytes = training.timing.sync()
    training.progress.validation_bytes = training.answers.sync() if training.answers else 0


def write_outputs(training: Training, args: argparse.Namespace) -> None:
    """The kept model with its tokenizer, candidates and logs, each whole or absent; by the leading rank."""
    progress, state, model = training.progress, training.state, training.engine.model
    weights = training.engine.weights()
    if not training.world.leads:
        return
    _sync_logs(training)
    if training.run.recipe.keep == "best":
        weights = load_file(checkpoint.kept_file(state, progress.best_step))
        training.say(f"keeps step {progress.best_step}, validation accuracy {progress.best_accuracy:.3f}")
    with checkpoint.no_room_told(args.state), atomic_folder(args.model) as folder:
        model.config._attn_implementation = "sdpa"  # what any other reader of the folder should use
        model.save_pretrained(folder, state_dict=weights)
        training.tokenizer.save_pretrained(folder)
    if args.candidates is not None:
        with atomic_folder(args.candidates) as folder:
            for step in map(int, progress.kept):
                shutil.copyfile(checkpoint.kept_file(state, step), folder / candidate_name(step))
    logs = {"metrics.jsonl": args.metrics, "timing.jsonl": args.timing, "validation.jsonl": args.validation_answers}
    for name, target in logs.items():
        if target is not None:
            write_atomically(target, (state / name).read_bytes())


def drop_state(training: Training) -> None:
    """Removes the checkpoints of a run whose outputs and manifest are written."""
    shutil.rmtree(training.state)


def dump_not_finite(training: Training, error: Exception) -> Path:
    """Writes what is known of a step that gave no finite number; weights are those before it."""
    path = training.state / f"not-finite-step-{training.progress.step:06d}.json"
    report = {"step": training.progress.step, "what": str(error), "run": json.loads(training.run.model_dump_json())}
    write_atomically(path, json.dumps(report, indent=1))
    return path


def _steps(run: Run, traces: int) -> int:
    """The number of updates; epochs count passes over the expert set, and a started step is a whole one."""
    if run.recipe.steps is not None:
        return run.recipe.steps
    assert run.recipe.epochs is not None and run.expert_rows_per_step is not None
    return max(1, math.ceil(run.recipe.epochs * traces / run.expert_rows_per_step - 1e-9))


def _check_alignment(run: Run, prompts: list[Problem], traces: list[Trace], args: argparse.Namespace) -> None:
    """LUFFY's expert answers the very prompts that the policy answers."""
    if run.recipe.traces != "aligned":
        return
    missing = {problem.id for problem in prompts} - {trace.problem for trace in traces}
    if missing:
        raise UserError(
            f"{args.traces}: found no trace for {len(missing)} of {len(prompts)} prompts, {min(missing)} first;"
            f" expected one for each: method {run.recipe.method} needs prompt-aligned traces"
        )


def _start(args: argparse.Namespace, run: Run) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model to train, weights in float32 (float64 if computed so): a blank one, or the one of --start."""
    dtype = weights_dtype(DTYPES[run.execution.compute_dtype])
    device = (
        torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        if torch.cuda.is_available()
        else torch.device("cpu")
    )
    return STARTS["random" if run.recipe.init == "random" else "model"](args, run, device, dtype)


STARTS = PlugPoint[
    Callable[[argparse.Namespace, Run, torch.device, torch.dtype], tuple[PreTrainedModel, PreTrainedTokenizerBase]]
]("start")


@STARTS.entry("random")
def _blank(
    args: argparse.Namespace, run: Run, device: torch.device, dtype: torch.dtype
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    if run.model is None or run.model.architecture is None or run.model.alphabet is None:
        raise UserError(f"{args.run}: recipe.init is random, expected `model` with architecture and alphabet")
    tokenizer = character_tokenizer(run.model.alphabet)
    model = blank_model(run.model.architecture.model_dump(), tokenizer, derive(run.seed, "initial weights"))
    return as_policy(_moved(model, device, dtype)), tokenizer


@STARTS.entry("model")
def _loaded(
    args: argparse.Namespace, run: Run, device: torch.device, dtype: torch.dtype
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    if args.start is None or not (args.start / "config.json").is_file():
        raise UserError(
            f"--start: found {args.start or 'nothing'}, expected the folder of a model: arm '{run.arm}' starts from"
            f" {run.recipe.init}"
        )
    try:
        model, tokenizer = load_policy(args.start, dtype)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{args.start}: found no model that can be read ({error}), expected config.json, safetensors, tokenizer"
        ) from None
    return _moved(model, device, dtype), tokenizer


def _moved(model: PreTrainedModel, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    """The model on `device` in `dtype`, moved in place."""
    torch.nn.Module.to(model, device=device, dtype=dtype)  # the method of transformers is typed for one argument
    return model


def _state_digest(run: Run, inputs: dict[str, Path]) -> str:
    """What resume state belongs to: the recipe, the data, the start model and the code that this recipe can reach.

    How the sums are divided among ranks is left out: one state is continued by any of them.
    """
    told = run.model_copy(update={"execution": run.execution.model_copy(update={"zero": Zero()})}).model_dump_json()
    code = code_digest("chord train", {**of_training(run).uses, "engine": ENGINES.names})
    parts = [f"{name} {content_hash(path)}" for name, path in sorted(inputs.items()) if name != "run"]
    return hashlib.sha256("\n".join([*parts, f"run {told}", f"code {code}"]).encode()).hexdigest()[:16]
