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
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from chord.cluster import probe
from chord.cluster.probe import Finding, ask_a_node
from chord.cluster.profile import held, wanted_gpus
from chord.cluster.sizing import Work
from chord.config.load import load
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
    packages = list(_packages())
    yield from packages
    if any(finding.change for finding in packages):
        return
    profile = planned(args.profile, args.config)
    yield _executor(profile, place)
    given = {key: yaml.safe_load(value) for key, _, value in (item.partition("=") for item in args.config)}
    yield from held(profile, load(Path("."), given=given), place)
    programs = [_program(name) for name in PROGRAMS]
    yield from programs
    if any(finding.change for finding in programs):
        return
    try:
        probe.told("scontrol", "ping")
        nodes = probe.nodes()
    except UserError as error:
        yield Finding(f"the cluster: {error}", "ask whoever runs it; nothing else was looked at")
        return
    yield _status(profile, place)
    kinds = profile["kinds"]
    fits = [finding for kind in kinds for finding in _kind(kind, _name(kind, kinds), nodes, place)]
    yield from fits
    yield from _accounts(profile["kinds"], place)
    if not args.no_jobs and not any(finding.change for finding in fits):
        yield from _small_jobs(profile["kinds"], place, args.wait)


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


def _packages() -> Iterator[Finding]:
    for name, least in PACKAGES.items():
        wanted = f"{'.'.join(map(str, least))} or newer"
        try:
            found = version(name)
        except PackageNotFoundError:
            yield Finding(f"found no {name}", f"install the pins of envs/workflow.txt ({wanted})")
            continue
        old = tuple(int(part) for part in found.split(".")[:2]) < least
        yield Finding(f"{name} {found}", f"install the pins of envs/workflow.txt ({wanted})" if old else "")


def _executor(profile: dict[str, Any], place: Path) -> Finding:
    wrong = profile["executor"] != "slurm"
    return Finding(f"executor {profile['executor']}", f"set `executor: slurm` in {place}" if wrong else "")


def _program(name: str) -> Finding:
    found = shutil.which(name)
    if found:
        return Finding(f"{name}: {found}")
    return Finding(f"no {name} found", "run this on a login node of the cluster, or load its module for Slurm first")


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
    wrong = [
        Finding(f"{name}: {found}", f"{change} in {place}, for {name}")
        for resources in (kind["attempts"][0]["resources"], kind["attempts"][-1]["resources"])
        for found, change in _misfits(resources, nodes)
    ]
    yield from dict.fromkeys(wrong)
    first = kind["attempts"][0]
    try:
        probe.told("bash", "-c", f"{first['call']} --test-only --wrap true")
    except UserError as error:
        yield Finding(f"{name}: sbatch refuses: {error}", f"change what it names in {place}; asked: {first['call']}")
        return
    if not wrong:
        asked = ", ".join(f"{key} {value}" for key, value in first["resources"].items())
        yield Finding(f"{name}: sbatch takes it ({asked})")


def _misfits(resources: dict[str, Any], nodes: list[probe.Node]) -> Iterator[tuple[str, str]]:
    """What no node of the partition can give, and what to change."""
    partition = resources.get("slurm_partition")
    own = [node for node in nodes if partition in (None, node.partition)]
    if not own:
        known = ", ".join(sorted({node.partition for node in nodes}))
        yield f"found partition {partition}, the cluster has {known}", "set `slurm_partition` to one of them"
        return
    number, kind = wanted_gpus(resources)
    most = max(node.gpus.get(kind, 0) if kind else sum(node.gpus.values()) for node in own)
    if number > most:
        known = ", ".join(sorted({f"{each or 'gpu'}:{n}" for node in own for each, n in node.gpus.items()})) or "none"
        wanted = f"{number} GPUs{f' of type {kind}' if kind else ''}"
        yield (
            f"found {wanted} on a node, partition {partition} has {known}",
            "set `gpus` of `site`, `gres` or `slurm_partition`",
        )
    limits = [node.minutes for node in own]
    longest = None if None in limits else max(minutes for minutes in limits if minutes is not None)
    if longest is not None and resources.get("runtime", 0) > longest:
        yield (
            f"found {resources['runtime']} minutes, partition {partition} allows {longest}: it would wait for ever",
            f"set `runtime` to at most {longest}, on every attempt,",
        )
    for key, most in (("mem_mb", max(n.memory_mb for n in own)), ("threads", max(n.cpus for n in own))):
        asked = resources.get("cpus_per_task", resources["threads"]) if key == "threads" else resources.get(key, 0)
        if asked > most:
            yield f"found {key} {asked}, the largest node of partition {partition} has {most}", f"lower `{key}`"


def _accounts(kinds: list[dict[str, Any]], place: Path) -> Iterator[Finding]:
    wanted = {kind["attempts"][0]["resources"].get("slurm_account") for kind in kinds} - {None}
    if not wanted:
        yield Finding("no account is named: Slurm takes the default one, if any")
        return
    try:
        known = probe.accounts()
    except UserError as error:
        yield Finding(
            f"account {', '.join(wanted)}: this cluster keeps none ({error})", f"leave `slurm_account` out of {place}"
        )
        return
    for account in sorted(wanted):
        well = str(account).lower() in known
        change = f"set `slurm_account` in {place} to one of: {', '.join(sorted(known)) or 'none is yours'}"
        yield Finding(f"account {account}", "" if well else change)


def _small_jobs(kinds: list[dict[str, Any]], place: Path, seconds: float) -> Iterator[Finding]:
    """One job on each partition, with the most GPUs that any rule asks for there."""
    partitions: dict[str, dict[str, Any]] = {}
    for kind in kinds:
        resources = kind["attempts"][0]["resources"]
        known = partitions.setdefault(str(resources.get("slurm_partition", "")), resources)
        if wanted_gpus(resources) > wanted_gpus(known):
            partitions[str(resources.get("slurm_partition", ""))] = resources
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
