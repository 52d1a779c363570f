"""Resume state: checkpoints that are whole or absent, verified by hash when read.

A state folder belongs to one digest of (recipe, code, inputs); another recipe or other code has a folder of its own,
so a changed loss never resumes from the wrong state. Inside it: `step-000040/` with model, optimiser and progress,
`kept-000030.safetensors` with weights that may be wanted at the end, and logs, whose lengths each checkpoint knows.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue] # made at run time
from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue] # likewise
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from torch import Tensor, nn

from chord.errors import UserError
from chord.provenance.files import atomic_folder, file_sha256
from chord.records import split_lines

# --- checkpoint ----------------------------------------------------------------------------------

KEEP = 2  # checkpoints


@dataclass
class Progress:
    """Where a run stands after `step` steps, apart from tensors."""

    step: int = 0
    expert_position: int = 0  # expert rows read so far
    best_step: int = 0
    best_accuracy: float = -1.0
    kept: dict[str, str] = field(default_factory=dict)  # step of kept weights: their sha256
    metrics_bytes: int = 0
    timing_bytes: int = 0
    validation_bytes: int = 0
    mu_state: dict[str, float] = field(default_factory=dict)
    untold: dict[str, Any] = field(default_factory=dict)  # metrics of a step whose weights did not reach the sampler
    stretches: list[dict[str, Any]] = field(default_factory=list)  # from which step on which ranks summed how


@contextmanager
def no_room_told(folder: Path) -> Iterator[None]:
    """Turns a failure to write tensors, mostly a full disk, into a UserError that says what is still there."""
    try:
        yield
    except SafetensorError as error:
        raise UserError(
            f"{folder}: found no way to write tensors ({error}), expected room on the disk; earlier checkpoints are"
            " whole: make room and run the same command again"
        ) from None


def save(folder: Path, progress: Progress, weights: dict[str, Tensor], moments: dict[str, Tensor]) -> None:
    """Writes `step-N` beside the others and drops all but the last two. A full disk leaves the earlier ones intact.

    Whole tensors by name, so that any number of ranks, with or without DeepSpeed, continues from them.
    """
    with no_room_told(folder), atomic_folder(folder / _name(progress.step)) as made:
        save_file(weights, made / "model.safetensors")
        save_file(moments, made / "optimiser.safetensors")
        hashes = {path.name: file_sha256(path) for path in sorted(made.iterdir())}
        text = json.dumps({"progress": asdict(progress), "sha256": hashes}, indent=1)
        (made / "progress.json").write_text(text)
    steps = sorted(folder.glob("step-*"))
    for old in steps[:-KEEP]:
        shutil.rmtree(old)
    wanted = {kept_file(folder, int(step)) for path in steps[-KEEP:] for step in _progress(path).kept}
    for path in set(folder.glob("kept-*.safetensors")) - wanted:
        path.unlink()


def keep_weights(folder: Path, step: int, weights: dict[str, Tensor]) -> str:
    """Keeps the weights of `step` as a model.safetensors of transformers; gives their sha256."""
    folder.mkdir(parents=True, exist_ok=True)
    path = kept_file(folder, step)
    part = path.with_suffix(".part")
    with no_room_told(folder):
        save_file(weights, part, metadata={"format": "pt"})
    part.rename(path)
    return file_sha256(path)


def kept_file(folder: Path, step: int) -> Path:
    """Where the kept weights of `step` lie."""
    return folder / f"kept-{step:06d}.safetensors"


def newest(folder: Path) -> Path | None:
    """The newest whole checkpoint. A damaged one is named on stderr and the one before is taken."""
    for path in sorted(folder.glob("step-*"), reverse=True):
        problem = _damage(path, folder)
        if problem is None:
            return path
        print(f"chord train: {path}: {problem}; falling back to the checkpoint before it", file=sys.stderr, flush=True)
    return None


def load(path: Path, model: nn.Module) -> tuple[Progress, dict[str, Tensor]]:
    """Loads the weights of a whole checkpoint into `model`; gives where it stands and Adam's moments."""
    load_weights(model, load_file(path / "model.safetensors"))
    return _progress(path), load_file(path / "optimiser.safetensors")


def load_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Writes `weights` into the model in place. Raises ValueError if the names differ."""
    own = dict(model.named_parameters())
    if set(own) != set(weights):
        raise ValueError(
            f"found weights {sorted(set(weights) ^ set(own))[:3]} on one side only, expected the same names"
        )
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(weights[name])


def _name(step: int) -> str:
    return f"step-{step:06d}"


def _progress(path: Path) -> Progress:
    return Progress(**json.loads((path / "progress.json").read_text())["progress"])


def _damage(path: Path, folder: Path) -> str | None:
    """What is wrong with a checkpoint; None if it is whole."""
    try:
        listed: dict[str, str] = json.loads((path / "progress.json").read_text())["sha256"]
        for name, expected in listed.items():
            if file_sha256(path / name) != expected:
                return f"{name} does not have the hash that was written down for it"
        for step, expected in _progress(path).kept.items():
            if file_sha256(kept_file(folder, int(step))) != expected:
                return f"the weights kept for it, {kept_file(folder, int(step)).name}, do not have their hash"
    except (OSError, ValueError, KeyError, TypeError, UserError) as error:
        return f"the checkpoint cannot be read ({error})"
    return None


# --- log -----------------------------------------------------------------------------------------

# The metrics of a run: one JSON line a step, cut back to the checkpoint on resume so that no line doubles.
#
# What repeats bit for bit (metrics) and what does not (wall clock, memory) live in files of their own.


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
