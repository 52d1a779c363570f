"""How far a study is, out of the files that its jobs leave: manifests, the ledger, leases, logs. Changes none of them.

Works while jobs run here or on other machines that share the folder, and without any of them.
"""

import json
import re
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from chord.provenance import ledger as ledgers

CONTINUE_ME = 75  # the exit code of a training that was told to stop and saved
SILENCE_SECONDS = 120.0  # a lease that nobody touched for so long belongs to a job that is gone
STRANGER_SECONDS = 24 * 3600.0  # a job without an end on a machine that cannot be seen runs at most so long


class State(StrEnum):
    """What is known of a job."""

    DONE = "done"
    RUNNING = "running"
    FAILED = "failed"
    STOPPED = "stopped"  # told to stop, or killed; Snakemake starts it again
    PLANNED = "planned"


@dataclass(frozen=True)
class Job:
    """One job of the plan by its manifest. `since`: when its last attempt began, in seconds since 1970."""

    key: str
    verb: str
    state: State
    since: float = 0.0
    seconds: float = 0.0  # of the last attempt that ended
    where: str = ""


@dataclass(frozen=True)
class Training:
    """A training that runs: its step of how many, its speed, and the curve of what it learns."""

    name: str
    step: int
    steps: int | None
    tokens_per_second: float | None
    seconds_per_step: float | None
    metric: str
    curve: tuple[float, ...]

    @property
    def seconds_left(self) -> float | None:
        """At the pace of the last steps; None where it is not known."""
        if self.steps is None or self.seconds_per_step is None:
            return None
        return max(0, self.steps - self.step) * self.seconds_per_step


def jobs_of(study: Path, plan: Mapping[str, str], now: float | None = None) -> list[Job]:
    """Every job of the plan (verb by manifest) with its state at `now`, in the order of the plan."""
    now = time.time() if now is None else now
    ledger = study / "provenance" / "ledger.jsonl"
    entries = [entry for _, entry in ledgers.entries(ledger)] if ledger.is_file() else []
    ends = {entry.get("attempt"): entry for entry in entries if entry["event"] == "end"}
    last = {str(entry.get("manifest")): entry for entry in entries if entry["event"] == "start"}
    return [_job(study, key, verb, last.get(key), ends, now) for key, verb in plan.items()]


def _job(study: Path, key: str, verb: str, start: Any, ends: Mapping[Any, Any], now: float) -> Job:
    is_there = (study / key).is_file()
    if start is None:
        return Job(key, verb, State.DONE if is_there else State.PLANNED)
    since, end = datetime.fromisoformat(start["time"]).timestamp(), ends.get(start.get("attempt"))
    where = f"job {start['job']}" if start.get("job") else str(start.get("host", ""))
    if end is None:
        state = State.RUNNING if _runs(study, key, start, since, now) else State.STOPPED
        return Job(key, verb, state, since, where=where)
    ended = str(end.get("outcome"))
    seconds = float(end.get("seconds") or 0)
    if ended == "ok":
        return Job(key, verb, State.DONE if is_there else State.PLANNED, since, seconds, where)
    is_to_go_on = ended == "signal" or (ended == "stopped" and end.get("exit_code") == CONTINUE_ME)
    state = State.STOPPED if is_to_go_on else State.FAILED
    return Job(key, verb, state, since, seconds, where)


def _runs(study: Path, key: str, start: Mapping[str, Any], since: float, now: float) -> bool:
    """Whether an attempt without an end goes on: by its lease, else by its process where that can be seen."""
    lease = (study / key).parent / "state" / "lease.json"
    if str(start.get("verb")) == "chord.train":
        return lease.is_file() and now - lease.stat().st_mtime < SILENCE_SECONDS
    if start.get("host") == socket.gethostname() and Path("/proc/self").exists():
        try:
            return key.encode() in Path(f"/proc/{start.get('pid')}/cmdline").read_bytes()
        except OSError:
            return False
    return now - since < STRANGER_SECONDS


def training(study: Path, job: Job) -> Training:
    """What a training that runs has told so far."""
    folder = (study / job.key).parent
    logs = sorted(folder.glob("state/*/metrics.jsonl"), key=lambda path: path.stat().st_mtime)
    metrics = _lines(logs[-1]) if logs else []
    timing = _lines(logs[-1].with_name("timing.jsonl")) if logs else []
    paces = [sum((line.get("seconds") or {}).values()) for line in timing[-10:] if line.get("step")]
    speeds = [line["tokens_per_second"] for line in timing[-10:] if line.get("tokens_per_second")]
    metric, curve = _curve(metrics)
    return Training(
        name="/".join(folder.relative_to(study).parts[-2:]),
        step=int(metrics[-1]["step"]) if metrics else 0,
        steps=_steps(folder),
        tokens_per_second=sum(speeds) / len(speeds) if speeds else None,
        seconds_per_step=sum(paces) / len(paces) if paces else None,
        metric=metric,
        curve=curve,
    )


def _curve(metrics: Iterable[Mapping[str, Any]]) -> tuple[str, tuple[float, ...]]:
    """The best told sign of learning: reward, else validation accuracy, else the expert's log-probability."""
    lines = list(metrics)
    accuracy = [(line.get("validation") or {}).get("accuracy") for line in lines]
    found = {
        "reward": [line.get("reward") for line in lines],
        "accuracy": accuracy,
        "expert log-probability": [line.get("expert_logp") for line in lines],
    }
    for name, values in found.items():
        if known := tuple(float(value) for value in values if isinstance(value, int | float)):
            return name, known
    return "reward", ()


def _steps(folder: Path) -> int | None:
    """How many steps the training has: its recipe says so, or it said so when it began."""
    try:
        steps = json.loads((folder / "run.json").read_bytes())["recipe"]["steps"]
    except (OSError, ValueError, KeyError, TypeError):
        steps = None
    if isinstance(steps, int):
        return steps
    try:
        told = re.findall(r": (\d+) steps, from step \d+", (folder / "train.log").read_text("utf-8", errors="replace"))
    except OSError:
        return None
    return int(told[-1]) if told else None


def seconds_left(jobs: Iterable[Job], trainings: Mapping[str, Training], now: float) -> float | None:
    """Seconds of work that remain, one job after the other: by the paces of what runs and the times of what is done.

    None while no job of some kind that is left has ended yet.
    """
    known = list(jobs)
    times: dict[str, list[float]] = {}
    for job in known:
        if job.state is State.DONE and job.seconds:
            times.setdefault(job.verb, []).append(job.seconds)
    left = 0.0
    for job in known:
        if job.state is State.DONE:
            continue
        own = trainings[job.key].seconds_left if job.key in trainings else None
        if own is None and job.verb not in times:
            return None
        usual = sum(times.get(job.verb, [0.0])) / max(1, len(times.get(job.verb, [])))
        spent = now - job.since if job.state is State.RUNNING else 0.0
        left += own if own is not None else max(0.0, usual - spent)
    return left


def snakemake_steps(project: Path) -> tuple[int, int] | None:
    """How many steps of how many the newest log of Snakemake counts; None where it counts none."""
    logs = sorted((project / ".snakemake" / "log").glob("*.snakemake.log"))
    if not logs:
        return None
    told = re.findall(r"^(\d+) of (\d+) steps \(", logs[-1].read_text("utf-8", errors="replace"), flags=re.MULTILINE)
    return (int(told[-1][0]), int(told[-1][1])) if told else None


def _lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file that is being written."""
    try:
        text = path.read_text("utf-8", errors="replace")
    except OSError:
        return []
    found = []
    for line in text.split("\n")[:-1]:
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict) and isinstance(value.get("step"), int):
            found.append(value)
    return found
