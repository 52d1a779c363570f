"""What a Slurm cluster says of itself, through its own commands: partitions, nodes, GPUs, settings, accounts, jobs.

Knows no profile and no workflow. Where a command is missing or fails, the answer is UserError with its last words.
"""

import getpass
import re
import subprocess
from dataclasses import dataclass

from chord.provenance.files import UserError

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
        sizes = (int(memory.rstrip("+")), int(cpus.rstrip("+")))
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
    found: dict[str, int] = {}
    for entry in re.sub(r"\(.*?\)", "", gres).split(","):
        name, *rest = entry.split(":")
        if name == "gpu":
            number = int(rest.pop()) if rest and rest[-1].isdigit() else 1
            kind = rest[0] if rest else ""
            found[kind] = found.get(kind, 0) + number
    return found


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
