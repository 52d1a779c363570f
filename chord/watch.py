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
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from chord import jobs
from chord.config.load import load
from chord.config.planning import Planning
from chord.config.project import Project
from chord.config.sets import start_models
from chord.findings import history, progress
from chord.findings.progress import Job, Left, Price, State, Training
from chord.planning import fitting
from chord.planning.memory import Setting
from chord.provenance.files import UserError
from chord.provenance.options import Number
from chord.settings import ConfigError
from chord.sizing import Layout, Work, cost, lengths_of, machine_of, shape_of, start_below

BLOCKS = "▁▂▃▄▅▆▇█"
CURVE_WIDTH, BAR_WIDTH = 28, 48
STYLES = {
    State.DONE: "green",
    State.RUNNING: "cyan",
    State.FAILED: "red",
    State.STOPPED: "yellow",
    State.PLANNED: "dim",
}
SHOWN = 12
DEVICES = (1, 8)  # of one training, where nobody says how many: one where it holds the model, else as `chord plan`


@dataclass(frozen=True)
class Prices:
    """What `chord plan` says of each job by its manifest, on these machines, and how many run at once here."""

    of: dict[str, Price]
    layout: Layout
    at_once: int


class View(NamedTuple):
    """One look at a study."""

    project: Project
    study: Path
    jobs: list[Job]
    trainings: dict[str, Training]
    left: Left | str  # or why it is not known
    prices: Prices | None
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
    plan = {key: one.verb for key, one in jobs.planned(project, given.root).items()}
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
    study = root / "results" / project.study.name
    now = time.time()
    found = progress.jobs_of(study, plan, now)
    begun = (job for job in found if job.state in (State.RUNNING, State.STOPPED, State.FAILED))
    told = {job.key: progress.training(study, job) for job in begun if job.verb == "chord train"}
    running = {job.key: told[job.key] for job in found if job.state is State.RUNNING and job.key in told}
    known = None if isinstance(prices, str) else prices
    left = prices if isinstance(prices, str) else progress.time_left(found, told, prices.of, prices.at_once, now)
    return View(project, study, found, running, left, known, progress.snakemake_steps(root), now)


# --- what the plan says ------------------------------------------------------------------------


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
    study, models = project.study, start_models(project.study)
    lengths = lengths_of(study, planning)
    works = {key: _work(project, key, verb) for key, verb in plan.items()}
    starts = dict.fromkeys(start for work in works.values() if (start := start_below(project, work)))
    shapes = {start: shape_of(study, planning, start, models[start], root) for start in starts}
    longest = fitting.longest_sequence(study, lengths)
    known = {machine: planning.machines[machine]} if machine else planning.machines
    smallest_first = sorted(known.items(), key=lambda item: item[1].memory_gb)
    lacking = ""
    for count in [devices] if devices else DEVICES:
        for name, one in smallest_first:
            setting = Setting.of(study, count)
            said = [fitting.verdict(study, shape, one, setting, longest)[0] for shape in shapes.values()]
            lacking = next((sentence for sentence in said if sentence.startswith("does not fit")), "")
            if not lacking:
                layout = Layout(name, one, count, 1)
                costs = {key: cost(project, planning, layout, work, shapes, root) for key, work in works.items()}
                prices = {key: Price(works[key].rule, found.seconds) for key, found in costs.items()}
                return Prices(prices, layout, max(1, len(os.sched_getaffinity(0)) // study.execution.cpu_threads))
    where = f"machine {machine}" if machine else "no machine of config/planning.yaml holds it; the largest"
    raise UserError(f"{where}: {lacking}; expected --machine and --devices that hold every training")


def _work(project: Project, key: str, verb: str) -> Work:
    """The job of a manifest, with the rule that makes it."""
    rule = verb.removeprefix("chord ").replace("-", "_")
    place = f"results/{project.study.name}/{key.removesuffix(jobs.ENDING)}"
    if rule == "train" and key.startswith("models/"):
        rule = "train_base"
    elif rule == "train" and project.arms[Work.of_job(rule, place).of].only_imitates:
        rule = "train_sft"
    return Work.of_job(rule, place)


# --- drawing -----------------------------------------------------------------------------------


def drawn(view: View) -> RenderableType:
    """One look as a person reads it."""
    counts = Counter(job.state for job in view.jobs)
    total, done = len(view.jobs), counts[State.DONE]
    head = Text.assemble((f"Study {view.project.study.name}", "bold"), f", {view.project.study.title}")
    if not view.study.is_dir() or not (done or counts[State.RUNNING] or counts[State.FAILED] or counts[State.STOPPED]):
        begin = Text(f"Not begun: none of its {total} jobs was started. Begin: snakemake --cores 2")
        return Group(head, begin, *_left(view))
    filled = done * BAR_WIDTH // total
    bar = Text.assemble(("━" * filled, "green"), ("╌" * (BAR_WIDTH - filled), "dim"), f" {100 * done // total} %")
    parts: list[RenderableType] = [head, bar, _counted(view, counts)]
    if not view.is_done:
        parts += _left(view)
    if view.trainings:
        parts += [Text(), _trainings(view)]
    if others := [job for job in view.jobs if job.state is State.RUNNING and job.key not in view.trainings]:
        parts += [Text(), _others(view, others)]
    parts += [_trouble(job) for job in view.jobs if job.state in (State.FAILED, State.STOPPED)][:SHOWN]
    if view.is_done:
        parts.append(Text(f"Finished: {view.study / 'report.html'}", "green"))
    return Group(*parts)


def _counted(view: View, counts: Mapping[State, int]) -> Text:
    text = Text()
    for state in State:
        if counts[state]:
            text.append(f"{counts[state]} {state}", STYLES[state]).append("   ")
    if view.steps and not view.is_done:
        text.append(f"Snakemake: {view.steps[0]} of {view.steps[1]} steps", "dim")
    return text


def _left(view: View) -> list[Text]:
    """The time left, what it is estimated from, and for what machines and how many jobs at once."""
    left, prices = view.left, view.prices
    if isinstance(left, str) or prices is None:
        return [Text(f"no estimate of the time left: {left}")]
    stands_on = ["chord plan"] if left.planned else []
    stands_on += [_several(left.finished, "finished job")] if left.planned and left.finished else []
    stands_on += [f"the pace of {_several(left.paced, 'training')}"] if left.paced else []
    *others, last = stands_on
    named = f"{', '.join(others)} and {last}" if others else last
    at_once = f"{left.at_once:.1f}".removesuffix(".0")
    share = "as on average so far" if left.is_seen else "as the cores here allow"
    many = f"{prices.layout.devices} x {prices.layout.name}"
    return [
        Text(f"about {history.duration(left.seconds)} left, estimated from {named}"),
        Text(f"(planned for {many}; {at_once} at once, {share})", "dim"),
    ]


def _several(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"


def _data(view: View) -> dict[str, Any]:
    """One look as plain data: jobs by state, seconds left (None with `why` where not known) and what they stand on."""
    counts = Counter(job.state for job in view.jobs)
    if view.is_done:
        left: dict[str, Any] = {"seconds": 0.0}
    elif isinstance(view.left, str) or view.prices is None:
        left = {"seconds": None, "why": view.left}
    else:
        layout = view.prices.layout
        left = asdict(view.left) | {"machine": layout.name, "devices": layout.devices}
    return {"study": view.project.study.name, "jobs": {state: counts[state] for state in State}, "left": left}


def _trainings(view: View) -> Table:
    table = Table("training", "step", "tokens/s", "left", "curve", box=None, pad_edge=False, header_style="dim")
    for one in view.trainings.values():
        steps = f"{one.step}/{one.steps}" if one.steps else str(one.step)
        speed = f"{one.tokens_per_second:,.0f}" if one.tokens_per_second else "-"
        left = "-" if one.seconds_left is None else history.duration(one.seconds_left)
        curve = f"{sparkline(one.curve)} {one.metric} {one.curve[-1]:.3f}" if one.curve else "no step yet"
        table.add_row(one.name, steps, speed, left, curve)
    return table


def _others(view: View, running: Sequence[Job]) -> Table:
    table = Table("job", "for", "where", box=None, pad_edge=False, header_style="dim")
    for job in running[:SHOWN]:
        name = f"{job.verb.removeprefix('chord.')} {job.key.removesuffix('.manifest.json')}"
        table.add_row(name, history.duration(max(0.0, view.now - job.since)), job.where)
    if len(running) > SHOWN:
        table.add_row(f"and {len(running) - SHOWN} more", "", "")
    return table


def _trouble(job: Job) -> Text:
    """One job that did not end well, and where its log is."""
    name = f"{job.verb.removeprefix('chord.')} {job.key.removesuffix('.manifest.json')}"
    place = "logs" if Path(job.key).parent == Path(".") else Path(job.key).parent
    return Text(f"{job.state}: {name}; its log is in {place}", STYLES[job.state])


def sparkline(values: Sequence[float], width: int = CURVE_WIDTH) -> str:
    """A curve in one line: at most `width` blocks from the lowest to the highest, each the mean of as many points."""
    if not values:
        return ""
    count = min(width, len(values))
    edges = [round(i * len(values) / count) for i in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in zip(edges, edges[1:], strict=False)]
    low, high = min(means), max(means)
    top = len(BLOCKS) - 1
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
