"""Asks whether two mathematical answers are equal, in a child process that ends, or is killed, if it takes too long.

The child is kept from answer to answer. It gets no environment but what Python needs, so no secret is near it.
"""

import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path

import chord
from chord.provenance.files import UserError
from chord.tasks import math_worker

CLOCK_SECONDS = (
    3 * math_worker.PROCESSOR_SECONDS
)  # the child ends itself before, unless it waits or the machine is busy
START_SECONDS = 120.0  # imports alone; they are slow on a busy machine or a network file system
ANSWERS_PER_WORKER = 5_000  # then a new one, so that caches of computer algebra do not grow for ever
KEPT_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "HOME", "LANG", "TMPDIR")


class MathChecker:
    """One child process at a time, started when first asked."""

    def __init__(self) -> None:
        self._worker: subprocess.Popen[bytes] | None = None
        self._answers = 0

    def equal(self, wanted: str, given: str, seconds: float = CLOCK_SECONDS) -> bool | None:
        """Whether `given` equals `wanted`; None if the child came to its limits, and ended, over it."""
        if self._answers == ANSWERS_PER_WORKER or (self._worker and self._worker.poll() is not None):
            self.close()
        worker = self._worker or self._start()
        self._answers += 1
        try:
            assert worker.stdin is not None
            worker.stdin.write(json.dumps([wanted, given]).encode() + b"\n")
            worker.stdin.flush()
        except BrokenPipeError:
            self.close()
            return None
        verdict = _line(worker, seconds)
        if verdict is None:
            self.close()
        return None if verdict is None else verdict == b"equal"

    def close(self) -> None:
        """Kill the child, if there is one; the next question starts another."""
        worker, self._worker, self._answers = self._worker, None, 0
        if worker is None:
            return
        worker.kill()
        worker.wait()
        for pipe in (worker.stdin, worker.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:  # what it never read
                continue

    def _start(self) -> subprocess.Popen[bytes]:
        environment = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
        environment |= {"PYTHONPATH": str(Path(chord.__file__).parents[1]), "PYTHONHASHSEED": "0"}
        self._worker = subprocess.Popen(
            [sys.executable, "-m", math_worker.__name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
        said = _line(self._worker, START_SECONDS)
        if said != b"ready":
            self.close()
            why = said.decode(errors="replace") if said else f"nothing within {START_SECONDS:g} s"
            raise UserError(
                f"{math_worker.__name__}: found {why}, expected it ready; install math-verify for grader math"
            )
        return self._worker


def _line(worker: subprocess.Popen[bytes], seconds: float) -> bytes | None:
    """The next line that the child says, or None if it ends, or is silent for `seconds`, before the line ends."""
    assert worker.stdout is not None
    pipe, deadline, said = worker.stdout.fileno(), time.monotonic() + seconds, b""
    while not said.endswith(b"\n"):
        readable, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
        part = os.read(pipe, 1024) if readable else b""
        if not part or len(said) > 4096:
            return None
        said += part
    return said.strip()
