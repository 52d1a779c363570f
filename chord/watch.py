"""A running study in the terminal: jobs done, running, failed, planned; the curve of each training; the time left.

    chord watch                   the study in config/config.yaml, until it is done or Ctrl-C
    chord watch --once            one look, for pipes and logs

Reads files only, so it may run anywhere that sees the project's folder, also while Slurm runs the jobs.
"""

import argparse
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from chord import jobs
from chord.config import Project, load
from chord.findings import history, progress
from chord.findings.progress import Job, State, Training
from chord.provenance.files import run_verb
from chord.provenance.options import Number

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


class View(NamedTuple):
    """One look at a study."""

    project: Project
    study: Path
    jobs: list[Job]
    trainings: dict[str, Training]
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
    console = Console(highlight=False)
    if given.once:
        console.print(drawn(look(given.root, project, plan)))
        return
    view = look(given.root, project, plan)
    with Live(drawn(view), console=console, auto_refresh=False) as live:
        while not view.is_done:
            time.sleep(given.seconds)
            view = look(given.root, project, plan)
            live.update(drawn(view), refresh=True)


def look(root: Path, project: Project, plan: Mapping[str, str]) -> View:
    """The study as it is now."""
    study = root / "results" / project.study.name
    now = time.time()
    found = progress.jobs_of(study, plan, now)
    running = (job for job in found if job.state is State.RUNNING and job.verb == "chord.train")
    trainings = {job.key: progress.training(study, job) for job in running}
    return View(project, study, found, trainings, progress.snakemake_steps(root), now)


# --- drawing -----------------------------------------------------------------------------------


def drawn(view: View) -> RenderableType:
    """One look as a person reads it."""
    counts = Counter(job.state for job in view.jobs)
    total, done = len(view.jobs), counts[State.DONE]
    head = Text.assemble((f"Study {view.project.study.name}", "bold"), f", {view.project.study.title}")
    if not view.study.is_dir() or not (done or counts[State.RUNNING] or counts[State.FAILED] or counts[State.STOPPED]):
        return Group(head, Text(f"Not begun: none of its {total} jobs was started. Begin: snakemake --cores 2"))
    filled = done * BAR_WIDTH // total
    bar = Text.assemble(("━" * filled, "green"), ("╌" * (BAR_WIDTH - filled), "dim"), f" {100 * done // total} %")
    parts: list[RenderableType] = [head, bar, _counted(view, counts)]
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
    left = progress.seconds_left(view.jobs, view.trainings, view.now)
    if not view.is_done:
        said = "not known yet" if left is None else f"about {history.duration(left)} of work, one job after the other"
        text.append(f"left: {said}")
        if view.steps:
            text.append(f"   Snakemake: {view.steps[0]} of {view.steps[1]} steps", "dim")
    return text


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
    parser.add_argument(
        "--seconds", action=Number, kind=float, least=None, default=2.0, help="between two looks (default: 2)"
    )
    parser.add_argument("--seeds", action=Number, least=0, nargs="+", help="training seeds (default: those of config/)")
    parser.add_argument("--artefacts", nargs="+", help="tables and figures (default: those of config/config.yaml)")
    parser.add_argument("--root", default=Path("."), type=Path, help="the folder that holds config/ (default: here)")
    return parser


if __name__ == "__main__":
    run_verb("chord watch", main)
