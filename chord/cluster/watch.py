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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from enum import StrEnum
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from chord.cluster.sizing import TRAINS, Estimates, Layout, Work
from chord.config.project import Project, load
from chord.config.study import Planning
from chord.errors import ConfigError, UserError
from chord.findings import reading
from chord.provenance.cli import Number
from chord.provenance.files import SILENCE_SECONDS
from chord.provenance.ledger import read_attempts
from chord.provenance.manifest import ENDING
from chord.settings import Raw
from chord.steps import STEPS, Dag

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


class Job(NamedTuple):
    """One job of the plan, by its manifest and its rule."""

    key: str
    rule: str
    state: State
    since: float = 0.0  # when its last attempt began, in seconds since 1970
    seconds: float = 0.0  # of the last attempt that ended
    where: str = ""
    earlier: float = 0.0  # seconds of the attempts before the last, which a training continues

    @property
    def name(self) -> str:
        """Its verb and what it makes."""
        return f"{STEPS[self.rule].verb} {self.key.removesuffix(ENDING)}"


class Training(NamedTuple):
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
    """Every job of the plan (rule by manifest) with its state at `now`, in the order of the plan."""
    now, attempts = now or time.time(), read_attempts(study / "provenance" / "ledger.jsonl")
    starts: dict[str, list[Mapping[str, Any]]] = {}
    for start in attempts.starts.values():
        end = attempts.ends.get(str(start.get("attempt")), [{}])[-1]
        starts.setdefault(str(start.get("manifest")), []).append({**start, "end": end})
    return [_job(study, key, rule, starts.get(key, []), now) for key, rule in plan.items()]


def _job(study: Path, key: str, rule: str, attempts: Sequence[Mapping[str, Any]], now: float) -> Job:
    """The state of a job by its attempts, each the start of one with its `end`, empty where there is none."""
    state = State.DONE if (study / key).is_file() else State.PLANNED
    if not attempts:
        return Job(key, rule, state)
    *before, last = attempts
    since, end, earlier = datetime.fromisoformat(last["time"]).timestamp(), last["end"], 0.0
    if not end:
        state = State.RUNNING if _runs(study, key, rule, last, since, now) else State.STOPPED
    elif (outcome := end.get("outcome")) != "ok":
        is_to_go_on = outcome == "signal" or (outcome == "stopped" and end.get("exit_code") == CONTINUE_ME)
        state = State.STOPPED if is_to_go_on else State.FAILED
    if rule in TRAINS:  # it continues what was done since an attempt ended well
        ended = takewhile(lambda one: one.get("outcome") != "ok", (one["end"] for one in reversed(before)))
        earlier = sum(float(one.get("seconds") or 0) for one in ended)
    where = f"job {last['job']}" if last.get("job") else str(last.get("host", ""))
    return Job(key, rule, state, since, float(end.get("seconds") or 0), where, earlier)


def _runs(study: Path, key: str, rule: str, start: Mapping[str, Any], since: float, now: float) -> bool:
    """Whether an attempt without an end goes on: by its lease, else by its process where that can be seen."""
    if rule in TRAINS:
        lease = (study / key).parent / "state" / "lease.json"
        return lease.is_file() and now - lease.stat().st_mtime < SILENCE_SECONDS
    if start.get("host") == socket.gethostname() and Path("/proc/self").exists():
        try:
            return key.encode() in Path(f"/proc/{start.get('pid')}/cmdline").read_bytes()
        except OSError:
            return False
    return now - since < STRANGER_SECONDS


def training(study: Path, key: str) -> Training:
    """What a training that was begun has told so far, by its manifest."""
    folder = (study / key).parent
    log = max(
        folder.glob("state/*/metrics.jsonl"), key=lambda path: path.stat().st_mtime, default=folder / "state/none"
    )
    metrics, timing = _lines(log), _lines(log.with_name("timing.jsonl"))[-10:]
    paces = [sum((line.get("seconds") or dict[str, float]()).values()) for line in timing if line["step"]]
    speeds = [line["tokens_per_second"] for line in timing if line.get("tokens_per_second")]
    return Training(
        "/".join(folder.relative_to(study).parts[-2:]),
        metrics[-1]["step"] if metrics else 0,
        _steps(folder),
        sum(speeds) / len(speeds) if speeds else None,
        sum(paces) / len(paces) if paces else None,
        *_curve(metrics),
    )


def _curve(metrics: Sequence[Mapping[str, Any]]) -> tuple[str, tuple[float, ...]]:
    """The best told sign of learning: reward, else validation accuracy, else the expert's log-probability."""
    found = {
        "reward": [line.get("reward") for line in metrics],
        "accuracy": [(line.get("validation") or dict[str, float]()).get("accuracy") for line in metrics],
        "expert log-probability": [line.get("expert_logp") for line in metrics],
    }
    for name, values in found.items():
        if known := tuple(float(value) for value in values if isinstance(value, int | float)):
            return name, known
    return "reward", ()


def _steps(folder: Path) -> int | None:
    """How many steps the training has: its recipe says so, or it said so when it began."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        if isinstance(steps := json.loads((folder / "run.json").read_bytes())["recipe"]["steps"], int):
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
    found: list[dict[str, Any]] = []
    for line in _text(path).split("\n")[:-1]:
        with suppress(ValueError):
            value: Raw = json.loads(line)
            if isinstance(value, dict) and isinstance(value.get("step"), int):
                found.append(value)
    return found


def snakemake_steps(project: Path) -> tuple[int, int] | None:
    """How many steps of how many the newest log of Snakemake counts; None where it counts none."""
    logs = sorted((project / ".snakemake" / "log").glob("*.snakemake.log"))
    told = re.findall(r"^(\d+) of (\d+) steps \(", _text(logs[-1]) if logs else "", flags=re.MULTILINE)
    return (int(told[-1][0]), int(told[-1][1])) if told else None


# --- the time left ---

DEVICES = (1, 8)  # of one training, where nobody says how many: one where it holds the model, else as `chord plan`


class Prices(NamedTuple):
    """What `chord plan` says that each job takes on these machines, and how many run at once here."""

    seconds: Mapping[str, float]  # by manifest, above 0
    layout: Layout
    at_once: int


class Left(NamedTuple):
    """How much time is left, and what that stands on."""

    seconds: float  # `work` shared between `at_once` jobs, but no less than the longest job that is left
    work: float  # seconds of all jobs that are left, one after the other
    at_once: float  # jobs
    is_seen: bool  # whether `at_once` is the mean over the time in which jobs ran, not what it was told
    planned: int  # jobs left that the plan's price stands for
    paced: int  # trainings left that have a pace of their own
    finished: int  # jobs done whose seconds scale the plan's prices
    ratio: float  # of measured to planned seconds over all that has run; 1 where nothing has
    ratios: dict[str, float]  # the same for each rule that has run
    machine: str
    devices: int  # of one training


def priced(
    estimates: Estimates, plan: Mapping[str, str], machine: str | None = None, devices: int | None = None
) -> Prices:
    """Of every job of the plan (rule by manifest), on so many devices of the machine, else on the fewest that hold it.

    Raises UserError where config/planning.yaml lacks the study or a model, or no machine of it holds a training.
    """
    study, known, lacking = estimates.project.study, estimates.planning.machines, ""
    works = {key: Work.of_job(rule, f"results/{study.name}/{key.removesuffix(ENDING)}") for key, rule in plan.items()}
    shapes = estimates.shapes(works.values()).values()
    names = [machine] if machine else sorted(known, key=lambda name: known[name].memory_gb)
    for layout in [Layout(name, known[name], count) for count in ([devices] if devices else DEVICES) for name in names]:
        benches = [estimates.bench(shape, layout.machine, layout.devices) for shape in shapes]
        short = next((bench for bench in benches if not bench.holds), None)
        if not short:
            seconds = {key: estimates.cost(work, layout).seconds for key, work in works.items()}
            return Prices(seconds, layout, max(1, len(os.sched_getaffinity(0)) // study.execution.cpu_threads))
        lacking = short.verdict()[0]
    where = f"machine {machine}" if machine else "no machine of config/planning.yaml holds it; the largest"
    raise UserError(f"{where}: {lacking}; expected --machine and --devices that hold every training")


def time_left(jobs: Sequence[Job], trainings: Mapping[str, Training], prices: Prices, now: float) -> Left:
    """What is left of the jobs at `now`, by manifest: of `trainings` that were begun, and by the plan's `prices`.

    A training that has a pace of its own goes on at it. Any other job takes its price, scaled by the ratio of measured
    to planned seconds: that of its rule, else that of all that has run. What a running job has spent is taken off.
    As many jobs run at once as did so far, on average over the time in which any ran; before, `prices.at_once`.
    """
    measured, planned = defaultdict[str, float](float), defaultdict[str, float](float)
    finished = [job for job in jobs if job.state is State.DONE and job.seconds]
    waiting = [job for job in jobs if job.state is not State.DONE]
    for job in finished:
        measured[job.rule] += job.seconds + job.earlier
        planned[job.rule] += prices.seconds[job.key]
    for job in waiting:
        one = trainings.get(job.key)
        if one and one.step and one.steps and one.seconds_per_step:
            measured[job.rule] += one.step * one.seconds_per_step
            planned[job.rule] += prices.seconds[job.key] * one.step / one.steps
    ratios = {rule: measured[rule] / seconds for rule, seconds in planned.items()}
    ratio = sum(measured.values()) / sum(planned.values()) if planned else 1.0
    paced: list[float] = []
    priced: list[float] = []
    for job in waiting:
        own = trainings[job.key].seconds_left if job.key in trainings else None
        if own is not None:
            paced.append(own)
            continue
        spent = max(0.0, now - job.since) + job.earlier if job.state is State.RUNNING else 0.0
        priced.append(max(0.0, prices.seconds[job.key] * ratios.get(job.rule, ratio) - spent))
    seen, left, layout = _at_once(jobs, now), [*paced, *priced], prices.layout
    at_once, work = seen or prices.at_once, sum(left)
    seconds = max(work / at_once, max(left, default=0.0))
    counts = len(priced), len(paced), len(finished)
    return Left(seconds, work, at_once, seen is not None, *counts, ratio, ratios, layout.name, layout.devices)


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


# --- one look ---

BLOCKS = "▁▂▃▄▅▆▇█"
CURVE_WIDTH, BAR_WIDTH = 28, 48
STYLES = dict(zip(State, ("green", "cyan", "red", "yellow", "dim"), strict=True))
SHOWN = 12  # jobs of a kind


class View(NamedTuple):
    """One look at a study."""

    project: Project
    study: Path
    jobs: list[Job]
    trainings: dict[str, Training]  # that run, by manifest
    left: Left | str  # or why it is not known
    steps: tuple[int, int] | None
    now: float

    @property
    def counts(self) -> Counter[State]:
        """Jobs by state."""
        return Counter(job.state for job in self.jobs)

    @property
    def is_done(self) -> bool:
        """Whether nothing is left."""
        return self.counts[State.DONE] == len(self.jobs)


def look(root: Path, project: Project, plan: Mapping[str, str], prices: Prices | str) -> View:
    """The study as it is now; `prices` of its jobs, or why there are none."""
    study, now = root / "results" / project.study.name, time.time()
    jobs = jobs_of(study, plan, now)
    begun = [job for job in jobs if job.rule in TRAINS and job.state not in (State.DONE, State.PLANNED)]
    told = {job.key: training(study, job.key) for job in begun}
    running = {job.key: told[job.key] for job in begun if job.state is State.RUNNING}
    left = prices if isinstance(prices, str) else time_left(jobs, told, prices, now)
    return View(project, study, jobs, running, left, snakemake_steps(root), now)


def drawn(view: View) -> RenderableType:
    """One look as a person reads it."""
    counts, total = view.counts, len(view.jobs)
    head = Text.assemble((f"Study {view.project.study.name}", "bold"), f", {view.project.study.title}")
    if not view.study.is_dir() or counts[State.PLANNED] == total:
        begin = Text(f"Not begun: none of its {total} jobs was started. Begin: snakemake --cores 2")
        return Group(head, begin, *_left(view.left))
    done = counts[State.DONE]
    filled = done * BAR_WIDTH // total
    bar = Text.assemble(("━" * filled, "green"), ("╌" * (BAR_WIDTH - filled), "dim"), f" {100 * done // total} %")
    counted = Text.assemble(*((f"{counts[state]} {state}   ", STYLES[state]) for state in State if counts[state]))
    if view.steps and not view.is_done:
        counted.append(f"Snakemake: {view.steps[0]} of {view.steps[1]} steps", "dim")
    parts: list[RenderableType] = [head, bar, counted, *(() if view.is_done else _left(view.left))]
    if view.trainings:
        parts += [Text(), _table(("training", "step", "tokens/s", "left", "curve"), map(_row, view.trainings.values()))]
    if others := [job for job in view.jobs if job.state is State.RUNNING and job.key not in view.trainings]:
        rows = [(job.name, reading.duration(max(0.0, view.now - job.since)), job.where) for job in others[:SHOWN]]
        more = [(f"and {len(others) - SHOWN} more", "", "")] if len(others) > SHOWN else []
        parts += [Text(), _table(("job", "for", "where"), [*rows, *more])]
    for job in [job for job in view.jobs if job.state in (State.FAILED, State.STOPPED)][:SHOWN]:
        place = Path(job.key).parent if "/" in job.key else "logs"
        parts.append(Text(f"{job.state}: {job.name}; its log is in {place}", STYLES[job.state]))
    if view.is_done:
        parts.append(Text(f"Finished: {view.study / 'report.html'}", "green"))
    return Group(*parts)


def _left(left: Left | str) -> Iterator[Text]:
    """The time left, what it is estimated from, and for what machines and how many jobs at once."""
    if isinstance(left, str):
        yield Text(f"no estimate of the time left: {left}")
        return

    def several(count: int, thing: str) -> str:
        return f"{count} {thing}{'' if count == 1 else 's'}"

    stands_on = ["chord plan"] if left.planned else []
    stands_on += [several(left.finished, "finished job")] if left.planned and left.finished else []
    stands_on += [f"the pace of {several(left.paced, 'training')}"] if left.paced else []
    named = " and ".join(filter(None, (", ".join(stands_on[:-1]), stands_on[-1])))
    at_once = f"{left.at_once:.1f}".removesuffix(".0")
    share = "as on average so far" if left.is_seen else "as the cores here allow"
    yield Text(f"about {reading.duration(left.seconds)} left, estimated from {named}")
    yield Text(f"(planned for {left.devices} x {left.machine}; {at_once} at once, {share})", "dim")


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(*columns, box=None, pad_edge=False, header_style="dim")
    for row in rows:
        table.add_row(*row)
    return table


def _row(one: Training) -> tuple[str, ...]:
    steps = f"{one.step}/{one.steps}" if one.steps else str(one.step)
    speed = f"{one.tokens_per_second:,.0f}" if one.tokens_per_second else "-"
    left = "-" if one.seconds_left is None else reading.duration(one.seconds_left)
    curve = f"{sparkline(one.curve)} {one.metric} {one.curve[-1]:.3f}" if one.curve else "no step yet"
    return one.name, steps, speed, left, curve


def sparkline(values: Sequence[float], width: int = CURVE_WIDTH) -> str:
    """A curve in one line: at most `width` blocks from the lowest to the highest, each the mean of as many points."""
    if not values:
        return ""
    count = min(width, len(values))
    edges = [round(i * len(values) / count) for i in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high, top = min(means), max(means), len(BLOCKS) - 1
    return "".join(BLOCKS[round((mean - low) / (high - low) * top) if high > low else top // 2] for mean in means)


def _data(view: View) -> dict[str, Any]:
    """One look as plain data: jobs by state, seconds left (None with `why` where not known) and what they stand on."""
    left = {"seconds": None, "why": view.left} if isinstance(view.left, str) else view.left._asdict()
    jobs = {state: view.counts[state] for state in State}
    return {"study": view.project.study.name, "jobs": jobs, "left": {"seconds": 0.0} if view.is_done else left}


def main() -> None:
    """Show the study until it is done, or once."""
    given = _arguments()
    chosen = {"artefacts": given.artefacts} if given.artefacts else {}
    project = load(given.root, given.study, tuple(given.seeds or ()), chosen)
    plan = {key: job.step.rule for key, job in Dag(project, given.root).planned.items() if job.step.verb}
    prices = _prices(given, project, plan)
    console = Console(highlight=False)
    view = look(given.root, project, plan, prices)
    if given.json:
        print(json.dumps(_data(view), indent=1))
    elif given.once:
        console.print(drawn(view))
    else:
        with Live(drawn(view), console=console, auto_refresh=False) as live:
            while not view.is_done:
                time.sleep(given.seconds)
                view = look(given.root, project, plan, prices)
                live.update(drawn(view), refresh=True)


def _prices(given: argparse.Namespace, project: Project, plan: Mapping[str, str]) -> Prices | str:
    """Of every job, or what is missing for them. Raises UserError for a `--machine` that is not known."""
    try:
        estimates = Estimates(project, Planning.read(given.root), given.root)
    except ConfigError as error:
        return str(error)
    if given.machine:
        estimates.machine(given.machine, "--machine")
    try:
        return priced(estimates, plan, given.machine, given.devices)
    except UserError as error:
        return str(error)


def _arguments() -> argparse.Namespace:
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
    return parser.parse_args()
