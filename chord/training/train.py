"""A resolved recipe, a start model and data become a model and its metrics. The order of a training step is here.

    chord train --run run.json --start MODEL --prompts P --traces T --validation V --model OUT ...

Works alone or under torchrun: `torchrun --standalone --nproc-per-node 2 -m -- chord train --run ...`, where without the
two dashes torchrun takes --run and --start for options of its own. Killed at any moment, the same command continues
from the last checkpoint and ends with the same bytes. Exit codes: 0 done, 75 saved and to be continued (SIGTERM or
SIGUSR1), 2 bad input, 3 not finite, 4 a sampler that holds other weights than the learner (these are saved).

Another number of threads may move last bits, and with them what is sampled; the manifest has the number. A recipe that
only imitates needs no grader: `chord validate` grades its answers to validation problems.
"""

import json
import math
import os
import shutil
import signal
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from tqdm import tqdm
from transformers.utils.logging import disable_progress_bar

from chord.config.project import Run
from chord.objective import Step
from chord.provenance.files import Lease, write_atomically
from chord.provenance.manifest import Manifest
from chord.reach import decides_nothing
from chord.records import StaleSampler
from chord.steps import of_training
from chord.training.engine import World, join_world, leave_world
from chord.training.gradient import NotFinite, Sequence, accumulate_gradient
from chord.training.setup import INPUTS, OUTPUTS, Task, Training, arguments, check_outputs, set_up

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
    cast(Any, torch.utils.deterministic).fill_uninitialized_memory = False  # nothing reads what it has not written
    disable_progress_bar()  # of transformers, for files read and written in no time; training has its own
    check_outputs(Task(args, run, World()))
    task = Task(args, run, join_world(alone_too=run.execution.zero.stage > 0))
    code = _lead(task) if task.world.leads else _train(task, None)[0]
    leave_world()
    return code


def _lead(task: Task) -> int:
    """Trains as the rank that owns the state and writes all files; gives the exit code."""
    args, run, _ = task
    recording = Manifest.recording(
        args.manifest,
        of_training(run),
        inputs=task.files(INPUTS),
        outputs=task.files(OUTPUTS),
        seeds={"run": run.seed},
        extra=machine(task),
    )
    with Lease.acquire(args.state, wait_if_unseen=True) as lease:
        with recording as recorded:
            code, training = _train(task, lease)
            if code:
                raise SystemExit(code)
            recorded.extra |= training.extra
        drop_state(training.state)
    return 0


def drop_state(state: Path) -> None:
    """Removes the checkpoints of a run whose outputs and manifest are written."""
    shutil.rmtree(state)


@decides_nothing("it is recorded")
def machine(task: Task) -> dict[str, Any]:
    """The device and the switches that may move last bits, for the manifest."""
    return {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "cpu_threads": task.args.threads,
        "deterministic": task.run.execution.deterministic,
        "compute_dtype": task.run.execution.compute_dtype,
        "ranks": task.world.size,
    }


def _train(task: Task, lease: Lease | None) -> tuple[int, Training]:
    """Sets up or resumes, steps to the end, writes the outputs; gives the exit code."""
    task.world.from_leader(None)  # nobody reads the state before the leading rank owns it
    with ExitStack() as stack:
        training = set_up(task, stack)
        training.lease, progress = lease, training.progress
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, training.ask_to_stop)
        training.say(f"{task.run.arm}, seed {task.run.seed}: {training.steps} steps, from step {progress.step}")
        try:
            _sync_sampler(training)
            finished = _loop(training)
        except NotFinite as error:
            dump = training.state / f"not-finite-step-{progress.step:06d}.json"
            report = {"step": progress.step, "what": str(error), "run": task.run.model_dump(mode="json")}
            write_atomically(dump, json.dumps(report, indent=1))
            training.say(f"step {progress.step + 1}: {error}; no weight was changed; see {dump}")
            return NOT_FINITE, training
        except StaleSampler as error:
            if progress.pending:
                training.save()
            training.say(
                f"step {progress.step}: {error}; the learner's weights are saved; the same command hands them over"
                " again"
            )
            return STALE, training
    if not finished:
        training.say(f"{training.stop or 'stopped'}: saved after step {progress.step}; the same command continues")
        return CONTINUE_ME, training
    training.write_outputs()
    if training.sync is not None:
        training.sync.sampler.close()
    return 0, training


# --- the step ------------------------------------------------------------------------------------


@dataclass
class Clock:
    """Seconds of a step by phase; wall clock, so never part of what must repeat."""

    seconds: dict[str, float] = field(default_factory=dict[str, float])
    _since: float = field(default_factory=time.perf_counter)

    def lap(self, phase: str) -> None:
        """Books the time since the last lap to `phase`."""
        now = time.perf_counter()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self._since
        self._since = now


def _loop(training: Training) -> bool:
    """Steps until the end or until a signal asks to stop; whether the end was reached."""
    progress, run, world = training.progress, training.run, training.world
    bar = tqdm(total=training.steps, initial=progress.step, unit="step", disable=None, desc=f"{run.arm} {run.seed}")
    if progress.step == 0 and not progress.log_bytes:
        record = {"step": 0, "validation": _validate(training)}
        if training.logs is not None:
            training.logs.write(record, {})
    if progress.pending:
        _finish(training, bar, Clock())
    while progress.step < training.steps:
        if any(world.gather(training.stop)):
            training.save()
            return False
        clock = Clock()
        record = _step(training, clock)
        progress.step += 1
        progress.pending = {"step": progress.step, **record}
        _finish(training, bar, clock)
        minutes, args = (time.monotonic() - training.saved_at) / 60, training.args
        due = progress.step % args.checkpoint_every_steps == 0 or minutes >= args.checkpoint_every_minutes
        if world.from_leader(due):  # ranks have clocks of their own
            training.save()
    bar.close()
    if training.logs is not None:
        training.logs.close()
    return True


def _step(training: Training, clock: Clock) -> dict[str, Any]:
    """One update: draw, sample, grade, forward, backward, Adam; gives the metrics. Weights change only if finite."""
    run, engine, progress = training.run, training.engine, training.progress
    now, schedule = Step(progress.step, run.seed, progress.mu_state), run.recipe.mu
    mu, rollouts = schedule.mu(now), None
    if mu is None or mu < 1:
        assert training.practice is not None, "a mu below 1 makes a recipe one with rollouts"
        engine.hand_over()
        rollouts = training.practice.rollouts(progress.step)
        now = now._replace(mean_reward=rollouts.mean_reward)
    if training.sync is not None:
        training.sync.sampler.rest()
    clock.lap("sample")
    mu = schedule.mu(now) if mu is None else mu
    assert mu is not None, "with the rewards, every schedule knows mu"
    experts: list[Sequence] = []
    if mu > 0:
        assert run.expert_rows_per_step is not None, "a mu above 0 makes a recipe one that mixes experts"
        experts = training.feed.experts(progress.expert_position, run.expert_rows_per_step)
        progress.expert_position += run.expert_rows_per_step
    batch = [*(rollouts.sequences if rollouts else []), *experts]
    sums = accumulate_gradient(engine, batch, mu, run.recipe, run.policy_loss, run.execution, run.sampling.temperature)
    rate = run.recipe.rate_at(progress.step, training.steps, run.optimiser.warmup_steps)
    norm = engine.update(rate, run.optimiser.max_grad_norm)
    if not math.isfinite(norm):
        raise NotFinite(f"the gradient norm is {norm}; sequences: {json.dumps([one.name for one in batch])}")
    progress.mu_state = schedule.observed(now, mu, norm)
    clock.lap("learn")
    size = len(training.feed.traces)
    return {  # None where a branch did not take part
        "mu": mu,
        "loss": sums.values["loss"],
        "policy_loss": sums.mean("policy_loss", "rollout_tokens"),
        "imitation_loss": sums.mean("imitation_loss", "expert_tokens"),
        "phi_mean": sums.mean("phi", "expert_tokens"),
        "expert_logp": sums.mean("expert_logp", "expert_tokens"),
        "grad_norm": norm,
        "policy_entropy": sums.mean("policy_entropy", "rollout_tokens"),
        "expert_entropy": sums.mean("expert_entropy", "expert_tokens"),
        "reward": rollouts.mean_reward if rollouts else None,
        "outcomes": rollouts.outcomes if rollouts else None,
        "response_tokens": rollouts.mean_tokens if rollouts else None,
        "rollout_tokens": int(sums.values.get("rollout_tokens", 0)),
        "expert_tokens": int(sums.values.get("expert_tokens", 0)),
        "clip_fraction": sums.mean("clipped", "rollout_tokens"),
        "logp_mismatch": sums.mean("logp_mismatch", "rollout_tokens"),
        "learning_rate": rate,
        "expert_epochs": progress.expert_position / size if size else None,
    }


def _finish(training: Training, bar: Any, clock: Clock) -> None:
    """What follows an update: the weights go to the sampler, are validated where due, and the step is logged."""
    progress = training.progress
    record = progress.pending | _sync_sampler(training)
    if training.sync is not None:
        clock.lap("hand over")
    due = training.run.validation.samples_at(progress.step, training.steps) > 0
    record["validation"] = _validate(training) if due else None
    clock.lap("validate")
    if training.logs is not None:
        training.logs.write(record, clock.seconds)
    _show(training, bar, record)
    progress.pending = {}


def _sync_sampler(training: Training) -> dict[str, Any]:
    """Gives the weights to a sampler that has its own; the proof, for the metrics. Raises StaleSampler."""
    if training.sync is None:
        return {}
    training.engine.hand_over()
    return {"sampler": training.sync.over(training.engine.readable.named_parameters(), training.progress.step)}


def _validate(training: Training) -> dict[str, Any]:
    """Validation of the present weights: graded where there is a grader, else written down to be graded later."""
    progress, keep = training.progress, training.run.recipe.keep
    training.engine.hand_over()
    answers = training.feed.validate(progress.step, training.steps)
    lengths = {"response_tokens": sum(answer.response_tokens for answer in answers) / len(answers)}
    if training.practice is None:
        if training.logs is not None:
            training.logs.write_answers(answers)
        if progress.step > 0 and keep == "every":
            progress.kept |= training.keep_weights(progress.step)
        return lengths
    accuracy, outcomes = training.practice.graded(answers)
    if progress.step > 0 and accuracy > progress.best_accuracy and keep == "best":
        progress.best_step, progress.best_accuracy = progress.step, accuracy
        progress.kept = training.keep_weights(progress.step)
    return {"accuracy": accuracy, **lengths, "outcomes": outcomes}


def _show(training: Training, bar: Any, record: dict[str, Any]) -> None:
    """Progress: a bar in a terminal, a plain line every tenth of the run in a log."""
    step, steps, found = record["step"], training.steps, record["validation"]
    mu, loss, reward, logp = (
        "-" if record[name] is None else f"{record[name]:.3f}" for name in ("mu", "loss", "reward", "expert_logp")
    )
    bar.update(1)
    bar.set_postfix(mu=f"{record['mu']:.2f}", reward=reward, loss=loss)
    if bar.disable and (step % max(1, steps // 10) == 0 or step == steps):
        accuracy = f", validation accuracy {found['accuracy']:.3f}" if found and "accuracy" in found else ""
        training.say(
            f"step {step}/{steps}: mu {mu}, loss {loss}, reward {reward}, expert log-probability {logp}{accuracy}"
        )
