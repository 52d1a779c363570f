"""What is told of a training while it runs: a line of metrics, a line of timings, curves, progress. Part of `train`."""

import os
import resource
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from chord.config.project import Run
from chord.reach import decides_nothing
from chord.training.gradient import Sums
from chord.training.setup import Training

if TYPE_CHECKING:
    from chord.training.rollouts import Rollouts


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


def metrics_of(
    training: Training, mu: float, rollouts: "Rollouts | None", sums: Sums, norm: float, rate: float
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


def tell(training: Training, record: dict[str, Any], clock: Clock) -> None:
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


def show(training: Training, bar: Any, record: dict[str, Any]) -> None:
    """Progress: a bar in a terminal, a plain line every tenth of the run in a log."""
    bar.update(1)
    step, found = record["step"], record["validation"]
    bar.set_postfix(mu=f"{record['mu']:.2f}", reward=_number(record["reward"]), loss=_number(record["loss"]))
    if bar.disable and (step % max(1, training.steps // 10) == 0 or step == training.steps):
        accuracy = f", validation accuracy {found['accuracy']:.3f}" if found and "accuracy" in found else ""
        training.say(
            f"step {step}/{training.steps}: mu {record['mu']:.3f}, loss {_number(record['loss'])}, reward"
            f" {_number(record['reward'])}, expert log-probability {_number(record['expert_logp'])}{accuracy}"
        )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


@decides_nothing("it is recorded")
def machine(run: Run, threads: int) -> dict[str, Any]:
    """The device and the switches that may move last bits, for the manifest."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "device": gpu or "cpu",
        "cpu_threads": threads,
        "deterministic": run.execution.deterministic,
        "compute_dtype": run.execution.compute_dtype,
        "ranks": int(os.environ.get("WORLD_SIZE", "1")),
    }


def peak_memory_mb() -> float:
    """The most memory this process has held: of the GPU where there is one, else of the host."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
