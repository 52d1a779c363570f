"""What a Slurm cluster says of itself, and what a small job finds on a node: the same results folder and Python?

chord probe FOLDER      # what the job runs: reads FOLDER/login.json, writes FOLDER/node.json
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
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from chord.errors import UserError
from chord.provenance.environment import accelerator, installed_for
from chord.provenance.files import write_atomically

# --- what Slurm's commands say; where one is missing or fails, UserError with its last words ---

UNFINISHED = ("PENDING", "RUNNING", "CONFIGURING", "COMPLETING")


@dataclass(frozen=True)
class Node:
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


def last_words(text: str) -> str:
    """The last three lines with anything in them, in one."""
    return " ".join([line.strip() for line in text.splitlines() if line.strip()][-3:])


def nodes() -> list[Node]:
    """Every node of every partition."""
    found = []
    for line in told("sinfo", "--noheader", "--Node", "--format=%R|%N|%l|%m|%c|%G").splitlines():
        partition, name, limit, memory, cpus, gres = line.strip().split("|")
        found.append(
            Node(partition, name, minutes_of(limit), int(memory.rstrip("+")), int(cpus.rstrip("+")), gpus_of(gres))
        )
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


def setting(name: str) -> str | None:
    """A value of slurm.conf as the controller uses it."""
    match = re.search(rf"^{name}\s*=\s*(.*?)\s*$", told("scontrol", "show", "config"), flags=re.MULTILINE)
    return match[1] if match else None


def accounts() -> set[str]:
    """The accounts that may be charged by whoever asks, in small letters."""
    who = f"user={getpass.getuser()}"
    listed = told("sacctmgr", "--noheader", "--parsable2", "show", "associations", who, "format=account")
    return {line.strip().lower() for line in listed.splitlines() if line.strip()}


def state(job: str) -> str:
    """The state of a job in the queue; GONE if Slurm does not know it any more."""
    try:
        return told("squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={job}").strip() or "GONE"
    except UserError as error:
        if "Invalid job id" in str(error):
            return "GONE"
        raise


# --- a small job on a node ---

PACKAGES = (
    *("torch", "transformers", "safetensors", "vllm", "deepspeed"),
    *("snakemake", "snakemake-executor-plugin-slurm-jobstep"),
)
# The oldest driver branch for each major version of CUDA: table "Minor Version Compatibility" of NVIDIA's guide
# "CUDA Compatibility".
OLDEST_DRIVER = {11: 450, 12: 525, 13: 580}
INSTALL = "`make install FOR=cuda` (README, Machines; `make install-engines` for vLLM and DeepSpeed)"
SHARE = "put the project on a file system that login and compute nodes share"
SEEN_SECONDS = 60.0  # for a file of an ended job to appear, as `latency-wait` in profiles/slurm


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


def main() -> None:
    """Write what is found here beside what the login node wrote."""
    parser = argparse.ArgumentParser(prog="chord probe", description="Look at this node for `chord doctor`.")
    parser.add_argument("folder", type=Path, help="holds login.json; node.json is written there")
    folder = parser.parse_args().folder
    written = json.loads((folder / "login.json").read_text(encoding="utf-8"))
    write_atomically(folder / "node.json", json.dumps(described() | {"written": written["written"]}))


def described() -> dict[str, object]:
    """This machine, its Python, and the versions of what training needs; torch is really imported."""
    import torch

    here = {"host": socket.gethostname(), "python": sys.version.split()[0], "gpus_of_torch": torch.cuda.device_count()}
    here |= {"cuda_of_torch": torch.version.cuda, "installed_for": installed_for(), "accelerator": accelerator()}
    return here | {"gpus_of_slurm": os.environ.get("CUDA_VISIBLE_DEVICES", ""), "packages": _versions()}


def ask_a_node(options: str, gpus: int, seconds: float, place: Path) -> Iterator[Finding]:
    """What a job with these options of sbatch finds on its node; `place` is the profile."""
    Path("results").mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".doctor-", dir="results")).resolve()
    try:
        yield from _asked(folder, options, gpus, seconds, place)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _asked(folder: Path, options: str, gpus: int, seconds: float, place: Path) -> Iterator[Finding]:
    here = {"written": time.time_ns(), "python": sys.version.split()[0], "packages": _versions()}
    write_atomically(folder / "login.json", json.dumps(here))
    command = shlex.join([sys.executable, "-m", "chord", "probe", str(folder)])  # not followed: no job starts it
    call = f"sbatch --parsable {options} --chdir={shlex.quote(os.getcwd())} --output={shlex.quote(str(folder / 'log'))}"
    try:
        job = told("bash", "-c", f"{call} --wrap {shlex.quote(command)}").strip().split(";")[0]
    except UserError as error:
        yield Finding(f"sbatch refuses: {error}", f"change what it names in {place}")
        return
    state = _ended(job, folder / "node.json", seconds)
    if state in UNFINISHED:
        subprocess.run(["scancel", job], check=False)
        change = f"wait longer (--wait), or name a partition that is less busy in {place}"
        yield Finding(f"is {state} after {seconds:g} s", change)
        return
    answer, log = folder / "node.json", folder / "log"
    if answer.exists():
        there = json.loads(answer.read_text(encoding="utf-8"))
        yield from _compared(here, there)
        if gpus:
            yield _builds(there, place)
            yield _gpus(there, gpus, place)
    elif log.exists():
        said = last_words(log.read_text(errors="replace")) or "nothing"
        yield Finding(f"ended ({state}) and said: {said}", "make this folder and this Python work on the nodes")
    else:
        yield Finding(f"ended ({state}), and nothing that it wrote is in {folder.parent}", SHARE)


def _compared(here: dict[str, Any], there: dict[str, Any]) -> Iterator[Finding]:
    """What the node wrote against what stands here."""
    if there["written"] == here["written"]:
        yield Finding(f"{there['host']} reads what is written here, and the other way round")
    else:
        yield Finding(f"{there['host']} reads something else than is written here", SHARE)
    keys = ("python", "packages")
    if differ := [f"{key} {there[key]}, here {here[key]}" for key in keys if there[key] != here[key]]:
        change = "use one environment, on the shared file system, for both"
        yield Finding(f"{there['host']} has {'; '.join(differ)}", change)
    else:
        yield Finding(f"{there['host']} imports chord and torch {there['packages']['torch']}, as here")


def _gpus(there: dict[str, Any], wanted: int, place: Path) -> Finding:
    """The GPUs that Slurm gave to the job, and those that torch finds among them."""
    given = [device for device in str(there["gpus_of_slurm"]).split(",") if device]
    found = f"{there['host']} was given {len(given)} GPUs of {wanted}; torch sees {there['gpus_of_torch']}"
    if len(given) != wanted:
        change = f"look at `gres` in {place}; if it is right, ask whoever runs the cluster for File= in gres.conf"
        return Finding(found, change)
    if there["cuda_of_torch"] is None:
        return Finding(found, note="this torch is built without CUDA, and sees none")
    change = "install a torch that fits the driver of the nodes (README, Machines)"
    return Finding(found, change if there["gpus_of_torch"] != wanted else "")


def _builds(there: dict[str, Any], place: Path) -> Finding:
    """Whether what is installed computes on NVIDIA GPUs, and on a node with this driver."""
    packages, told, cuda = there["packages"], there["accelerator"], there["cuda_of_torch"]
    versions = {"torch": packages["torch"], "CUDA": cuda, "driver": told.get("nvidia_driver"), "NCCL": told.get("nccl")}
    versions |= {"vLLM": packages["vllm"], "DeepSpeed": packages["deepspeed"]}
    found = f"{there['host']} has " + ", ".join(f"{name} {value or 'none'}" for name, value in versions.items())
    if wrong := [name for name, is_cpu in (("torch", cuda is None), ("vLLM", "cpu" in packages["vllm"])) if is_cpu]:
        made = f" (.venv is made for {there['installed_for']})" if there["installed_for"] else ""
        change = f"{INSTALL}, or leave `gres` and this partition out of {place}"
        return Finding(f"{found}: {' and '.join(wrong)} built for CPUs, on a partition with GPUs{made}", change)
    driver = int((told.get("nvidia_driver") or "0").split(".")[0])
    oldest = OLDEST_DRIVER.get(int(cuda.split(".")[0]), 0)
    if 0 < driver < oldest:
        change = f"ask for driver {oldest} or newer on the nodes, or install a torch for an older CUDA"
        return Finding(f"{found}: CUDA {cuda} needs driver {oldest} or newer", change)
    return Finding(found)


def _ended(job: str, answer: Path, seconds: float) -> str:
    """The state of the job once it has ended and its answer had time to appear; or that after `seconds`."""
    end = time.monotonic() + seconds
    while (found := state(job)) in UNFINISHED and time.monotonic() < end:
        time.sleep(1)
    end = time.monotonic() + SEEN_SECONDS
    while found == "COMPLETED" and not answer.exists() and time.monotonic() < end:
        os.listdir(answer.parent)  # makes a network file system look again
        time.sleep(0.5)
    return found


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found
