"""Whether a profile gives the jobs of a study what `chord plan` says that they need. Part of the verb `doctor`.

Holds GPUs, memory, time and disk of each kind of job against the plan; needs no cluster.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chord.cluster.costs import GB
from chord.cluster.probe import Finding, gpus_of
from chord.cluster.sizing import COMPUTES, TRAINS, Need, Site, Sizing, Work, disk, shape_of, start_below
from chord.config.project import Project
from chord.config.sets import start_models


def wanted_gpus(resources: dict[str, Any]) -> tuple[int, str]:
    """GPUs on a node and their type, `` for any."""
    gpus = gpus_of(str(resources.get("gres", "")))
    kind, number = next(iter(gpus.items()), ("", int(resources.get("gpu", 0))))
    return number, kind


def held(profile: dict[str, Any], project: Project, place: Path) -> Iterator[Finding]:
    """A finding for each kind of job that computes with a model, and one for the disk. `place` is the profile."""
    if profile["site"] is None:
        yield Finding(
            "the profile does not say what GPUs its nodes have, so the plan is not held against it",
            note=f"add the block `site` to `set-resources` of {place}: README, On a Slurm cluster",
        )
        return
    sizing = Sizing.of(project, Path("."), Site(**profile["site"]))
    for kind in profile["kinds"]:
        works = {work: None for rule, outputs in kind["jobs"] if rule in COMPUTES and (work := _work(rule, outputs))}
        if works:
            yield from _kind(sizing, kind, list(works), place)
    yield _disk(sizing, profile, place)


def _work(rule: str, outputs: list[str]) -> Work:
    return Work.of_job(rule, outputs[0])


def _kind(sizing: Sizing, kind: dict[str, Any], works: list[Work], place: Path) -> Iterator[Finding]:
    """What the neediest of the jobs lacks, a finding for each thing; or that all of them have what they need."""
    resources, nodes = kind["attempts"][0]["resources"], int(kind["attempts"][0]["resources"].get("nodes", 1))
    gpus = wanted_gpus(resources)[0]
    needs = {work: sizing.need(work, gpus, nodes) for work in works}
    wrong = [
        *_device(sizing, needs, place),
        *_host(sizing, needs, resources, place),
        *_time(sizing, needs, kind, place),
    ]
    yield from wrong
    if not wrong:
        work, need = max(needs.items(), key=lambda item: item[1].seconds)
        yield Finding(
            f"{named(work)} needs {_asked(sizing, need)}, {need.seconds / 3600:.1f} h;"
            f" the profile gives it {gpus * nodes} GPUs, {resources.get('mem_mb', 0) / 1000:.0f} GB and"
            f" {_hours(kind):.1f} h in {len(kind['attempts'])} attempts"
        )


def named(work: Work) -> str:
    """A job in words."""
    return f"{work.rule} of {work.of}"


def _asked(sizing: Sizing, need: Need) -> str:
    """What a job needs, in numbers."""
    host = f"{need.host_gb:.0f} GB of host memory" + (" on each node" if need.nodes > 1 else "")
    if not need.gpus:
        return host
    return f"{need.gpus * need.nodes} GPUs x {need.device_gb:.1f} GB of {sizing.machine.memory_gb:g} GB, {host}"


def _nodes(site: Site) -> str:
    """The nodes of the site, in numbers."""
    return f"{site.slurm_partition or 'the default partition'} has nodes of {site.gpus} GPUs, {site.mem_mb / 1000:g} GB"


def _device(sizing: Sizing, needs: dict[Work, Need], place: Path) -> Iterator[Finding]:
    """Where the GPUs do not hold a job: with how many they would, and what to change."""
    site = sizing.site
    short = [work for work, need in needs.items() if not need.holds]
    if not short:
        return
    work = max(short, key=lambda one: needs[one].device_gb)
    least, given = sizing.fewest(work), needs[work]
    if work.rule not in TRAINS:
        least = sizing.need(work)
        least = least if least.holds else None
    if least is None:
        found = f"{named(work)} needs {_asked(sizing, given)}; {_nodes(site)}"
        yield Finding(found, "no number of these GPUs holds it: `chord plan` names settings of the study that would")
        return
    found = f"{named(work)} needs {_asked(sizing, least)}; the profile gives it {given.gpus * given.nodes}"
    if given.holds is False and given.gpus * given.nodes >= least.gpus * least.nodes:
        found = f"{named(work)} needs {_asked(sizing, given)}"
    if least.gpus > site.gpus:
        change = f"take a partition with {least.gpus} GPUs on a node"
    elif least.nodes > site.nodes:
        change = f"set `nodes: {least.nodes}` of `site`, or take a partition with more GPUs on a node,"
    else:
        change = f"leave `gres` and `nodes` of {work.rule} out, or set `gres: {site.gres}:{least.gpus}`"
    yield Finding(f"{found}; {_nodes(site)}", f"{change} in {place}; `chord plan` names settings that need less")


def _host(sizing: Sizing, needs: dict[Work, Need], resources: dict[str, Any], place: Path) -> Iterator[Finding]:
    """Where a node's memory, as asked for or as it is, is less than a job needs."""
    work, need = max(needs.items(), key=lambda item: item[1].host_gb)
    has = resources.get("mem_mb", 0)
    if need.mem_mb > sizing.site.mem_mb:
        change = (
            "take fewer GPUs on more nodes (`nodes` of `site`), or a partition with more memory,"
            if need.gpus
            else ("take a partition with more memory")
        )
        yield Finding(f"{named(work)} needs {_asked(sizing, need)}; {_nodes(sizing.site)}", f"{change} in {place}")
    elif 0 < has < need.host_gb * 1000:
        found = f"{named(work)} needs {_asked(sizing, need)}; the profile gives it mem_mb {has}"
        yield Finding(found, f"leave `mem_mb` of {work.rule} out, or set it to {need.mem_mb} in {place}")


def _hours(kind: dict[str, Any]) -> float:
    """All attempts together."""
    return sum(attempt["resources"].get("runtime", 0) for attempt in kind["attempts"]) / 60


def _time(sizing: Sizing, needs: dict[Work, Need], kind: dict[str, Any], place: Path) -> Iterator[Finding]:
    """Where the attempts are too short: of trainings together, which continue; of others the longest."""
    work, need = max(needs.items(), key=lambda item: item[1].seconds)
    minutes = [attempt["resources"].get("runtime") for attempt in kind["attempts"]]
    if None in minutes:
        return
    execution, tells = sizing.project.study.execution, "--signal=" in kind["attempts"][0]["call"]
    hours = need.seconds / 3600
    if work.rule in TRAINS:
        # Each attempt begins anew, and loses what it did after its last checkpoint; told beforehand, it saves.
        lost = sizing.machine.start_seconds / 60 + (0.0 if tells else execution.checkpoint_every_minutes)
        useful = sum(max(0.0, one - lost) for one in minutes) / 60
        said = f"{len(minutes)} attempts of {minutes[0]} to {max(minutes)} minutes"
        if hours > useful:
            tries = len(minutes) + max(1, round((hours - useful) / max(1e-9, (max(minutes) - lost) / 60) + 0.5))
            change = f"set `retries: {tries - 1}`, a longer `runtime`, or more GPUs"
            yield Finding(
                f"{named(work)} takes about {hours:.1f} h, the profile gives it {said}", f"{change} in {place}"
            )
        if not tells:
            yield Finding(
                f"{named(work)} is not told before its time is up, and loses what it did since it last saved",
                f"add --signal=USR1@300 to its `slurm_extra` in {place}",
            )
    elif hours > max(minutes) / 60:
        found = f"{named(work)} takes about {hours:.1f} h, the profile gives it {max(minutes)} minutes at most"
        yield Finding(found, f"set a longer `runtime` in {place}")


def _disk(sizing: Sizing, profile: dict[str, Any], place: Path) -> Finding:
    """Whether the file system of results/ has room for the models that are still to be made."""
    project = sizing.project
    jobs = [
        (rule, outputs) for kind in profile["kinds"] for rule, outputs in kind["jobs"] if rule in (*TRAINS, "choose")
    ]
    works = [_work(rule, outputs) for rule, outputs in jobs if not Path(outputs[0]).exists()]
    starts = {start for work in works if (start := start_below(project, work))} or {"base"}
    models = start_models(project.study)
    shapes = {start: shape_of(project.study, sizing.planning, start, models[start]) for start in starts}
    wanted = sum(disk(project, shapes, works).values()) if works else 0.0
    folder = Path("results") if Path("results").exists() else Path(".")
    free = shutil.disk_usage(folder).free / GB
    found = f"results/ has {free:.0f} GB free, models of the study take up to {wanted:.0f} GB"
    change = f"put results/ on a larger file system, or take fewer seeds or arms ({place} has no part in it)"
    return Finding(found, change if wanted > free else "")
