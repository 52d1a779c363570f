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
import getpass
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from chord.cluster.costs import GB
from chord.cluster.sizing import COMPUTES, TRAINS, Need, Site, Sizing, Work
from chord.cluster.snakemake import last_words
from chord.config.project import Project, load
from chord.errors import UserError
from chord.provenance.cli import Number
from chord.provenance.environment import accelerator, installed_for
from chord.provenance.files import write_atomically

PROGRAMS = ("sbatch", "srun", "squeue", "scancel", "sinfo", "scontrol")
LEAST = {
    "snakemake": (9, 27),
    "snakemake-executor-plugin-slurm": (2, 8),
    "snakemake-executor-plugin-slurm-jobstep": (0, 6),
}
PROFILE = "PROFILE"  # in what a finding says: stands for the file of the profile


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `change` says what to do where it is not well, `note` what else to know."""

    found: str
    change: str = ""
    note: str = ""

    def __str__(self) -> str:
        head = "CHANGE" if self.change else "note" if self.note else "ok"
        more = self.change or self.note
        return f"{head:8}{self.found}" + (f"\n        -> {more}" if more else "")

    def of(self, file: Path) -> "Finding":
        """With the file of the profile named."""
        return Finding(self.found, self.change.replace(PROFILE, str(file)), self.note.replace(PROFILE, str(file)))


class Kind(NamedTuple):
    """Jobs that are sent alike: their rules, what each attempt is sent with, the rule and outputs of each job."""

    rules: list[str]
    attempts: list[dict[str, Any]]
    jobs: list[tuple[str, list[str]]]

    @property
    def given(self) -> dict[str, Any]:
        """The resources of the first attempt."""
        return self.attempts[0]["resources"]

    @property
    def works(self) -> list[Work]:
        """Each different job."""
        return list(dict.fromkeys(Work.of_job(rule, outputs[0]) for rule, outputs in self.jobs))


def main() -> int:
    """Print the findings as they come; 1 if anything is to be changed."""
    args = _arguments()
    if args.on_node:
        written = json.loads((args.on_node / "login.json").read_text(encoding="utf-8"))["written"]
        write_atomically(args.on_node / "node.json", json.dumps(described() | {"written": written}))
        return 0
    file, found = profile_file(args.profile), list[Finding]()
    for finding in findings(args):
        print(finding.of(file), flush=True)
        found.append(finding)
    wrong = sum(bool(finding.change) for finding in found)
    print(f"{wrong} of {len(found)} to be changed." if wrong else f"All {len(found)} are well.")
    return 1 if wrong else 0


def findings(args: argparse.Namespace) -> Iterator[Finding]:
    """All of them, cheapest first. What needs Slurm is left out where there is none."""
    packages = [_package(name, least) for name, least in LEAST.items()]
    yield from packages
    if any(finding.change for finding in packages):
        return
    profile = planned(args.profile, args.config)
    kinds = [Kind(**kind) for kind in profile["kinds"]]
    is_slurm = profile["executor"] == "slurm"
    yield Finding(f"executor {profile['executor']}", "" if is_slurm else f"set `executor: slurm` in {PROFILE}")
    given = {key: yaml.safe_load(value) for key, _, value in (item.partition("=") for item in args.config)}
    yield from held(profile["site"], kinds, load(Path("."), given=given))
    paths = {name: shutil.which(name) for name in PROGRAMS}
    for name, path in paths.items():
        cure = "run this on a login node of the cluster, or load its module for Slurm first"
        yield Finding(f"{name}: {path}") if path else Finding(f"no {name} found", cure)
    if not all(paths.values()):
        return
    try:
        told("scontrol", "ping")
        nodes = cluster_nodes()
    except UserError as error:
        yield Finding(f"the cluster: {error}", "ask whoever runs it; nothing else was looked at")
        return
    yield _status(profile)
    fits = [finding for kind in kinds for finding in _kind(kind, _name(kind, kinds), nodes)]
    yield from fits
    yield from _accounts(kinds)
    if not args.no_jobs and not any(finding.change for finding in fits):
        yield from _small_jobs(kinds, args.wait)


def profile_file(profile: str) -> Path:
    """The config.yaml of a profile, found as Snakemake finds it, links followed. Raises UserError if there is none."""
    folders = (Path(profile), Path("profiles", profile), Path.home() / ".config/snakemake" / profile)
    for file in (folder / "config.yaml" for folder in folders):
        if file.is_file():
            here, real = Path.cwd().resolve(), file.resolve()
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
            raise UserError(f"snakemake --profile {profile}: {last_words(done.stderr or done.stdout)}")
        return json.loads(out.read_text(encoding="utf-8"))


def _package(name: str, least: tuple[int, int]) -> Finding:
    cure = f"install the pins of envs/workflow.txt ({'.'.join(map(str, least))} or newer)"
    found = _version(name)
    if found == MISSING:
        return Finding(f"found no {name}", cure)
    old = tuple(int(part) for part in found.split(".")[:2]) < least
    return Finding(f"{name} {found}", cure if old else "")


# --- what the plan says of jobs, against what the profile gives them: needs no cluster ---


def held(site: dict[str, Any] | None, kinds: Iterable[Kind], project: Project) -> Iterator[Finding]:
    """A finding for each kind of job that computes with a model, and one for the disk."""
    if site is None:
        yield Finding(
            "the profile does not say what GPUs its nodes have, so the plan is not held against it",
            note=f"add the block `site` to `set-resources` of {PROFILE}: docs/slurm.md",
        )
        return
    sizing = Sizing.of(project, Path("."), Site(**site))
    for kind in kinds:
        if any(work.rule in COMPUTES for work in kind.works):
            yield from _needed(sizing, kind)
    yield _disk(sizing, kinds)


def wanted_gpus(resources: Mapping[str, Any]) -> tuple[int, str]:
    """GPUs on a node and their type, `` for any."""
    kind, number = next(iter(gpus_of(str(resources.get("gres", ""))).items()), ("", int(resources.get("gpu", 0))))
    return number, kind


def _needed(sizing: Sizing, kind: Kind) -> Iterator[Finding]:
    """What the neediest of the jobs lacks, a finding for each thing; or that all of them have what they need."""
    gpus, nodes = wanted_gpus(kind.given)[0], int(kind.given.get("nodes", 1))
    needs = {work: sizing.need(work, gpus, nodes) for work in kind.works if work.rule in COMPUTES}
    wrong = [*_device(sizing, needs), *_host(sizing, needs, kind.given), *_time(sizing, needs, kind)]
    yield from wrong
    if not wrong:
        work, need = max(needs.items(), key=lambda item: item[1].seconds)
        hours = sum(attempt["resources"].get("runtime", 0) for attempt in kind.attempts) / 60
        yield Finding(
            f"{_needs(sizing, work, need)}, {need.seconds / 3600:.1f} h; the profile gives it {gpus * nodes} GPUs,"
            f" {kind.given.get('mem_mb', 0) / 1000:.0f} GB and {hours:.1f} h in {len(kind.attempts)} attempts"
        )


def _needs(sizing: Sizing, work: Work, need: Need) -> str:
    host = f"{need.host_gb:.0f} GB of host memory" + (" on each node" if need.nodes > 1 else "")
    gpus = f"{need.gpus * need.nodes} GPUs x {need.device_gb:.1f} GB of {sizing.machine.memory_gb:g} GB, "
    return f"{work.rule} of {work.of} needs {gpus if need.gpus else ''}{host}"


def _nodes(site: Site) -> str:
    return f"{site.slurm_partition or 'the default partition'} has nodes of {site.gpus} GPUs, {site.mem_mb / 1000:g} GB"


def _device(sizing: Sizing, needs: dict[Work, Need]) -> Iterator[Finding]:
    """Where the GPUs do not hold a job: with how many they would, and what to change."""
    site, short = sizing.site, {work: need for work, need in needs.items() if not need.holds}
    if not short:
        return
    work, given = max(short.items(), key=lambda item: item[1].device_gb)
    least = sizing.fewest(work) if work.rule in TRAINS else sizing.need(work)
    if least is None or not least.holds:
        change = "no number of these GPUs holds it: `chord plan` names settings of the study that would"
        yield Finding(f"{_needs(sizing, work, given)}; {_nodes(site)}", change)
        return
    if least.gpus > site.gpus:
        change = f"take a partition with {least.gpus} GPUs on a node"
    elif least.nodes > site.nodes:
        change = f"set `nodes: {least.nodes}` of `site`, or take a partition with more GPUs on a node,"
    else:
        change = f"leave `gres` and `nodes` of {work.rule} out, or set `gres: {site.gres}:{least.gpus}`"
    has = given.gpus * given.nodes
    found = f"{_needs(sizing, work, least)}; the profile gives it {has}"
    if has >= least.gpus * least.nodes:
        found = _needs(sizing, work, given)
    yield Finding(f"{found}; {_nodes(site)}", f"{change} in {PROFILE}; `chord plan` names settings that need less")


def _host(sizing: Sizing, needs: dict[Work, Need], given: dict[str, Any]) -> Iterator[Finding]:
    """Where a node's memory, as asked for or as it is, is less than a job needs."""
    work, need = max(needs.items(), key=lambda item: item[1].host_gb)
    found, has = _needs(sizing, work, need), given.get("mem_mb", 0)
    if need.mem_mb > sizing.site.mem_mb:
        fewer = "fewer GPUs on more nodes (`nodes` of `site`), or " if need.gpus else ""
        change = f"take {fewer}a partition with more memory{',' if need.gpus else ''} in {PROFILE}"
        yield Finding(f"{found}; {_nodes(sizing.site)}", change)
    elif 0 < has < need.host_gb * 1000:
        change = f"leave `mem_mb` of {work.rule} out, or set it to {need.mem_mb} in {PROFILE}"
        yield Finding(f"{found}; the profile gives it mem_mb {has}", change)


def _time(sizing: Sizing, needs: dict[Work, Need], kind: Kind) -> Iterator[Finding]:
    """Where the attempts are too short: of trainings together, which continue; of others the longest."""
    work, need = max(needs.items(), key=lambda item: item[1].seconds)
    minutes = [attempt["resources"].get("runtime") for attempt in kind.attempts]
    if None in minutes:
        return
    name, hours, tries, most = f"{work.rule} of {work.of}", need.seconds / 3600, len(minutes), max(minutes)
    takes = f"{name} takes about {hours:.1f} h, the profile gives it"
    if work.rule not in TRAINS:
        if hours > most / 60:
            yield Finding(f"{takes} {most} minutes at most", f"set a longer `runtime` in {PROFILE}")
        return
    # Each attempt begins anew, and loses what it did after its last checkpoint; told beforehand, it saves.
    tells = "--signal=" in kind.attempts[0]["call"]
    lost = sizing.machine.start_seconds / 60 + (0.0 if tells else sizing.study.execution.checkpoint_every_minutes)
    useful = sum(max(0.0, one - lost) for one in minutes) / 60
    if hours > useful:
        more = max(1, round((hours - useful) / max(1e-9, (most - lost) / 60) + 0.5))
        change = f"set `retries: {tries + more - 1}`, a longer `runtime`, or more GPUs in {PROFILE}"
        yield Finding(f"{takes} {tries} attempts of {minutes[0]} to {most} minutes", change)
    if not tells:
        yield Finding(
            f"{name} is not told before its time is up, and loses what it did since it last saved",
            f"add --signal=USR1@300 to its `slurm_extra` in {PROFILE}",
        )


def _disk(sizing: Sizing, kinds: Iterable[Kind]) -> Finding:
    """Whether the file system of results/ has room for the models that are still to be made."""
    every = [job for kind in kinds for job in kind.jobs]
    makes = [(rule, out[0]) for rule, out in every if rule in (*TRAINS, "choose") and not Path(out[0]).exists()]
    works = [Work.of_job(rule, output) for rule, output in makes]
    estimates = sizing.estimates
    wanted = sum(estimates.disk(works, estimates.shapes(works)).values()) if works else 0.0
    free = shutil.disk_usage("results" if Path("results").exists() else ".").free / GB
    found = f"results/ has {free:.0f} GB free, models of the study take up to {wanted:.0f} GB"
    change = f"put results/ on a larger file system, or take fewer seeds or arms ({PROFILE} has no part in it)"
    return Finding(found, change if wanted > free else "")


# --- what Slurm's commands say; where one is missing or fails, UserError with its last words ---

UNFINISHED = ("PENDING", "RUNNING", "CONFIGURING", "COMPLETING")


class Node(NamedTuple):
    """One node as a partition offers it; time in minutes, None for no limit; `gpus` by type, `` for no type."""

    partition: str
    name: str
    minutes: int | None
    memory_mb: int
    cpus: int
    gpus: dict[str, int]


def told(*command: str, seconds: float = 60) -> str:
    """What a command prints. Raises UserError with its last words if it fails, is missing or does not answer."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds)
    except FileNotFoundError:
        raise UserError(f"no {command[0]} found") from None
    except subprocess.TimeoutExpired:
        raise UserError(f"{command[0]} did not answer in {seconds:g} s") from None
    if done.returncode:
        raise UserError(last_words(done.stderr or done.stdout) or f"{command[0]} ended with {done.returncode}")
    return done.stdout


def cluster_nodes() -> list[Node]:
    """Every node of every partition."""
    found: list[Node] = []
    for line in told("sinfo", "--noheader", "--Node", "--format=%R|%N|%l|%m|%c|%G").splitlines():
        partition, name, limit, memory, cpus, gres = line.strip().split("|")
        sizes = int(memory.rstrip("+")), int(cpus.rstrip("+"))
        found.append(Node(partition, name, minutes_of(limit), *sizes, gpus_of(gres)))
    return found


def minutes_of(limit: str) -> int | None:
    """A time limit as sinfo writes it, such as 1-00:00:00, 30:00 or infinite, in whole minutes."""
    if not limit[:1].isdigit():
        return None
    days, _, clock = limit.rpartition("-")
    hours, minutes, _ = map(int, (["0", "0", *clock.split(":")])[-3:])
    return int(days or 0) * 24 * 60 + hours * 60 + minutes


def gpus_of(gres: str) -> dict[str, int]:
    """GPUs by type out of a list of gres, such as `gpu:h100:8(S:0-1),nvme:1`; type `` where none is named."""
    found = Counter[str]()
    for entry in re.sub(r"\(.*?\)", "", gres).split(","):
        name, *rest = entry.split(":")
        if name == "gpu":
            number = int(rest.pop()) if rest and rest[-1].isdigit() else 1
            found[rest[0] if rest else ""] += number
    return dict(found)


def _state(job: str) -> str:
    """The state of a job in the queue; GONE if Slurm does not know it any more."""
    try:
        return told("squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={job}").strip() or "GONE"
    except UserError as error:
        if "Invalid job id" in str(error):
            return "GONE"
        raise


# --- what the cluster has, against what jobs ask for ---


def _status(profile: dict[str, Any]) -> Finding:
    if profile["status_command"] != "squeue":
        found = f"status of jobs by {profile['status_command']}: a job that was cancelled is taken for a running one"
        return Finding(found, f"set `slurm-status-command: squeue` in {PROFILE}")
    match = re.search(r"^MinJobAge\s*=\s*(\d+)\b", told("scontrol", "show", "config"), flags=re.MULTILINE)
    age, first = int(match[1]) if match else 0, profile["init_seconds"]
    found = f"squeue knows ended jobs for {age} s (MinJobAge); it is first asked after {first} s"
    change = f"set `slurm-init-seconds-before-status-checks: {max(1, age // 3)}` or less in {PROFILE}"
    return Finding(found, change if age < 3 * first else "")


def _name(kind: Kind, kinds: list[Kind]) -> str:
    """The rules of a kind of job; what its jobs are of, too, where other kinds have the same rules."""
    rules = " + ".join(kind.rules)
    every = sorted({work.of for work in kind.works if work.of})
    is_alone = sum(other.rules == kind.rules for other in kinds) == 1
    return rules if is_alone or not every else f"{rules} of {', '.join(every)}"


def _kind(kind: Kind, name: str, nodes: list[Node]) -> Iterator[Finding]:
    """Whether the cluster has what a kind of job asks for, on its first attempt and on its last; then sbatch's word."""
    wrong = list(dict.fromkeys(one for at in (0, -1) for one in misfits(kind.attempts[at]["resources"], nodes)))
    yield from (Finding(f"{name}: {one.found}", f"{one.change} in {PROFILE}, for {name}") for one in wrong)
    call = kind.attempts[0]["call"]
    try:
        told("bash", "-c", f"{call} --test-only --wrap true")
    except UserError as error:
        yield Finding(f"{name}: sbatch refuses: {error}", f"change what it names in {PROFILE}; asked: {call}")
        return
    if not wrong:
        asked = ", ".join(f"{key} {value}" for key, value in kind.given.items())
        yield Finding(f"{name}: sbatch takes it ({asked})")


def misfits(resources: dict[str, Any], nodes: list[Node]) -> Iterator[Finding]:
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
        found = f"found {resources['runtime']} minutes, partition {partition} allows {longest}: it would wait for ever"
        yield Finding(found, f"set `runtime` to at most {longest}, on every attempt,")
    threads = resources.get("cpus_per_task", resources["threads"])
    for key, asked, most in (
        ("mem_mb", resources.get("mem_mb", 0), max(node.memory_mb for node in own)),
        ("threads", threads, max(node.cpus for node in own)),
    ):
        if asked > most:
            found = f"found {key} {asked}, the largest node of partition {partition} has {most}"
            yield Finding(found, f"lower `{key}`")


def _accounts(kinds: list[Kind]) -> Iterator[Finding]:
    wanted = sorted({str(kind.given["slurm_account"]) for kind in kinds if "slurm_account" in kind.given})
    if not wanted:
        yield Finding("no account is named: Slurm takes the default one, if any")
        return
    mine = ("associations", f"user={getpass.getuser()}", "format=account")
    try:
        listed = told("sacctmgr", "--noheader", "--parsable2", "show", *mine)
    except UserError as error:
        found = f"account {', '.join(wanted)}: this cluster keeps none ({error})"
        yield Finding(found, f"leave `slurm_account` out of {PROFILE}")
        return
    known = sorted({line.strip().lower() for line in listed.splitlines() if line.strip()})
    change = f"set `slurm_account` in {PROFILE} to one of: {', '.join(known) or 'none is yours'}"
    yield from (Finding(f"account {account}", "" if account.lower() in known else change) for account in wanted)


# --- a small job on each partition: does its node have the same results folder and Python? ---

PACKAGES = (
    *("torch", "transformers", "safetensors", "vllm", "deepspeed"),
    *("snakemake", "snakemake-executor-plugin-slurm-jobstep"),
)
MISSING = "missing"
# The oldest driver branch for each major version of CUDA: table "Minor Version Compatibility" of NVIDIA's guide
# "CUDA Compatibility".
OLDEST_DRIVER = {11: 450, 12: 525, 13: 580}
INSTALL = "`make install FOR=cuda` (docs/install.md; `make install-engines` for vLLM and DeepSpeed)"
SHARE = "put the project on a file system that login and compute nodes share"
SEEN_SECONDS = 60.0  # for a file of an ended job to appear, as `latency-wait` in profiles/slurm


def _small_jobs(kinds: list[Kind], seconds: float) -> Iterator[Finding]:
    """One job on each partition, with the most GPUs that any rule asks for there."""
    partitions: dict[str, dict[str, Any]] = {}
    for given in (kind.given for kind in kinds):
        name = str(given.get("slurm_partition", ""))
        partitions[name] = max(partitions.get(name, given), given, key=wanted_gpus)
    names = {"slurm_partition": "partition", "slurm_account": "account", "gres": "gres", "gpu": "gpus"}
    Path("results").mkdir(exist_ok=True)
    for partition, given in partitions.items():
        options = ["--time=5", "--mem=1000", "--job-name=chord-doctor"]
        options += [f"--{flag}={given[key]}" for key, flag in names.items() if key in given]
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir="results", ignore_cleanup_errors=True) as folder:
            for finding in _asked(Path(folder).resolve(), options, wanted_gpus(given)[0], seconds):
                yield replace(finding, found=f"a job on partition {partition or '(default)'}: {finding.found}")


def _asked(folder: Path, options: list[str], gpus: int, seconds: float) -> Iterator[Finding]:
    """What a job with these options of sbatch finds on its node."""
    here = {"written": time.time_ns(), **_installed()}
    write_atomically(folder / "login.json", json.dumps(here))
    module = ["-m", "chord", "doctor"]  # not followed: no job starts it
    command = shlex.join([sys.executable, *module, "--on-node", str(folder)])
    options = [*options, f"--chdir={os.getcwd()}", f"--output={folder / 'log'}", "--wrap", command]
    try:
        job = told("sbatch", "--parsable", *options).strip().split(";")[0]
    except UserError as error:
        yield Finding(f"sbatch refuses: {error}", f"change what it names in {PROFILE}")
        return
    answer, log = folder / "node.json", folder / "log"
    state = _ended(job, answer, seconds)
    if state in UNFINISHED:
        subprocess.run(["scancel", job], check=False)
        change = f"wait longer (--wait), or name a partition that is less busy in {PROFILE}"
        yield Finding(f"is {state} after {seconds:g} s", change)
    elif answer.exists():
        there = json.loads(answer.read_text(encoding="utf-8"))
        yield from _compared(here, there)
        if gpus:
            yield from (builds(there), _gpus(there, gpus))
    elif log.exists():
        said = last_words(log.read_text(errors="replace")) or "nothing"
        yield Finding(f"ended ({state}) and said: {said}", "make this folder and this Python work on the nodes")
    else:
        yield Finding(f"ended ({state}), and nothing that it wrote is in {folder.parent}", SHARE)


def _ended(job: str, answer: Path, seconds: float) -> str:
    """The state of the job once it has ended and its answer had time to appear; or that after `seconds`."""
    end = time.monotonic() + seconds
    while (found := _state(job)) in UNFINISHED and time.monotonic() < end:
        time.sleep(1)
    end = time.monotonic() + SEEN_SECONDS
    while found == "COMPLETED" and not answer.exists() and time.monotonic() < end:
        os.listdir(answer.parent)  # makes a network file system look again
        time.sleep(0.5)
    return found


def described() -> dict[str, Any]:
    """This machine, its Python, and the versions of what training needs; torch is really imported."""
    import torch

    return {
        "host": socket.gethostname(),
        "gpus_of_torch": torch.cuda.device_count(),
        "cuda_of_torch": torch.version.cuda,
        "installed_for": installed_for(),
        "accelerator": accelerator(),
        "gpus_of_slurm": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
        **_installed(),
    }


def _installed() -> dict[str, Any]:
    return {"python": sys.version.split()[0], "packages": {name: _version(name) for name in PACKAGES}}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return MISSING


def _compared(here: dict[str, Any], there: dict[str, Any]) -> Iterator[Finding]:
    """What the node wrote against what stands here."""
    host = there["host"]
    if there["written"] == here["written"]:
        yield Finding(f"{host} reads what is written here, and the other way round")
    else:
        yield Finding(f"{host} reads something else than is written here", SHARE)
    if differ := [f"{key} {there[key]}, here {here[key]}" for key in _installed() if there[key] != here[key]]:
        change = "use one environment, on the shared file system, for both"
        yield Finding(f"{host} has {'; '.join(differ)}", change)
    else:
        yield Finding(f"{host} imports chord and torch {there['packages']['torch']}, as here")


def _gpus(there: dict[str, Any], wanted: int) -> Finding:
    """The GPUs that Slurm gave to the job, and those that torch finds among them."""
    given = [device for device in there["gpus_of_slurm"].split(",") if device]
    found = f"{there['host']} was given {len(given)} GPUs of {wanted}; torch sees {there['gpus_of_torch']}"
    if len(given) != wanted:
        change = f"look at `gres` in {PROFILE}; if it is right, ask whoever runs the cluster for File= in gres.conf"
        return Finding(found, change)
    if there["cuda_of_torch"] is None:
        return Finding(found, note="this torch is built without CUDA, and sees none")
    change = "install a torch that fits the driver of the nodes (docs/install.md)"
    return Finding(found, change if there["gpus_of_torch"] != wanted else "")


def builds(there: dict[str, Any]) -> Finding:
    """Whether what is installed on a node computes on NVIDIA GPUs, and there with its driver."""
    packages, told, cuda = there["packages"], there["accelerator"], there["cuda_of_torch"]
    versions = {"torch": packages["torch"], "CUDA": cuda, "driver": told.get("nvidia_driver"), "NCCL": told.get("nccl")}
    versions |= {"vLLM": packages["vllm"], "DeepSpeed": packages["deepspeed"]}
    found = f"{there['host']} has " + ", ".join(f"{name} {value or 'none'}" for name, value in versions.items())
    if wrong := [name for name, is_cpu in (("torch", cuda is None), ("vLLM", "cpu" in packages["vllm"])) if is_cpu]:
        made = f" (.venv is made for {there['installed_for']})" if there["installed_for"] else ""
        change = f"{INSTALL}, or leave `gres` and this partition out of {PROFILE}"
        return Finding(f"{found}: {' and '.join(wrong)} built for CPUs, on a partition with GPUs{made}", change)
    driver = int((told.get("nvidia_driver") or "0").split(".")[0])
    oldest = OLDEST_DRIVER.get(int(cuda.split(".")[0]), 0)
    if 0 < driver < oldest:
        change = f"ask for driver {oldest} or newer on the nodes, or install a torch for an older CUDA"
        return Finding(f"{found}: CUDA {cuda} needs driver {oldest} or newer", change)
    return Finding(found)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="chord doctor", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--profile", default="slurm", help="as for snakemake (default: slurm)")
    parser.add_argument("--config", nargs="+", default=[], metavar="KEY=VALUE", help="as for snakemake")
    parser.add_argument("--no-jobs", action="store_true", help="submit nothing: nodes are not looked at")
    waits: dict[str, Any] = {"kind": float, "least": None, "default": 600.0, "metavar": "SECONDS"}
    parser.add_argument("--wait", action=Number, **waits, help="for each small job (default: 600)")
    parser.add_argument("--on-node", type=Path, help=argparse.SUPPRESS)  # what the small job runs
    return parser.parse_args()
