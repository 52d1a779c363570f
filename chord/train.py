"""A resolved recipe, a start model and data become a model and its metrics. The order of a training step lives here.

    python -m chord.train --run run.json --start MODEL --prompts P --traces T --validation V --model OUT ...

Works alone or under torchrun. Killed at any moment, the same command continues from the last checkpoint and ends with
the same bytes. Exit codes: 0 done, 75 saved and to be continued (after SIGTERM or SIGUSR1), 2 bad input, 3 not finite.
"""

import argparse
import json
import math
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers.utils.logging import disable_progress_bar

from chord.config import MuAdaptive, MuConstant, MuDecay, Run
from chord.learner import checkpoint
from chord.learner.gradient import NotFinite, Sums, accumulate_gradient
from chord.learner.packing import Sequence
from chord.learner.world import World, join_world
from chord.objective.schedules import adaptive_mu, decayed_mu
from chord.provenance.files import run_verb
from chord.provenance.lease import Lease
from chord.provenance.manifest import Manifest
from chord.rollout import Rollouts
from chord.session import (
    Training,
    arguments,
    drop_state,
    dump_not_finite,
    machine,
    peak_memory_mb,
    save,
    set_up,
    write_outputs,
)
from chord.tasks.graders import Grader

CONTINUE_ME = 75
NOT_FINITE = 3


@dataclass
class Clock:
    """Seconds of a step by phase; wall clock, so never part of what must repeat."""

    seconds: dict[str, float] = field(default_factory=dict)
    _since: float = field(default_factory=time.perf_counter)

    def lap(self, phase: str) -> None:
        """Books the time since the last lap to `phase`."""
        now = time.perf_counter()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self._since
        self._since = now


def main() -> int:
    """Parses the command line and trains; gives the exit code."""
    args = arguments()
    run = Run.read(args.run)
    torch.set_num_threads(run.execution.cpu_threads)
    torch.use_deterministic_algorithms(run.execution.deterministic)
    disable_progress_bar()  # of transformers, for files read and written in no time; training has its own
    world = join_world()
    names = ("run", "start", "prompts", "traces", "validation")
    inputs: dict[str, Path] = {name: getattr(args, name) for name in names if getattr(args, name)}
    if not world.leads:
        return _train(args, run, world, inputs, None)[0]
    outputs = {name: getattr(args, name) for name in ("model", "metrics", "timing")}
    recording = Manifest.recording(
        args.manifest, verb="chord.train", inputs=inputs, outputs=outputs, seeds={"run": run.seed}, extra=machine(run)
    )
    with Lease.acquire(args.state) as lease:
        with recording:
            code, training = _train(args, run, world, inputs, lease)
            if code:
                raise SystemExit(code)
        drop_state(training)
    return 0


def _train(
    args: argparse.Namespace, run: Run, world: World, inputs: dict[str, Path], lease: Lease | None
) -> tuple[int, Training]:
    """Sets up or resumes, steps to the end, writes the outputs; gives the exit code."""
    with Grader(run.grading) as grader:
        training = set_up(args, run, world, grader, inputs)
        training.lease = lease
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, lambda received, _frame: _ask_to_stop(training, received))
        training.say(f"{run.arm}, seed {run.seed}: {training.steps} steps, from step {training.progress.step}")
        try:
            finished = _loop(training)
        except NotFinite as error:
            dump = dump_not_finite(training, error)
            training.say(f"step {training.progress.step + 1}: {error}; no weight was changed; see {dump}")
            return NOT_FINITE, training
    if not finished:
        training.say(
            f"{training.stop or 'stopped'}: saved after step {training.progress.step}; the same command continues"
        )
        return CONTINUE_ME, training
    if world.leads:
        write_outputs(training, args)
    return 0, training


def _loop(training: Training) -> bool:
    """Steps until the end or until a signal asks to stop; whether the end was reached."""
    progress, run = training.progress, training.run
    bar = tqdm(total=training.steps, initial=progress.step, unit="step", disable=None, desc=f"{run.arm} {run.seed}")
    if progress.step == 0 and progress.metrics_bytes == 0:
        _record(training, {"step": 0, "validation": _validate(training, 0)}, Clock())
    while progress.step < training.steps:
        if any(training.world.gather(training.stop)):
            save(training)
            return False
        clock = Clock()
        record = _step(training, progress.step, clock)
        progress.step += 1
        due = progress.step % run.validation.every_steps == 0 or progress.step == training.steps
        record = {"step": progress.step, **record, "validation": _validate(training, progress.step) if due else None}
        clock.lap("validate")
        _record(training, record, clock)
        _show(training, bar, record)
        if _due(training):
            save(training)
    bar.close()
    if training.curves is not None:
        training.curves.close()
    return True


def _step(training: Training, step: int, clock: Clock) -> dict[str, Any]:
    """One update: draw, forward, backward, optimiser; gives the metrics. Weights change only if all is finite."""
    run, feed, progress = training.run, training.feed, training.progress
    mu = _known_mu(training, step)
    rollouts = feed.rollouts(step) if mu is None or mu < 1 else None
    clock.lap("sample")
    if mu is None:
        assert rollouts is not None and isinstance(run.recipe.mu, MuAdaptive)
        mu = adaptive_mu(rollouts.mean_reward, run.recipe.mu.threshold)
    experts: list[Sequence] = []
    if mu > 0:
        experts = feed.experts(progress.expert_position, run.expert_rows_per_step)
        progress.expert_position += run.expert_rows_per_step
    training.optimiser.zero_grad(set_to_none=True)
    batch = [*(rollouts.sequences if rollouts else []), *experts]
    sums = accumulate_gradient(
        training.model,
        batch,
        mu,
        run.recipe,
        run.policy_loss,
        run.execution,
        run.rollouts.temperature,
        training.world,
    )
    norm = float(torch.nn.utils.clip_grad_norm_(training.model.parameters(), run.optimiser.max_grad_norm))
    if not math.isfinite(norm):
        raise NotFinite(f"the gradient norm is {norm}; sequences: {json.dumps([one.name for one in batch])}")
    rate = run.recipe.learning_rate * min(1.0, (step + 1) / max(1, run.optimiser.warmup_steps))
    for group in training.optimiser.param_groups:
        group["lr"] = rate
    training.optimiser.step()
    if run.recipe.mu.schedule == "gradient-norm":
        from chord.learner.sasr_step import observe

        progress.mu_state = observe(run.recipe.mu, step, mu, norm, progress.mu_state)
    clock.lap("learn")
    return _metrics(training, mu, rollouts, sums, norm, rate)


def _known_mu(training: Training, step: int) -> float | None:
    """mu before anything is sampled; None where it depends on the rewards of the step itself."""
    rule = training.run.recipe.mu
    if isinstance(rule, MuConstant):
        return rule.value
    if isinstance(rule, MuDecay):
        return decayed_mu(step, rule.warmup_steps, rule.decay_steps, rule.peak, rule.valley)
    if isinstance(rule, MuAdaptive):
        return None
    from chord.learner.sasr_step import choose_mu

    return choose_mu(rule, step, training.run.seed, training.progress.mu_state)


def _metrics(
    training: Training, mu: float, rollouts: Rollouts | None, sums: Sums, norm: float, rate: float
) -> dict[str, Any]:
    """One line of metrics.jsonl; None where a branch did not take part."""
    size = len(training.feed.traces)
    return {
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
        "expert_epochs": training.progress.expert_position / size if size else None,
    }


def _validate(training: Training, step: int) -> dict[str, Any]:
    """Validation after `step` updates; a better accuracy than ever keeps the weights."""
    found = training.feed.validate(step)
    accuracy = float(found["accuracy"])  # type: ignore[arg-type]  # a number under this key
    progress = training.progress
    if step > 0 and accuracy > progress.best_accuracy and training.run.recipe.keep == "best":
        progress.best_step, progress.best_accuracy = step, accuracy
        if training.world.leads:
            progress.best_sha256 = checkpoint.save_best(training.state, step, training.model)
    return found


def _record(training: Training, record: dict[str, Any], clock: Clock) -> None:
    """One line in each log."""
    if training.metrics is None or training.timing is None or training.curves is None:
        return
    training.metrics.write(record)
    tokens = (record.get("rollout_tokens") or 0) + (record.get("expert_tokens") or 0)
    speed = tokens / max(1e-9, sum(clock.seconds.values()))
    timing = {
        "step": record["step"],
        "seconds": clock.seconds,
        "tokens_per_second": speed,
        "peak_memory_mb": peak_memory_mb(),
    }
    training.timing.write(timing)
    training.curves.write(record["step"], time.time(), record)


def _show(training: Training, bar: Any, record: dict[str, Any]) -> None:
    """Progress: a bar in a terminal, a plain line every tenth of the run in a log."""
    bar.update(1)
    step, found = record["step"], record["validation"]
    bar.set_postfix(mu=f"{record['mu']:.2f}", reward=_number(record["reward"]), loss=_number(record["loss"]))
    if bar.disable and (step % max(1, training.steps // 10) == 0 or step == training.steps):
        accuracy = f", validation accuracy {found['accuracy']:.3f}" if found else ""
        training.say(
            f"step {step}/{training.steps}: mu {record['mu']:.3f}, loss {_number(record['loss'])}, reward"
            f" {_number(record['reward'])}, expert log-probability {_number(record['expert_logp'])}{accuracy}"
        )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _due(training: Training) -> bool:
    """Whether a checkpoint is due, by steps or by minutes."""
    execution = training.run.execution
    minutes = (time.monotonic() - training.saved_at) / 60
    return (
        training.progress.step % execution.checkpoint_every_steps == 0 or minutes >= execution.checkpoint_every_minutes
    )


def _ask_to_stop(training: Training, number: int) -> None:
    """Remembers the signal; the loop saves and stops after the step in hand."""
    training.stop = signal.Signals(number).name


if __name__ == "__main__":
    run_verb("chord.train", main)
