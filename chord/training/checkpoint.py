"""What a training needs to go on after a kill: checkpoints, whole or absent and verified by hash, and its logs.

A state folder belongs to one digest of (recipe, code, inputs); another recipe or other code has a folder of its own,
so a changed loss never resumes from the wrong state. Inside it: `step-000040/` with model, optimizer and progress,
`kept-000030.safetensors` with weights that may be wanted at the end, and logs, whose lengths each checkpoint knows.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from io import FileIO
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from typing import Any, cast

import safetensors.torch
import torch
from safetensors import SafetensorError
from tensorboard.compat.proto import event_pb2, summary_pb2  # their classes are made at run time
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from torch import Tensor, nn

from chord.errors import UserError
from chord.provenance.files import atomic_folder, file_sha256
from chord.records import ValidationAnswer, split_lines

KEEP = 2  # checkpoints
# What repeats bit for bit, what does not (wall clock, memory), and answers that are graded later.
METRICS, TIMING, ANSWERS = "metrics.jsonl", "timing.jsonl", "validation.jsonl"


@dataclass
class Progress:
    """Where a run stands after `step` steps, apart from tensors."""

    step: int = 0
    expert_position: int = 0  # expert rows read so far
    best_step: int = 0
    best_accuracy: float = -1.0
    # Of kept weights: their SHA-256 by step.
    kept: dict[str, str] = field(default_factory=dict[str, str])
    # Lengths of the logs; empty before the first checkpoint.
    log_bytes: dict[str, int] = field(default_factory=dict[str, int])
    mu_state: dict[str, float] = field(default_factory=dict[str, float])
    # Metrics of a step whose weights did not reach the sampler.
    pending: dict[str, Any] = field(default_factory=dict[str, Any])
    # From which step on which ranks summed how.
    stretches: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])


@contextmanager
def full_disk_explained(folder: Path) -> Generator[None]:
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
    with full_disk_explained(folder), atomic_folder(folder / f"step-{progress.step:06d}") as made:
        safetensors.torch.save_file(weights, made / "model.safetensors")
        safetensors.torch.save_file(moments, made / "optimiser.safetensors")
        hashes = {path.name: file_sha256(path) for path in sorted(made.iterdir())}
        text = json.dumps({"progress": asdict(progress), "sha256": hashes}, indent=1)
        (made / "progress.json").write_text(text)
    steps = sorted(folder.glob("step-*"))
    for old in steps[:-KEEP]:
        shutil.rmtree(old)
    wanted = {kept_file(folder, step) for path in steps[-KEEP:] for step in _progress(path).kept}
    for path in set(folder.glob("kept-*.safetensors")) - wanted:
        path.unlink()


def keep_weights(folder: Path, step: int, weights: dict[str, Tensor]) -> str:
    """Keeps the weights of `step` as a model.safetensors of transformers; gives their sha256."""
    folder.mkdir(parents=True, exist_ok=True)
    path = kept_file(folder, step)
    part = path.with_suffix(".part")
    with full_disk_explained(folder):
        safetensors.torch.save_file(weights, part, metadata={"format": "pt"})
    part.rename(path)
    return file_sha256(path)


def kept_file(folder: Path, step: int | str) -> Path:
    """The file of the kept weights of `step`."""
    return folder / f"kept-{int(step):06d}.safetensors"


def newest(folder: Path) -> Path | None:
    """The newest whole checkpoint. A damaged one is named on stderr and the one before is taken."""
    for path in sorted(folder.glob("step-*"), reverse=True):
        problem = _damage(path, folder)
        if problem is None:
            return path
        print(f"chord train: {path}: {problem}; falling back to the checkpoint before it", file=sys.stderr, flush=True)
    return None


def load(path: Path, model: nn.Module) -> tuple[Progress, dict[str, Tensor]]:
    """Loads a whole checkpoint into `model`, in place; gives where it stands and Adam's moments.

    Raises ValueError if the names of the weights differ.
    """
    weights, own = safetensors.torch.load_file(path / "model.safetensors"), dict(model.named_parameters())
    if own.keys() != weights.keys():
        odd = sorted(weights.keys() ^ own.keys())[:3]
        raise ValueError(f"found weights {odd} on one side only, expected the same names")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(weights[name])
    return _progress(path), safetensors.torch.load_file(path / "optimiser.safetensors")


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
            if file_sha256(kept_file(folder, step)) != expected:
                return f"the weights kept for it, {kept_file(folder, step).name}, do not have their hash"
    except (OSError, ValueError, KeyError, TypeError, UserError) as error:
        return f"the checkpoint cannot be read ({error})"
    return None


# --- logs ----------------------------------------------------------------------------------------


class Logs:
    """All that is written down step by step: one JSON line a step, and TensorBoard events of every number in it."""

    def __init__(self, folder: Path, lengths: Mapping[str, int], tensorboard: Path | None) -> None:
        """Continues the logs in `folder`, cut back to `lengths`, so that no line doubles; events are made anew.

        Raises ValueError for a log that is shorter: lines would be missing.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._files, self._events = dict[str, FileIO](), None
        for name in (METRICS, TIMING, ANSWERS):
            file = self._files[name] = FileIO(folder / name, "a")  # unbuffered, so that `chord watch` sees each step
            found, kept = file.seek(0, os.SEEK_END), lengths.get(name, 0)
            if found < kept:
                raise ValueError(f"{file.name}: found {found} bytes, expected at least the {kept} of the checkpoint")
            file.truncate(kept)
        if tensorboard is not None:
            shutil.rmtree(tensorboard, ignore_errors=True)
            self._events = EventFileWriter(str(tensorboard))
            for line in split_lines((folder / METRICS).read_bytes().decode()):
                self._add_events(json.loads(line))

    def write(self, record: dict[str, Any], seconds: Mapping[str, float]) -> None:
        """The metrics of one step and the seconds of its phases."""
        on_gpu = torch.cuda.is_available()
        peak_bytes = torch.cuda.max_memory_allocated() if on_gpu else getrusage(RUSAGE_SELF).ru_maxrss * 1024
        tokens = (record.get("rollout_tokens") or 0) + (record.get("expert_tokens") or 0)
        timing = {"step": record["step"], "seconds": seconds}
        timing |= {"tokens_per_second": tokens / max(1e-9, sum(seconds.values())), "peak_memory_mb": peak_bytes / 2**20}
        self._add_line(METRICS, record)
        self._add_line(TIMING, timing)
        self._add_events(record)

    def write_answers(self, answers: Iterable[ValidationAnswer]) -> None:
        """Answers to validation problems, to be graded later."""
        for answer in answers:
            self._add_line(ANSWERS, vars(answer))

    def sync(self) -> dict[str, int]:
        """Brings all lines to disk; gives the length of each log in bytes."""
        for file in self._files.values():
            os.fsync(file.fileno())
        return {name: file.tell() for name, file in self._files.items()}

    def close(self) -> None:
        """Flushes the events."""
        if self._events is not None:
            self._events.close()

    def _add_line(self, name: str, record: dict[str, Any]) -> None:
        self._files[name].write((json.dumps(record) + "\n").encode())

    def _add_events(self, record: dict[str, Any]) -> None:
        """The numbers of one step, nested ones as `outer/inner`."""
        if self._events is not None:
            summary, event = cast(Any, summary_pb2).Summary, cast(Any, event_pb2).Event
            values = [summary.Value(tag=name, simple_value=value) for name, value in _numbers(record)]
            self._events.add_event(event(wall_time=time.time(), step=record["step"], summary=summary(value=values)))


def _numbers(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in record.items():
        if isinstance(value, dict):
            yield from _numbers(cast(dict[str, Any], value), f"{prefix}{name}/")
        elif isinstance(value, int | float) and name != "step":
            yield prefix + name, float(value)
