"""Runs one command and ends it, with every process below it, when whoever started it is gone. Linux; knows no vLLM.

python -m chord.sampling.guard STARTER LIFELINE COMMAND ...

STARTER is the process number of the starter; LIFELINE a pipe's end to read from, whose other end the starter holds and
writes nothing to. However the starter ends, also by kill -9, that pipe closes. Processes below the command whose own
parent died come to this one (it is a subreaper), so none is missed. First SIGTERM, then SIGKILL. The exit code is the
command's.
"""

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

GRACE_SECONDS = 10.0
POLL_SECONDS = 0.2
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def main(arguments: list[str]) -> int:
    """Stands guard until the command ends, the starter is gone, or a signal asks for the end."""
    starter, lifeline, command = int(arguments[0]), int(arguments[1]), arguments[2:]
    told: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, frame: told.append(number))
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    child = subprocess.Popen(command, preexec_fn=_die_with_the_guard, stdin=subprocess.DEVNULL)
    while child.poll() is None and not told and os.getppid() == starter:
        if select.select([lifeline], [], [], POLL_SECONDS)[0]:
            break
    end(child)
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def end(child: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the command, and SIGKILL to all that is left of it when the time of grace is over."""
    deadline = time.monotonic() + GRACE_SECONDS
    if child.poll() is None:
        child.terminate()
    while below(os.getpid()) and time.monotonic() < deadline:
        child.poll()
        time.sleep(POLL_SECONDS / 4)
        if child.returncode is not None:
            deadline = min(deadline, time.monotonic() + GRACE_SECONDS / 5)  # its own processes should end with it
    while left := below(os.getpid()):
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(POLL_SECONDS / 4)
    child.wait()


def below(pid: int) -> list[int]:
    """Every living process below `pid`; dead ones that only wait for their parent do not count."""
    children: defaultdict[int, list[int]] = defaultdict(list)
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = entry.read_text().rpartition(")")[2].split()
            if fields[0] not in "ZX":
                children[int(fields[1])].append(int(entry.parent.name))
    found, waiting = list[int](), [pid]
    while waiting:
        found += (beneath := children[waiting.pop()])
        waiting += beneath
    return found


def _die_with_the_guard() -> None:
    """In the new process: should the guard itself be killed, the kernel kills the command."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
