"""Asks whether mathematical answers are equal, in a child process that compares several at a time.

The child is kept from question to question. It gets no environment but what Python needs, so no secret is near it.
"""

import json
import os
import select
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import chord
from chord.errors import UserError
from chord.grading import math_worker

START_SECONDS = 600.0  # imports alone; they are slow on a busy machine or a network file system
SILENT_SECONDS = 600.0  # no comparison needs so long: each ends itself over its processor time
MOST_STARTS = 3  # of the child for one list of questions, should something end it from outside
MOST_WORKERS = 8  # each may hold math_worker.MEMORY_BYTES
KEPT_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "HOME", "LANG", "TMPDIR", "PYTHONPYCACHEPREFIX")


class MathChecker:
    """One child process, started when first asked."""

    def __init__(self) -> None:
        self._worker: subprocess.Popen[bytes] | None = None

    def equal(self, wanted: str, given: str) -> bool | None:
        """Whether `given` equals `wanted`; None if comparing them came to its limits, and was ended."""
        return self.equal_all([(wanted, given)])[0]

    def equal_all(
        self, pairs: Sequence[tuple[str, str]], groups: Sequence[int] | None = None, most: int = 0
    ) -> list[bool | None]:
        """`equal` for each (wanted, given), in order, as many at a time as there are processors.

        Where each has a group, those that follow `most` of their group that came to their limits are None, too, and
        mostly cost nothing. That depends on the order of the pairs alone, not on which ended first. Raises UserError
        if the child cannot start, or is ended from outside again and again.
        """
        names = range(len(pairs)) if groups is None else groups
        found: dict[int, str] = {}
        for _ in range(MOST_STARTS):
            left = [at for at in range(len(pairs)) if at not in found]
            if not left:
                break
            asked = [(names[at], *pairs[at]) for at in left]
            workers = min(MOST_WORKERS, len(os.sched_getaffinity(0)))
            question = [workers, most if groups is not None else len(pairs), asked]
            found |= {left[int(at)]: said for at, said in self._ask(question, len(left))}
        if len(found) < len(pairs):
            raise UserError(
                f"{math_worker.__name__}: found it ended {MOST_STARTS} times before it had compared"
                f" {len(pairs)} answers, expected it to last; look for what ends it (memory?)"
            )
        ended, verdicts = Counter[int](), list[bool | None]()
        for at, name in enumerate(names):
            over = groups is not None and ended[name] >= most
            ended[name] += found[at] == "killed"
            verdicts.append(None if over or found[at] == "killed" else found[at] == "equal")
        return verdicts

    def close(self) -> None:
        """Kill the child, if there is one; the next question starts another."""
        worker, self._worker = self._worker, None
        if worker is None:
            return
        worker.kill()
        worker.wait()
        for pipe in (worker.stdin, worker.stdout):
            with suppress(BrokenPipeError):  # what it never read
                assert pipe is not None
                pipe.close()

    def _ask(self, question: object, count: int) -> Iterator[tuple[str, str]]:
        """The place and the verdict of each of `count` pairs; fewer if the child ended meanwhile."""
        if self._worker and self._worker.poll() is not None:
            self.close()
        worker = self._worker or self._start()
        assert worker.stdin is not None
        try:
            worker.stdin.write(json.dumps(question).encode() + b"\n")
            worker.stdin.flush()
        except BrokenPipeError:
            self.close()
            return
        for _ in range(count):
            said = self._line(worker, SILENT_SECONDS)
            if said is None:
                self.close()
                return
            place, _, verdict = said.partition(" ")
            yield place, verdict

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
        said = self._line(self._worker, START_SECONDS)
        if said != "ready":
            self.close()
            raise UserError(
                f"{math_worker.__name__}: found {said or 'that it ended'}, expected it ready; install math-verify for"
                " grader math"
            )
        return self._worker

    def _line(self, worker: subprocess.Popen[bytes], seconds: float) -> str | None:
        """The next line that the child says; None if it ends first. Raises UserError if it is silent for `seconds`."""
        assert worker.stdout is not None
        pipe, said = worker.stdout.fileno(), b""
        while not said.endswith(b"\n"):
            readable, _, _ = select.select([pipe], [], [], seconds)
            if not readable:
                self.close()
                raise UserError(
                    f"{math_worker.__name__}: found nothing said for {seconds:g} s, expected an answer sooner; is the"
                    " machine stuck?"
                )
            part = os.read(pipe, 1)  # no more than the line; lines are a few characters long
            if not part or len(said) > 4096:
                return None
            said += part
        return said.decode(errors="replace").strip()
