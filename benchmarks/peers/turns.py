"""What each side of `benchmarks.against_peers` shares: waiting for its turn, its answers, and the reward.

Runs in every side's environment, so it imports the standard library only. The driver writes one line to a side's
standard input for each step; the side answers with one line of JSON when the step is over. At the end of the input the
process ends at once, in the middle of its training.
"""

import importlib.metadata
import json
import os
import sys
import time
import zlib
from pathlib import Path
from typing import Any


class Turns:
    """One side's place in the row. What a trainer prints goes to standard error, so that answers stand alone."""

    def __init__(self, *packages: str) -> None:
        """`packages` are those whose versions the side tells; the process is given one folder as its argument."""
        self.folder = Path(sys.argv[1])
        self.job: dict[str, Any] = json.loads((self.folder / "job.json").read_text())
        self._answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._facts: dict[str, Any] = {"versions": {name: importlib.metadata.version(name) for name in packages}}
        self._began: tuple[float, float] | None = None

    def rows(self, name: str) -> list[dict[str, Any]]:
        """The records of one file of the job."""
        return [json.loads(line) for line in (self.folder / f"{name}.jsonl").read_text().splitlines()]

    def note(self, **facts: Any) -> None:
        """What the next answer says besides: tokens that a step saw, its loss."""
        self._facts |= facts

    def next(self) -> None:
        """Ends the step in hand, answers, and waits for the next turn. Called where a step begins."""
        if self._began is not None:
            wall, cpu = self._began
            self._facts |= {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
        print(json.dumps(self._facts), file=self._answers, flush=True)
        self._facts = {}
        if not sys.stdin.readline():
            os._exit(0)
        self._began = time.perf_counter(), time.process_time()


def reward(text: str) -> float:
    """A number from 0 to 1 that costs next to nothing and is another for each text, so groups have unequal ones."""
    return zlib.crc32(text.encode()) / 2**32
