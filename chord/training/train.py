"""A resolved recipe, a start model and data become a model and its metrics. The order of a training step lives here.

    chord train --run run.json --start MODEL --prompts P --traces T --validation V --model OUT ...

Works alone or under torchrun: `torchrun --standalone --nproc-per-node 2 -m -- chord train --run ...`, where without the
two dashes torchrun takes --run and --start for options of its own. Killed at any moment, the same command continues
from the last checkpoint and ends with the same bytes. Exit codes: 0 done, 75 saved and to be continued (SIGTERM or
SIGUSR1), 2 bad input, 3 not finite, 4 a sampler that holds other weights than the learner (these are saved).

Another number of threads may move last bits, and with them what is sampled: the demo's chord-phi, trained with 1 and
with 2, has the same first step and different digits from the second step on. The manifest tells the number.

A recipe that only imitates needs no grader: its answers to validation problems are written down as they are, and
`chord validate` grades them.
"""

import argparse
import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm
from transformers.utils.logging import disable_progress_bar

from chord.config.project import Run
from chord.objective import Step
from chord.provenance.files import Lease
from chord.provenance.manifest import Manifest
from chord.reach import PlugPoint
from chord.sampling.protocol import StaleSampler
from chord.steps import of_training
from chord.training.batch import Sequence
from chord.training.engine import World, join_world, leave_world
from chord.training.gradient import NotFinite, accumulate_gradient
from chord.training.metrics import Clock, machine, metrics_of, show, tell
from chord.training.setup import (
    Training,
    arguments,
    drop_state,
    dump_not_finite,
    keep_weights,
    outputs_of,
    save,
    set_up,
    write_outputs,
)

if TYPE_CHECKING:
    from chord.training.setup import Practise


CONTINUE_ME = 75
NOT_FINITE = 3
STALE = 4


def main() -> int:
    """Parses the command line and trains; gives the exit code."""
    args = arguments()
    run = Run.read(args.run)
    if run.execution.zero.stage == 0:
        # accelerate imports it, a second at the end, wherever it is installed, and it writes to standard output.
        sys.modules.setdefault("deepspeed", None)  # not followed: nothing uses it. # pyright: ignore[reportArgumentType] # None: not to be imported
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else deterministic kernels refuse to run on CUDA
    torch.set_num_threads(args.threads)
    torch.use_deterministic_algorithms(run.execution.deterministic)
    disable_progress_bar()  # of transformers, for files read and written in no time; training has its own
    outputs = outputs_of(args, run)
    world = join_world(alone_too=run.execution.zero.stage > 0)
    names = ("run", "start", "prompts", "traces", "solved", "validation")
    inputs: dict[str, Path] = {name: getattr(args, name) for name in names if getattr(args, name)}
    code = _lead(args, run, world, inputs, outputs) if world.leads else _train(args, run, world, inputs, None)[0]
    leave_world()
    return code


def _lead(args: argparse.Namespace, run: Run, world: World, inputs: dict[str, Path], outputs: dict[str, Path]) -> int:
    """Trains as the rank that owns the state and writes all files; gives the exit code."""
    recording = Manifest.recording(
        args.manifest,
        of_training(run),
        inputs=inputs,
        outputs=outputs,
        seeds={"run": run.seed},
        extra=machine(run, args.threads),
    )
    with Lease.acquire(args.state, wait_if_unseen=True) as lease:
        with recording as recorded:
            code, training = _train(args, run, world, inputs, lease)
            if code:
                raise SystemExit(code)
            recorded.extra |= training.told()
        drop_state(training)
    return 0


def _train(
    args: argparse.Namespace, run: Run, world: World, inputs: dict[str, Path], lease: Lease | None
) -> tuple[int, Training]:
    """Sets up or resumes, steps to the end, writes the outputs; gives the exit code."""
    world.from_leader(None)  # nobody reads the state before the leading rank owns it
    with PRACTICE["rollouts" if run.recipe.needs_rollouts else "none"](run) as practise:
        training = set_up(args, run, world, practise, inputs)
        training.lease = lease
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, lambda received, _frame: _ask_to_stop(training, received))
        training.say(f"{run.arm}, seed {run.seed}: {training.steps} steps, from step {training.progress.step}")
        try:
            _hand_over(training)
            finished = _loop(training, args)
        except NotFinite as error:
            dump = dump_not_finite(training, error)
            training.say(f"step {training.progress.step + 1}: {error}; no weight was changed; see {dump}")
            return NOT_FINITE, training
        except StaleSampler as error:
            if training.progress.untold:
                save(training)
            training.say(
                f"step {training.progress.step}: {error}; the learner's weights are saved; the same command"
                " hands them over again"
            )
            return STALE, training
    if not finished:
        training.say(
            f"{training.stop or 'stopped'}: saved after step {training.progress.step}; the same command continues"
        )
        return CONTINUE_ME, training
    write_outputs(training, args)
    if training.hand is not None:
        training.hand.sampler.close()
    return 0, training


# What makes the practice of a run out of its feed and its prompts, as long as its grader is open; none for a recipe
# that only imitates, which never imports a grader.
PRACTICE = PlugPoint[Callable[[Run], "AbstractContextManager[Practise | None]"]]("practice")


@PRACTICE.entry("rollouts")
def _with_rollouts(run: Run) -> "AbstractContextManager[Practise]":
    from chord.training.rollouts import practice_of

    return practice_of(run)


@PRACTICE.entry("none")
def _without_rollouts(_run: Run) -> "AbstractContextManager[None]":
    return nullcontext()


def _loop(training: Training, args: argparse.Namespace) -> bool:
    """Steps until the end or until a signal asks to stop; whether the end was reached."""
    progress, run = training.progress, training.run
    bar = tqdm(total=training.steps, initial=progress.step, unit="step", disable=None, desc=f"{run.arm} {run.seed}")
    if progress.step == 0 and progress.metrics_bytes == 0:
        tell(training, {"step": 0, "validation": _validate(training, 0)}, Clock())
    if progress.untold:
        _finish(training, bar, Clock())
    while progress.step < training.steps:
        if any(training.world.gather(training.stop)):
            save(training)
            return False
        clock = Clock()
        record = _step(training, progress.step, clock)
        progress.step += 1
        progress.untold = {"step": progress.step, **record}
        _finish(training, bar, clock)
        if training.world.from_leader(_due(training, args)):  # ranks have clocks of their own
            save(training)
    bar.close()
    if training.curves is not None:
        training.curves.close()
    return True


def _finish(training: Training, bar: Any, clock: Clock) -> None:
    """What follows an update: the weights go to the sampler, are validated where due, and the step is told."""
    progress = training.progress
    record = progress.untold | _hand_over(training)
    if training.hand is not None:
        clock.lap("hand over")
    due = progress.step % training.run.validation.every_steps == 0 or progress.step == training.steps
    record["validation"] = _validate(training, progress.step) if due else None
    clock.lap("validate")
    tell(training, record, clock)
    show(training, bar, record)
    progress.untold = {}


def _hand_over(training: Training) -> dict[str, Any]:
    """Gives the weights to a sampler that has its own; what proves it, for the metrics. Raises StaleSampler."""
    if training.hand is None:
        return {}
    training.engine.hand_over()
    return {"sampler": training.hand.over(training.engine.readable.named_parameters(), training.progress.step)}


def _step(training: Training, step: int, clock: Clock) -> dict[str, Any]:
    """One update: draw, forward, backward, optimiser; gives the metrics. Weights change only if all is finite."""
    run, feed, progress = training.run, training.feed, training.progress
    now, schedule = Step(step, run.seed, progress.mu_state), run.recipe.mu
    mu = schedule.mu(now)
    rollouts = None
    if mu is None or mu < 1:
        assert training.practice is not None, "a mu below 1 makes a recipe one with rollouts"
        training.engine.hand_over()
        rollouts = training.practice.rollouts(step)
    if training.hand is not None:
        training.hand.sampler.rest()
    clock.lap("sample")
    if mu is None:
        assert rollouts is not None, "a schedule that asks for rewards samples"
        mu = schedule.mu(now._replace(mean_reward=rollouts.mean_reward))
        assert mu is not None, "with the rewards, every schedule knows mu"
    experts: list[Sequence] = []
    if mu > 0:
        assert run.expert_rows_per_step is not None, "a mu above 0 makes a recipe one that mixes experts"
        experts = feed.experts(progress.expert_position, run.expert_rows_per_step)
        progress.expert_position += run.expert_rows_per_step
    batch = [*(rollouts.sequences if rollouts else []), *experts]
    sums = accumulate_gradient(
        training.engine,
        batch,
        mu,
        run.recipe,
        run.policy_loss,
        run.execution,
        run.sampling.temperature,
    )
    rate = run.recipe.learning_rate * min(1.0, (step + 1) / max(1, run.optimiser.warmup_steps))
    norm = training.engine.update(rate, run.optimiser.max_grad_norm)
    if not math.isfinite(norm):
        raise NotFinite(f"the gradient norm is {norm}; sequences: {json.dumps([one.name for one in batch])}")
    progress.mu_state = schedule.observed(now, mu, norm)
    clock.lap("learn")
    return metrics_of(training, mu, rollouts, sums, norm, rate)


def _validate(training: Training, step: int) -> dict[str, Any]:
    """Validation after `step` updates: graded where there is a grader, else written down to be graded later."""
    training.engine.hand_over()
    answers = training.feed.validate(step)
    lengths = {"response_tokens": sum(answer.response_tokens for answer in answers) / len(answers)}
    progress, keep = training.progress, training.run.recipe.keep
    if training.practice is None:
        if training.answers is not None:
            for answer in answers:
                training.answers.write(vars(answer))
        if step > 0 and keep == "every":
            progress.kept |= keep_weights(training, step)
        return lengths
    accuracy, outcomes = training.practice.graded(answers)
    if step > 0 and accuracy > progress.best_accuracy and keep == "best":
        progress.best_step, progress.best_accuracy = step, accuracy
        progress.kept = keep_weights(training, step)
    return {"accuracy": accuracy, **lengths, "outcomes": outcomes}


def _due(training: Training, args: argparse.Namespace) -> bool:
    """Whether a checkpoint is due, by steps or by minutes."""
    minutes = (time.monotonic() - training.saved_at) / 60
    return training.progress.step % args.checkpoint_every_steps == 0 or minutes >= args.checkpoint_every_minutes


def _ask_to_stop(training: Training, number: int) -> None:
    """Remembers the signal; the loop saves and stops after the step in hand."""
    training.stop = signal.Signals(number).name


if __name__ == "__main__":
    # transformers imports scikit-learn, a second at every start, for a kind of decoding that nothing here uses.
    sys.modules.setdefault("sklearn", None)  # not followed: nothing uses it. # pyright: ignore[reportArgumentType] # None: not to be imported
