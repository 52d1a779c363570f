"""Which process is this, does that one still live, and which ones belong to a Snakemake of a folder.

Reads /proc where there is one; knows no file of ours.
"""

import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from chord.reach import decides_nothing

# The Snakefile sets it to its folder, so that every job and all below it carry it, whatever becomes of their parents.
SNAKEMAKE_IN = "CHORD_SNAKEMAKE_IN"


@dataclass(frozen=True)
class Process:
    """A process that no other can be taken for: the start time tells it from a later one with the same number."""

    host: str
    machine: str  # boot and pid namespace: process numbers mean the same only where this is equal
    pid: int
    started: str  # clock ticks since boot; empty where there is no /proc


@decides_nothing("it tells processes apart")
def this_process() -> Process:
    """The calling process."""
    pid = os.getpid()
    return Process(socket.gethostname(), _machine(), pid, _started(pid) or "")


@decides_nothing("it tells processes apart")
def lives(process: Process) -> bool | None:
    """Whether `process` still runs; None if it belongs to another machine, where nobody here can see."""
    if (process.host, process.machine) != (socket.gethostname(), _machine()):
        return None
    started = _started(process.pid)
    if started is not None:
        return started == process.started
    if Path("/proc/self/stat").exists():
        return False
    try:
        os.kill(process.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@dataclass(frozen=True)
class JobProcess:
    """A process of a Snakemake job: the number of its parent, and its command line."""

    parent: int
    command: tuple[str, ...]


def job_processes(folder: Path) -> dict[int, JobProcess]:
    """Processes on this machine that a Snakemake of `folder` started, by number; not this one or those above it."""
    found: dict[int, JobProcess] = {}
    mark = f"{SNAKEMAKE_IN}={folder.resolve()}".encode()
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, parent = (place / "stat").read_text().rpartition(")")[2].split()[:2]
            if state not in "ZX" and mark in (place / "environ").read_bytes().split(b"\0"):
                words = (place / "cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
                found[int(place.name)] = JobProcess(int(parent), tuple(words))
    own: int | None = os.getpid()
    while own is not None and (process := found.pop(own, None)):
        own = process.parent
    return found


@cache
def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot[:13]}.{os.readlink('/proc/self/ns/pid').strip('pid:[]')}"
    except OSError:
        return "no-proc"


def _started(pid: int) -> str | None:
    """Field 22 of /proc/PID/stat; None for a process that is gone, or dead and only waiting for its parent (zombie)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]
