"""Whether a profile fits the Slurm cluster that it is to run on: what was found, and what to change where.

    chord doctor --profile slurm [--no-jobs] [--config KEY=VALUE ...]

Holds what `chord plan` says of the study's jobs against what the profile gives them: GPUs and their memory, memory of
the host, time with all attempts, disk. Then checks programs and versions; partitions, GPUs, time and memory of every
rule against what the cluster has; and asks sbatch whether it would take each kind of job (`--test-only`, with the very
options that the plugin would send). Then one small job on each partition says whether nodes see the results folder and
have the same Python environment.
Exit codes: 0 if all is well, 1 if anything is to be changed, 2 if the profile cannot be read.
"""

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from chord.cluster import probe
from chord.cluster.costs import GB
from chord.cluster.probe import Finding, ask_a_node, gpus_of
from chord.cluster.sizing import COMPUTES, TRAINS, Need, Site, Sizing, Work, disk, shapes_below
from chord.config.project import Project, load
from chord.errors import UserError
from chord.provenance.cli import Number

PROGRAMS = ("sbatch", "srun", "squeue", "scancel", "sinfo", "scontrol")
PACKAGES = {
    "snakemake": (9, 27),
    "snakemake-executor-plugin-slurm": (2, 8),
    "snakemake-executor-plugin-slurm-jobstep": (0, 6),
}


def main() -> int:
    """Print the findings as they come; 1 if anything is to be changed."""
    args = _arguments()
    found = []
    for finding in findings(args):
        print(finding, flush=True)
        found.append(finding)
    wrong = sum(bool(finding.change) for finding in found)
    print(f"{wrong} of {len(found)} to be changed." if wrong else f"All {len(found)} are well.")
    return 1 if wrong else 0


def findings(args: argparse.Namespace) -> Iterator[Finding]:
    """All of them, cheapest first. What needs Slurm is left out where there is none."""
    place = profile_file(args.profile)
    packages = [_package(name, least) for name, least in PACKAGES.items()]
    yield from packages
    if any(finding.change for finding in packages):
        return
    profile = planned(args.profile, args.config)
    kinds = profile["kinds"]
    wrong = profile["executor"] != "slurm"
    yield Finding(f"executor {profile['executor']}", f"set `executor: slurm` in {place}" if wrong else "")
    given = {key: yaml.safe_load(value) for key, _, value in (item.partition("=") for item in args.config)}
    yield from held(profile, load(Path("."), given=given), place)
    cure = "run this on a login node of the cluster, or load its module for Slurm first"
    paths = {name: shutil.which(name) for name in PROGRAMS}
    for name, path in paths.items():
        yield Finding(f"{name}: {path}") if path else Finding(f"no {name} found", cure)
    if not all(paths.values()):
        return
    try:
        probe.told("scontrol", "ping")
        nodes = probe.nodes()
    except UserError as error:
        yield Finding(f"the cluster: {error}", "ask whoever runs it; nothing else was looked at")
        return
    yield _status(profile, place)
    fits = [finding for kind in kinds for finding in _kind(kind, _name(kind, kinds), nodes, place)]
    yield from fits
    yield from _accounts(kinds, place)
    if not args.no_jobs and not any(finding.change for finding in fits):
        yield from _small_jobs(kinds, place, args.wait)


def profile_file(profile: str) -> Path:
    """The config.yaml of a profile, found as Snakemake finds it, links followed. Raises UserError if there is none."""
    folders = (Path(profile), Path("profiles", profile), Path.home() / ".config/snakemake" / profile)
    for file in (folder / "config.yaml" for folder in folders):
        if file.is_file():
            here = Path.cwd().resolve()
            real = file.resolve()
            return real.relative_to(here) if real.is_relative_to(here) else real
    raise UserError(f"{profile}: found no profile of this name, expected {folders[0] / 'config.yaml'}")


def planned(profile: str, config: list[str]) -> dict[str, Any]:
    """What Snakemake would send with this profile. Raises UserError with its last words if it cannot plan."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "submissions.json"
        module = ["-m", "chord", "submissions"]  # not followed: no job starts it
        command = [sys.executable, *module, str(out), "--profile", profile]
        command += ["--config", *config] if config else []
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode or not out.exists():
            raise UserError(f"snakemake --profile {profile}: {probe.last_words(done.stderr or done.stdout)}")
        return json.loads(out.read_text(encoding="utf-8"))


def _package(name: str, least: tuple[int, int]) -> Finding:
    cure = f"install the pins of envs/workflow.txt ({'.'.join(map(str, least))} or newer)"
    try:
        found = version(name)
    except PackageNotFoundError:
        return Finding(f"found no {name}", cure)
    old = tuple(int(part) for part in found.split(".")[:2]) < least
    return Finding(f"{name} {found}", cure if old else "")


# --- what the plan says of jobs, against what the profile gives them: needs no cluster ---


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
        works = dict.fromkeys(Work.of_job(rule, outputs[0]) for rule, outputs in kind["jobs"] if rule in COMPUTES)
        if works:
            yield from _needed(sizing, kind, works, place)
    yield _disk(sizing, profile, place)


def wanted_gpus(resources: dict[str, Any]) -> tuple[int, str]:
    """GPUs on a node and their type, `` for any."""
    kind, number = next(iter(gpus_of(str(resources.get("gres", ""))).items()), ("", int(resources.get("gpu", 0))))
    return number, kind


def _needed(sizing: Sizing, kind: dict[str, Any], works: Iterable[Work], place: Path) -> Iterator[Finding]:
    """What the neediest of the jobs lacks, a finding for each thing; or that all of them have what they need."""
    given = kind["attempts"][0]["resources"]
    gpus, nodes = wanted_gpus(given)[0], int(given.get("nodes", 1))
    needs = {work: sizing.need(work, gpus, nodes) for work in works}
    wrong = [*_device(sizing, needs, place), *_host(sizing, needs, given, place), *_time(sizing, needs, kind, place)]
    yield from wrong
    if not wrong:
        work, need = max(needs.items(), key=lambda item: item[1].seconds)
        hours = sum(attempt["resources"].get("runtime", 0) for attempt in kind["attempts"]) / 60
        yield Finding(
            f"{_needs(sizing, work, need)}, {need.seconds / 3600:.1f} h; the profile gives it {gpus * nodes} GPUs,"
            f" {given.get('mem_mb', 0) / 1000:.0f} GB and {hours:.1f} h in {len(kind['attempts'])} attempts"
        )


def _needs(sizing: Sizing, work: Work, need: Need) -> str:
    host = f"{need.host_gb:.0f} GB of host memory" + (" on each node" if need.nodes > 1 else "")
    gpus = f"{need.gpus * need.nodes} GPUs x {need.device_gb:.1f} GB of {sizing.machine.memory_gb:g} GB, "
    return f"{work.rule} of {work.of} needs {gpus if need.gpus else ''}{host}"


def _nodes(site: Site) -> str:
    return f"{site.slurm_partition or 'the default partition'} has nodes of {site.gpus} GPUs, {site.mem_mb / 1000:g} GB"


def _device(sizing: Sizing, needs: dict[Work, Need], place: Path) -> Iterator[Finding]:
    """Where the GPUs do not hold a job: with how many they would, and what to change."""
    site, short = sizing.site, {work: need for work, need in needs.items() if not need.holds}
    if not short:
        return
    work, given = max(short.items(), key=lambda item: item[1].device_gb)
    least = sizing.fewest(work) if work.rule in TRAINS else sizing.need(work)
    if least is None or not least.holds:
        found = f"{_needs(sizing, work, given)}; {_nodes(site)}"
        yield Finding(found, "no number of these GPUs holds it: `chord plan` names settings of the study that would")
        return
    has = given.gpus * given.nodes
    found = f"{_needs(sizing, work, least)}; the profile gives it {has}"
    if has >= least.gpus * least.nodes:
        found = _needs(sizing, work, given)
    if least.gpus > site.gpus:
        change = f"take a partition with {least.gpus} GPUs on a node"
    elif least.nodes > site.nodes:
        change = f"set `nodes: {least.nodes}` of `site`, or take a partition with more GPUs on a node,"
    else:
        change = f"leave `gres` and `nodes` of {work.rule} out, or set `gres: {site.gres}:{least.gpus}`"
    yield Finding(f"{found}; {_nodes(site)}", f"{change} in {place}; `chord plan` names settings that need less")


def _host(sizing: Sizing, needs: dict[Work, Need], given: dict[str, Any], place: Path) -> Iterator[Finding]:
    """Where a node's memory, as asked for or as it is, is less than a job needs."""
    work, need = max(needs.items(), key=lambda item: item[1].host_gb)
    found, has = _needs(sizing, work, need), given.get("mem_mb", 0)
    if need.mem_mb > sizing.site.mem_mb:
        fewer = "fewer GPUs on more nodes (`nodes` of `site`), or a partition with more memory,"
        change = f"take {fewer if need.gpus else 'a partition with more memory'} in {place}"
        yield Finding(f"{found}; {_nodes(sizing.site)}", change)
    elif 0 < has < need.host_gb * 1000:
        change = f"leave `mem_mb` of {work.rule} out, or set it to {need.mem_mb} in {place}"
        yield Finding(f"{found}; the profile gives it mem_mb {has}", change)


def _time(sizing: Sizing, needs: dict[Work, Need], kind: dict[str, Any], place: Path) -> Iterator[Finding]:
    """Where the attempts are too short: of trainings together, which continue; of others the longest."""
    work, need = max(needs.items(), key=lambda item: item[1].seconds)
    minutes = [attempt["resources"].get("runtime") for attempt in kind["attempts"]]
    if None in minutes:
        return
    name, hours, tries, most = f"{work.rule} of {work.of}", need.seconds / 3600, len(minutes), max(minutes)
    takes = f"{name} takes about {hours:.1f} h, the profile gives it"
    if work.rule not in TRAINS:
        if hours > most / 60:
            yield Finding(f"{takes} {most} minutes at most", f"set a longer `runtime` in {place}")
        return
    # Each attempt begins anew, and loses what it did after its last checkpoint; told beforehand, it saves.
    tells = "--signal=" in kind["attempts"][0]["call"]
    unsaved = 0.0 if tells else sizing.project.study.execution.checkpoint_every_minutes
    lost = sizing.machine.start_seconds / 60 + unsaved
    useful = sum(max(0.0, one - lost) for one in minutes) / 60
    if hours > useful:
        more = max(1, round((hours - useful) / max(1e-9, (most - lost) / 60) + 0.5))
        change = f"set `retries: {tries + more - 1}`, a longer `runtime`, or more GPUs in {place}"
        yield Finding(f"{takes} {tries} attempts of {minutes[0]} to {most} minutes", change)
    if not tells:
        yield Finding(
            f"{name} is not told before its time is up, and loses what it did since it last saved",
            f"add --signal=USR1@300 to its `slurm_extra` in {place}",
        )


def _disk(sizing: Sizing, profile: dict[str, Any], place: Path) -> Finding:
    """Whether the file system of results/ has room for the models that are still to be made."""
    every = [job for kind in profile["kinds"] for job in kind["jobs"]]
    makes = [(rule, out[0]) for rule, out in every if rule in (*TRAINS, "choose") and not Path(out[0]).exists()]
    works = [Work.of_job(rule, output) for rule, output in makes]
    shapes = shapes_below(sizing.project, sizing.planning, works, Path("."))
    wanted = sum(disk(sizing.project, shapes, works).values()) if works else 0.0
    free = shutil.disk_usage("results" if Path("results").exists() else ".").free / GB
    found = f"results/ has {free:.0f} GB free, models of the study take up to {wanted:.0f} GB"
    change = f"put results/ on a larger file system, or take fewer seeds or arms ({place} has no part in it)"
    return Finding(found, change if wanted > free else "")


# --- what the cluster has, against what jobs ask for ---


def _status(profile: dict[str, Any], place: Path) -> Finding:
    if profile["status_command"] != "squeue":
        found = f"status of jobs by {profile['status_command']}: a job that was cancelled is taken for a running one"
        return Finding(found, f"set `slurm-status-command: squeue` in {place}")
    least = 3 * profile["init_seconds"]
    words = (probe.setting("MinJobAge") or "").split()
    age = int(words[0]) if words and words[0].isdigit() else 0
    found = f"squeue knows ended jobs for {age} s (MinJobAge); it is first asked after {profile['init_seconds']} s"
    change = f"set `slurm-init-seconds-before-status-checks: {max(1, age // 3)}` or less in {place}"
    return Finding(found, change if age < least else "")


def _name(kind: dict[str, Any], kinds: list[dict[str, Any]]) -> str:
    """The rules of a kind of job; what its jobs are of, too, where other kinds have the same rules."""
    rules = " + ".join(kind["rules"])
    if sum(other["rules"] == kind["rules"] for other in kinds) == 1:
        return rules
    every = sorted({of for rule, outputs in kind["jobs"] if (of := Work.of_job(rule, outputs[0]).of)})
    return f"{rules} of {', '.join(every)}" if every else rules


def _kind(kind: dict[str, Any], name: str, nodes: list[probe.Node], place: Path) -> Iterator[Finding]:
    """Whether the cluster has what a kind of job asks for, on its first attempt and on its last; then sbatch's word."""
    first, last = kind["attempts"][0], kind["attempts"][-1]
    misfits = [*_misfits(first["resources"], nodes), *_misfits(last["resources"], nodes)]
    for one in dict.fromkeys(misfits):
        yield Finding(f"{name}: {one.found}", f"{one.change} in {place}, for {name}")
    try:
        probe.told("bash", "-c", f"{first['call']} --test-only --wrap true")
    except UserError as error:
        yield Finding(f"{name}: sbatch refuses: {error}", f"change what it names in {place}; asked: {first['call']}")
        return
    if not misfits:
        asked = ", ".join(f"{key} {value}" for key, value in first["resources"].items())
        yield Finding(f"{name}: sbatch takes it ({asked})")


def _misfits(resources: dict[str, Any], nodes: list[probe.Node]) -> Iterator[Finding]:
    """What no node of the partition can give, and what to change."""
    partition = resources.get("slurm_partition")
    own = [node for node in nodes if partition in (None, node.partition)]
    if not own:
        known = ", ".join(sorted({node.partition for node in nodes}))
        yield Finding(f"found partition {partition}, the cluster has {known}", "set `slurm_partition` to one of them")
        return
    number, kind = wanted_gpus(resources)
    if number > max(node.gpus.get(kind, 0) if kind else sum(node.gpus.values()) for node in own):
        known = ", ".join(sorted({f"{each or 'gpu'}:{n}" for node in own for each, n in node.gpus.items()})) or "none"
        wanted = f"{number} GPUs{f' of type {kind}' if kind else ''}"
        found = f"found {wanted} on a node, partition {partition} has {known}"
        yield Finding(found, "set `gpus` of `site`, `gres` or `slurm_partition`")
    longest = max(float("inf") if node.minutes is None else node.minutes for node in own)
    if resources.get("runtime", 0) > longest:
        yield Finding(
            f"found {resources['runtime']} minutes, partition {partition} allows {longest}: it would wait for ever",
            f"set `runtime` to at most {longest}, on every attempt,",
        )
    threads = resources.get("cpus_per_task", resources["threads"])
    for key, asked, most in (
        ("mem_mb", resources.get("mem_mb", 0), max(node.memory_mb for node in own)),
        ("threads", threads, max(node.cpus for node in own)),
    ):
        if asked > most:
            found = f"found {key} {asked}, the largest node of partition {partition} has {most}"
            yield Finding(found, f"lower `{key}`")


def _accounts(kinds: list[dict[str, Any]], place: Path) -> Iterator[Finding]:
    wanted = {kind["attempts"][0]["resources"].get("slurm_account") for kind in kinds} - {None}
    if not wanted:
        yield Finding("no account is named: Slurm takes the default one, if any")
        return
    try:
        known = probe.accounts()
    except UserError as error:
        found = f"account {', '.join(wanted)}: this cluster keeps none ({error})"
        yield Finding(found, f"leave `slurm_account` out of {place}")
        return
    change = f"set `slurm_account` in {place} to one of: {', '.join(sorted(known)) or 'none is yours'}"
    for account in sorted(wanted):
        yield Finding(f"account {account}", "" if str(account).lower() in known else change)


def _small_jobs(kinds: list[dict[str, Any]], place: Path, seconds: float) -> Iterator[Finding]:
    """One job on each partition, with the most GPUs that any rule asks for there."""
    partitions: dict[str, dict[str, Any]] = {}
    for resources in (kind["attempts"][0]["resources"] for kind in kinds):
        name = str(resources.get("slurm_partition", ""))
        partitions[name] = max(partitions.get(name, resources), resources, key=wanted_gpus)
    for partition, resources in partitions.items():
        options = ["--time=5", "--mem=1000", "--job-name=chord-doctor"]
        options += [f"--partition={partition}"] if partition else []
        for flag, key in (("account", "slurm_account"), ("gres", "gres"), ("gpus", "gpu")):
            options += [f"--{flag}={resources[key]}"] if key in resources else []
        where = f"a job on partition {partition or '(default)'}"
        for finding in ask_a_node(shlex.join(options), wanted_gpus(resources)[0], seconds, place):
            yield replace(finding, found=f"{where}: {finding.found}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="chord doctor", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--profile", default="slurm", help="as for snakemake (default: slurm)")
    parser.add_argument("--config", nargs="+", default=[], metavar="KEY=VALUE", help="as for snakemake")
    parser.add_argument("--no-jobs", action="store_true", help="submit nothing: nodes are not looked at")
    waits = {"kind": float, "least": None, "default": 600.0, "metavar": "SECONDS"}
    parser.add_argument("--wait", action=Number, **waits, help="for each small job (default: 600)")
    return parser.parse_args()
