"""Runs one command and ends it, with every process below it, when whoever started it is gone. Linux; knows no vLLM.

python -m chord.sampling.guard STARTER LIFELINE COMMAND ...

STARTER is the process number of the starter; LIFELINE is one end of a connection whose other end the starter holds and
writes nothing to. However the starter ends, also by kill -9, that end closes. Processes below the command whose own
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
from functools import partial
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
    # Should the guard itself be killed, the kernel kills the command.
    last_will = partial(_prctl, _PR_SET_PDEATHSIG, signal.SIGKILL)
    child = subprocess.Popen(command, preexec_fn=last_will, stdin=subprocess.DEVNULL)
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
        if child.poll() is not None:
            deadline = min(deadline, time.monotonic() + GRACE_SECONDS / 5)  # its own processes should end with it
        time.sleep(POLL_SECONDS / 4)
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
            state, parent = entry.read_text().rpartition(")")[2].split()[:2]
            if state not in "ZX":
                children[int(parent)].append(int(entry.parent.name))
    found, waiting = list[int](), [pid]
    while waiting:
        beneath = children[waiting.pop()]
        found, waiting = found + beneath, waiting + beneath
    return found


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
