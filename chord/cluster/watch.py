"""A running study in the terminal: jobs done, running, failed, planned; the curve of each training; the time left.

    chord watch                   the study in config/config.yaml, until it is done or Ctrl-C
    chord watch --once            one look, for pipes and logs
    chord watch --json            one look as data

Reads files only, so it may run anywhere that sees the project's folder, also while Slurm runs the jobs.

The time left is an estimate: what `chord plan` says of each job, scaled by what finished jobs took; a training that
runs goes on at its own pace. The jobs share it as many at once as so far, or as the cores here allow before any ran.
"""

import argparse
import json
import os
import re
import socket
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from chord.cluster import costs
from chord.cluster.costs import Setting
from chord.cluster.sizing import Layout, Work, cost, lengths_of, machine_of, shapes_below
from chord.config.project import Project, load
from chord.config.study import Planning
from chord.errors import ConfigError, UserError
from chord.findings import reading
from chord.provenance import ledger as ledgers
from chord.provenance.cli import Number
from chord.provenance.lease import SILENCE_SECONDS
from chord.steps import ENDING, Dag

# --- how far a study is, out of the files that its jobs leave: manifests, the ledger, leases, logs ---

CONTINUE_ME = 75  # the exit code of a training that was told to stop and saved
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

    @property
    def name(self) -> str:
        """Its verb and what it makes."""
        return f"{self.verb} {self.key.removesuffix(ENDING)}"


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
    return [_job(study, key, verb, starts.get(key, []), ends, now) for key, verb in plan.items()]


def _job(
    study: Path, key: str, verb: str, starts: Sequence[Mapping[str, Any]], ends: Mapping[Any, Any], now: float
) -> Job:
    ready = State.DONE if (study / key).is_file() else State.PLANNED
    if not starts:
        return Job(key, verb, ready)
    *before, last = starts
    since, end = datetime.fromisoformat(last["time"]).timestamp(), ends.get(last.get("attempt")) or {}
    where = f"job {last['job']}" if last.get("job") else str(last.get("host", ""))
    outcome, earlier = end.get("outcome"), 0.0
    if not end:
        state = State.RUNNING if _runs(study, key, last, since, now) else State.STOPPED
    elif outcome == "ok":
        state = ready
    else:
        is_to_go_on = outcome == "signal" or (outcome == "stopped" and end.get("exit_code") == CONTINUE_ME)
        state = State.STOPPED if is_to_go_on else State.FAILED
    if verb == "chord train":  # it continues what was done since an attempt ended well
        ended = (ends.get(start.get("attempt")) or {} for start in reversed(before))
        earlier = sum(
            float(one.get("seconds") or 0) for one in takewhile(lambda one: one.get("outcome") != "ok", ended)
        )
    return Job(key, verb, state, since, float(end.get("seconds") or 0), where, earlier)


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


def _curve(metrics: Sequence[Mapping[str, Any]]) -> tuple[str, tuple[float, ...]]:
    """The best told sign of learning: reward, else validation accuracy, else the expert's log-probability."""
    found = {
        "reward": [line.get("reward") for line in metrics],
        "accuracy": [(line.get("validation") or {}).get("accuracy") for line in metrics],
        "expert log-probability": [line.get("expert_logp") for line in metrics],
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
    told = re.findall(r": (\d+) steps, from step \d+", _text(folder / "train.log"))
    return int(told[-1]) if told else None


def _text(path: Path) -> str:
    """What there is of a file that may be missing or half written."""
    try:
        return path.read_text("utf-8", errors="replace")
    except OSError:
        return ""


def _lines(path: Path) -> list[dict[str, Any]]:
    """The steps in a file of JSON lines that is being written; a torn last line is left out."""
    found = []
    for line in _text(path).split("\n")[:-1]:
        with suppress(ValueError):
            value = json.loads(line)
            if isinstance(value, dict) and isinstance(value.get("step"), int):
                found.append(value)
    return found


def snakemake_steps(project: Path) -> tuple[int, int] | None:
    """How many steps of how many the newest log of Snakemake counts; None where it counts none."""
    logs = sorted((project / ".snakemake" / "log").glob("*.snakemake.log"))
    told = re.findall(r"^(\d+) of (\d+) steps \(", _text(logs[-1]) if logs else "", flags=re.MULTILINE)
    return (int(told[-1][0]), int(told[-1][1])) if told else None


# --- the time left ---


@dataclass(frozen=True)
class Price:
    """What `chord plan` says that a job takes: the rule that it is a job of, and seconds above 0."""

    kind: str
    seconds: float


@dataclass(frozen=True)
class Prices:
    """What `chord plan` says of each job by its manifest, on these machines, and how many run at once here."""

    of: Mapping[str, Price]
    layout: Layout
    at_once: int


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
    machine: str
    devices: int  # of one training


def time_left(jobs: Sequence[Job], trainings: Mapping[str, Training], prices: Prices, now: float) -> Left:
    """What is left of the jobs at `now`, by manifest: of `trainings` that were begun, and by the plan's `prices`.

    A training that has a pace of its own goes on at it. Any other job takes its price, scaled by the ratio of measured
    to planned seconds: that of its kind, else that of all that has run. What a running job has spent is taken off.
    As many jobs run at once as did so far, on average over the time in which any ran; before, `prices.at_once`.
    """
    measured, planned = defaultdict[str, float](float), defaultdict[str, float](float)
    finished = 0
    for job in jobs:
        price, one = prices.of[job.key], trainings.get(job.key)
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
    for job in (one for one in jobs if one.state is not State.DONE):
        own = trainings[job.key].seconds_left if job.key in trainings else None
        if own is not None:
            paced.append(own)
            continue
        price = prices.of[job.key]
        spent = max(0.0, now - job.since) + job.earlier if job.state is State.RUNNING else 0.0
        priced.append(max(0.0, price.seconds * ratios.get(price.kind, ratio) - spent))
    left, seen, layout = [*paced, *priced], _at_once(jobs, now), prices.layout
    shared = prices.at_once if seen is None else seen
    return Left(
        seconds=max(sum(left) / shared, max(left, default=0.0)),
        work=sum(left),
        at_once=shared,
        is_seen=seen is not None,
        planned=len(priced),
        paced=len(paced),
        finished=finished,
        ratio=ratio,
        ratios=ratios,
        machine=layout.name,
        devices=layout.devices,
    )


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


# --- what the plan says ---

DEVICES = (1, 8)  # of one training, where nobody says how many: one where it holds the model, else as `chord plan`


def _prices(given: argparse.Namespace, project: Project, plan: Mapping[str, str]) -> Prices | str:
    """Of every job, or what is missing for them. Raises UserError for a `--machine` that is not known."""
    try:
        planning = Planning.read(given.root)
    except ConfigError as error:
        return str(error)
    if given.machine:
        machine_of(planning, given.machine, "--machine")
    try:
        return priced(project, planning, given.root, plan, given.machine, given.devices)
    except UserError as error:
        return str(error)


def priced(
    project: Project,
    planning: Planning,
    root: Path,
    plan: Mapping[str, str],
    machine: str | None = None,
    devices: int | None = None,
) -> Prices:
    """Of every job of the plan (verb by manifest), on so many devices of the machine, else on the fewest that hold it.

    Raises UserError where config/planning.yaml lacks the study or a model, or no machine of it holds a training.
    """
    study, lengths = project.study, lengths_of(project.study, planning)
    works = {key: _work(project, key, verb) for key, verb in plan.items()}
    shapes = shapes_below(project, planning, works.values(), root)
    longest = costs.longest_sequence(study, lengths)
    known = {machine: planning.machines[machine]} if machine else planning.machines
    lacking = ""
    for count in [devices] if devices else DEVICES:
        for name, one in sorted(known.items(), key=lambda item: item[1].memory_gb):
            setting, layout = Setting.of(study, count), Layout(name, one, count, 1)
            said = [costs.verdict(study, shape, one, setting, longest)[0] for shape in shapes.values()]
            lacking = next((sentence for sentence in said if not sentence.startswith("needs")), "")
            if not lacking:
                each = {
                    key: Price(work.rule, cost(project, planning, layout, work, root).seconds)
                    for key, work in works.items()
                }
                return Prices(each, layout, max(1, len(os.sched_getaffinity(0)) // study.execution.cpu_threads))
    where = f"machine {machine}" if machine else "no machine of config/planning.yaml holds it; the largest"
    raise UserError(f"{where}: {lacking}; expected --machine and --devices that hold every training")


def _work(project: Project, key: str, verb: str) -> Work:
    """The job of a manifest, with the rule that makes it."""
    rule = verb.removeprefix("chord ").replace("-", "_")
    place = f"results/{project.study.name}/{key.removesuffix(ENDING)}"
    if rule == "train" and key.startswith("models/"):
        rule = "train_base"
    elif rule == "train" and project.arms[Work.of_job(rule, place).of].only_imitates:
        rule = "train_sft"
    return Work.of_job(rule, place)


# --- one look ---

BLOCKS = "▁▂▃▄▅▆▇█"
CURVE_WIDTH, BAR_WIDTH = 28, 48
STYLES = {
    State.DONE: "green",
    State.RUNNING: "cyan",
    State.FAILED: "red",
    State.STOPPED: "yellow",
    State.PLANNED: "dim",
}
SHOWN = 12  # jobs of a kind


class View(NamedTuple):
    """One look at a study."""

    project: Project
    study: Path
    jobs: list[Job]
    trainings: dict[str, Training]
    left: Left | str  # or why it is not known
    steps: tuple[int, int] | None
    now: float

    @property
    def is_done(self) -> bool:
        """Whether nothing is left."""
        return all(job.state is State.DONE for job in self.jobs)


def main(arguments: Sequence[str] | None = None) -> None:
    """Show the study until it is done, or once."""
    given = _parser().parse_args(arguments)
    chosen = {"artefacts": given.artefacts} if given.artefacts else {}
    project = load(given.root, given.study, tuple(given.seeds or ()), chosen)
    dag = Dag(project, given.root)
    plan = {key: job.step.verb for key, job in dag.planned.items() if job.step.verb}
    prices = _prices(given, project, plan)
    console = Console(highlight=False)
    view = look(given.root, project, plan, prices)
    if given.json:
        print(json.dumps(_data(view), indent=1))
        return
    if given.once:
        console.print(drawn(view))
        return
    with Live(drawn(view), console=console, auto_refresh=False) as live:
        while not view.is_done:
            time.sleep(given.seconds)
            view = look(given.root, project, plan, prices)
            live.update(drawn(view), refresh=True)


def look(root: Path, project: Project, plan: Mapping[str, str], prices: Prices | str) -> View:
    """The study as it is now; `prices` of its jobs, or why there are none."""
    study, now = root / "results" / project.study.name, time.time()
    found = jobs_of(study, plan, now)
    begun = (job for job in found if job.state in (State.RUNNING, State.STOPPED, State.FAILED))
    told = {job.key: training(study, job) for job in begun if job.verb == "chord train"}
    running = {job.key: told[job.key] for job in found if job.state is State.RUNNING and job.key in told}
    left = prices if isinstance(prices, str) else time_left(found, told, prices, now)
    return View(project, study, found, running, left, snakemake_steps(root), now)


def drawn(view: View) -> RenderableType:
    """One look as a person reads it."""
    counts = Counter(job.state for job in view.jobs)
    total, done = len(view.jobs), counts[State.DONE]
    head = Text.assemble((f"Study {view.project.study.name}", "bold"), f", {view.project.study.title}")
    if not view.study.is_dir() or counts[State.PLANNED] == total:
        begin = Text(f"Not begun: none of its {total} jobs was started. Begin: snakemake --cores 2")
        return Group(head, begin, *_left(view.left))
    filled = done * BAR_WIDTH // total
    bar = Text.assemble(("━" * filled, "green"), ("╌" * (BAR_WIDTH - filled), "dim"), f" {100 * done // total} %")
    counted = Text()
    for state in (one for one in State if counts[one]):
        counted.append(f"{counts[state]} {state}", STYLES[state]).append("   ")
    if view.steps and not view.is_done:
        counted.append(f"Snakemake: {view.steps[0]} of {view.steps[1]} steps", "dim")
    parts: list[RenderableType] = [head, bar, counted]
    if not view.is_done:
        parts += _left(view.left)
    if view.trainings:
        parts += [Text(), _trainings(view)]
    if others := [job for job in view.jobs if job.state is State.RUNNING and job.key not in view.trainings]:
        parts += [Text(), _others(view, others)]
    for job in [job for job in view.jobs if job.state in (State.FAILED, State.STOPPED)][:SHOWN]:
        folder = Path(job.key).parent
        place = "logs" if folder == Path(".") else folder
        parts.append(Text(f"{job.state}: {job.name}; its log is in {place}", STYLES[job.state]))
    if view.is_done:
        parts.append(Text(f"Finished: {view.study / 'report.html'}", "green"))
    return Group(*parts)


def _left(left: Left | str) -> list[Text]:
    """The time left, what it is estimated from, and for what machines and how many jobs at once."""
    if isinstance(left, str):
        return [Text(f"no estimate of the time left: {left}")]

    def several(count: int, thing: str) -> str:
        return f"{count} {thing}{'' if count == 1 else 's'}"

    stands_on = ["chord plan"] if left.planned else []
    stands_on += [several(left.finished, "finished job")] if left.planned and left.finished else []
    stands_on += [f"the pace of {several(left.paced, 'training')}"] if left.paced else []
    *others, last = stands_on
    named = f"{', '.join(others)} and {last}" if others else last
    at_once = f"{left.at_once:.1f}".removesuffix(".0")
    share = "as on average so far" if left.is_seen else "as the cores here allow"
    return [
        Text(f"about {reading.duration(left.seconds)} left, estimated from {named}"),
        Text(f"(planned for {left.devices} x {left.machine}; {at_once} at once, {share})", "dim"),
    ]


def _data(view: View) -> dict[str, Any]:
    """One look as plain data: jobs by state, seconds left (None with `why` where not known) and what they stand on."""
    counts = Counter(job.state for job in view.jobs)
    left = {"seconds": None, "why": view.left} if isinstance(view.left, str) else asdict(view.left)
    if view.is_done:
        left = {"seconds": 0.0}
    return {"study": view.project.study.name, "jobs": {state: counts[state] for state in State}, "left": left}


def _table(*columns: str) -> Table:
    return Table(*columns, box=None, pad_edge=False, header_style="dim")


def _trainings(view: View) -> Table:
    table = _table("training", "step", "tokens/s", "left", "curve")
    for one in view.trainings.values():
        steps = f"{one.step}/{one.steps}" if one.steps else str(one.step)
        speed = f"{one.tokens_per_second:,.0f}" if one.tokens_per_second else "-"
        left = "-" if one.seconds_left is None else reading.duration(one.seconds_left)
        curve = f"{sparkline(one.curve)} {one.metric} {one.curve[-1]:.3f}" if one.curve else "no step yet"
        table.add_row(one.name, steps, speed, left, curve)
    return table


def _others(view: View, running: Sequence[Job]) -> Table:
    table = _table("job", "for", "where")
    for job in running[:SHOWN]:
        table.add_row(job.name, reading.duration(max(0.0, view.now - job.since)), job.where)
    if len(running) > SHOWN:
        table.add_row(f"and {len(running) - SHOWN} more", "", "")
    return table


def sparkline(values: Sequence[float], width: int = CURVE_WIDTH) -> str:
    """A curve in one line: at most `width` blocks from the lowest to the highest, each the mean of as many points."""
    if not values:
        return ""
    count = min(width, len(values))
    edges = [round(i * len(values) / count) for i in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high, top = min(means), max(means), len(BLOCKS) - 1
    return "".join(BLOCKS[round((mean - low) / (high - low) * top) if high > low else top // 2] for mean in means)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="chord watch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", nargs="?", help="a study of config/studies (default: that of config/config.yaml)")
    parser.add_argument("--once", action="store_true", help="one look, then end")
    parser.add_argument("--json", action="store_true", help="one look as JSON, with what the time left stands on")
    parser.add_argument(
        "--machine", help="a machine of config/planning.yaml to plan for (default: the smallest that holds the study)"
    )
    parser.add_argument("--devices", action=Number, help="devices of one training (default: 1 if one holds it, else 8)")
    parser.add_argument(
        "--seconds", action=Number, kind=float, least=None, default=2.0, help="between two looks (default: 2)"
    )
    parser.add_argument("--seeds", action=Number, least=0, nargs="+", help="training seeds (default: those of config/)")
    parser.add_argument("--artefacts", nargs="+", help="tables and figures (default: those of config/config.yaml)")
    parser.add_argument("--root", default=Path("."), type=Path, help="the folder that holds config/ (default: here)")
    return parser
