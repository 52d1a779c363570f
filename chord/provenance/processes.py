"""Which process is this, and does that one still live. Reads /proc where there is one; knows no file of ours."""

import os
import socket
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """A process that no other can be taken for: the start time tells it from a later one with the same number."""

    host: str
    machine: str  # boot and pid namespace: process numbers mean the same only where this is equal
    pid: int
    started: str  # clock ticks since boot; empty where there is no /proc


def this_process() -> Process:
    """The calling process."""
    pid = os.getpid()
    return Process(socket.gethostname(), _machine(), pid, _started(pid) or "")


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
