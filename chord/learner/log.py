"""The metrics of a run: one JSON line a step, cut back to the checkpoint on resume so that no line doubles.

What repeats bit for bit (metrics) and what does not (wall clock, memory) live in files of their own.
"""

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue] # made at run time
from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue] # likewise
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from chord.records import split_lines


class LineLog:
    """A JSON-lines file that is appended to, and that knows its length."""

    def __init__(self, path: Path, length: int) -> None:
        """Opens `path` cut back to `length` bytes. Raises ValueError if it is shorter: lines would be missing."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab", buffering=0)  # so that `chord watch` sees each step
        found = self._file.tell()
        if found < length:
            raise ValueError(f"{path}: found {found} bytes, expected at least the {length} of the checkpoint")
        self._file.truncate(length)

    def write(self, record: dict[str, Any]) -> None:
        """Appends one line."""
        self._file.write((json.dumps(record) + "\n").encode())

    def sync(self) -> int:
        """Brings all lines to disk; gives the file's length in bytes."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()


class Curves:
    """TensorBoard events of every number in the metrics; none without a folder."""

    def __init__(self, folder: Path | None, past: Path) -> None:
        """Starts `folder` anew with the lines of `past`, so that a resumed run shows each step once."""
        self._writer = None
        if folder is None:
            return
        shutil.rmtree(folder, ignore_errors=True)
        self._writer = EventFileWriter(str(folder))
        for line in split_lines(past.read_bytes().decode()):
            record = json.loads(line)
            self.write(record["step"], time.time(), record)

    def write(self, step: int, wall_time: float, record: dict[str, Any]) -> None:
        """Adds the numbers of one step, nested ones as `outer/inner`."""
        if self._writer is None:
            return
        values = [Summary.Value(tag=name, simple_value=value) for name, value in _numbers(record)]
        self._writer.add_event(Event(wall_time=wall_time, step=step, summary=Summary(value=values)))

    def close(self) -> None:
        """Flushes the events."""
        if self._writer is not None:
            self._writer.close()


def _numbers(record: dict[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for name, value in record.items():
        if isinstance(value, dict):
            found += _numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and name != "step":
            found.append((prefix + name, float(value)))
    return found
