"""How far a study is, out of the files that its jobs leave: manifests, the ledger, leases, logs. Changes none of them.

Works while jobs run here or on other machines that share the folder, and without any of them.
"""

import json
import re
import socket
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
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
    earlier: float = 0.0  # seconds of the attempts before the last, which a training continues


@dataclass(frozen=True)
class Training:
    """A training that was begun: its step of how many, its speed, and the curve of what it learns."""

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
    starts: dict[str, list[Mapping[str, Any]]] = {}
    for entry in entries:
        if entry["event"] == "start":
            starts.setdefault(str(entry.get("manifest")), []).append(entry)
    found = []
    for key, verb in plan.items():
        *before, last = starts.get(key) or [None]
        job = _job(study, key, verb, last, ends, now)
        found.append(replace(job, earlier=_earlier(before, ends)) if verb == "chord train" else job)
    return found


def _earlier(starts: Sequence[Any], ends: Mapping[Any, Any]) -> float:
    """Seconds of the attempts since the last that ended well: the next one continues what they did."""
    seconds = 0.0
    for start in reversed(starts):
        end = ends.get(start.get("attempt")) or {}
        if end.get("outcome") == "ok":
            break
        seconds += float(end.get("seconds") or 0)
    return seconds


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
    if str(start.get("verb")) == "chord train":
        return lease.is_file() and now - lease.stat().st_mtime < SILENCE_SECONDS
    if start.get("host") == socket.gethostname() and Path("/proc/self").exists():
        try:
            return key.encode() in Path(f"/proc/{start.get('pid')}/cmdline").read_bytes()
        except OSError:
            return False
    return now - since < STRANGER_SECONDS


def training(study: Path, job: Job) -> Training:
    """What a training that was begun has told so far."""
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


@dataclass(frozen=True)
class Price:
    """What `chord plan` says that a job takes: the rule that it is a job of, and seconds above 0."""

    kind: str
    seconds: float


@dataclass(frozen=True)
class Left:
    """How much time is left, and what that stands on."""

    seconds: float  # `work` shared between `at_once` jobs, but no less than the longest job that is left
    work: float  # seconds of all jobs that are left, one after the other
    at_once: float  # jobs
    is_seen: bool  # whether `at_once` is the mean over the time in which jobs ran, not what it was told
    planned: int  # jobs left that the plan's price stands for
    paced: int  # trainings left that have a pace of their own
    finished: int  # jobs done whose seconds scale the plan's prices
    ratio: float  # of measured to planned seconds over all that has run; 1 where nothing has
    ratios: dict[str, float]  # the same for each kind that has run


def time_left(
    jobs: Iterable[Job], trainings: Mapping[str, Training], prices: Mapping[str, Price], at_once: float, now: float
) -> Left:
    """What is left of the jobs at `now`, by manifest: of `trainings` that were begun, and by the plan's `prices`.

    A training that has a pace of its own goes on at it. Any other job takes its price, scaled by the ratio of measured
    to planned seconds: that of its kind, else that of all that has run. What a running job has spent is taken off.
    As many jobs run at once as did so far, on average over the time in which any ran; before, `at_once`.
    """
    known = list(jobs)
    measured, planned = defaultdict[str, float](float), defaultdict[str, float](float)
    finished = 0
    for job in known:
        price, one = prices[job.key], trainings.get(job.key)
        if job.state is State.DONE and job.seconds:
            finished += 1
            measured[price.kind] += job.seconds + job.earlier
            planned[price.kind] += price.seconds
        elif job.state is not State.DONE and one and one.step and one.steps and one.seconds_per_step:
            measured[price.kind] += one.step * one.seconds_per_step
            planned[price.kind] += price.seconds * one.step / one.steps
    ratios = {kind: measured[kind] / seconds for kind, seconds in planned.items()}
    ratio = sum(measured.values()) / sum(planned.values()) if planned else 1.0
    paced: list[float] = []
    priced: list[float] = []
    for job in (one for one in known if one.state is not State.DONE):
        own = trainings[job.key].seconds_left if job.key in trainings else None
        if own is not None:
            paced.append(own)
            continue
        price = prices[job.key]
        spent = max(0.0, now - job.since) + job.earlier if job.state is State.RUNNING else 0.0
        priced.append(max(0.0, price.seconds * ratios.get(price.kind, ratio) - spent))
    left = [*paced, *priced]
    seen = _at_once(known, now)
    shared = at_once if seen is None else seen
    seconds = max(sum(left) / shared, max(left, default=0.0))
    return Left(seconds, sum(left), shared, seen is not None, len(priced), len(paced), finished, ratio, ratios)


def _at_once(jobs: Iterable[Job], now: float) -> float | None:
    """Jobs that ran at once, on average over the time in which any ran; None where none has run."""
    # A clock of another machine may be ahead of this one.
    spans = sorted(
        (job.since, max(job.since, now) if job.state is State.RUNNING else job.since + job.seconds)
        for job in jobs
        if job.since
    )
    busy, until = 0.0, 0.0
    for start, end in spans:
        busy += max(0.0, end - max(start, until))
        until = max(until, end)
    return sum(end - start for start, end in spans) / busy if busy else None


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
