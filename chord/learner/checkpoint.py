"""Resume state: checkpoints that are whole or absent, verified by hash when read.

A state folder belongs to one digest of (recipe, code, inputs); another recipe or other code has a folder of its own,
so a changed loss never resumes from the wrong state. Inside it: `step-000040/` with model, optimiser and progress,
the best weights so far, and the metrics log, of which each checkpoint knows its length.
"""

import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from chord.provenance.files import UserError, atomic_folder
from chord.provenance.hashing import file_sha256

KEEP = 2  # checkpoints


@dataclass
class Progress:
    """Where a run stands after `step` steps, apart from tensors."""

    step: int = 0
    expert_position: int = 0  # expert rows read so far
    best_step: int = 0
    best_accuracy: float = -1.0
    best_sha256: str = ""
    metrics_bytes: int = 0
    timing_bytes: int = 0
    mu_state: dict[str, float] = field(default_factory=dict)


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


def save(folder: Path, progress: Progress, model: nn.Module, optimiser: Optimizer) -> None:
    """Writes `step-N` beside the others and drops all but the last two. A full disk leaves the earlier ones intact."""
    with no_room_told(folder), atomic_folder(folder / _name(progress.step)) as made:
        save_file(weights_of(model), made / "model.safetensors")
        save_file(_moments(model, optimiser), made / "optimiser.safetensors")
        hashes = {path.name: file_sha256(path) for path in sorted(made.iterdir())}
        text = json.dumps({"progress": asdict(progress), "sha256": hashes}, indent=1)
        (made / "progress.json").write_text(text)
    steps = sorted(folder.glob("step-*"))
    for old in steps[:-KEEP]:
        shutil.rmtree(old)
    best = sorted(folder.glob("best-*.safetensors"))
    needed = {_progress(path).best_step for path in steps[-KEEP:]}
    for path in best:
        if int(path.stem.removeprefix("best-")) < min(needed):
            path.unlink()


def save_best(folder: Path, step: int, model: nn.Module) -> str:
    """Keeps the weights of `step` as the best so far; gives their sha256."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"best-{step:06d}.part"
    with no_room_told(folder):
        save_file(weights_of(model), part)
    part.rename(best_file(folder, step))
    return file_sha256(best_file(folder, step))


def best_file(folder: Path, step: int) -> Path:
    """Where the best weights of `step` lie."""
    return folder / f"best-{step:06d}.safetensors"


def resume(folder: Path, model: nn.Module, optimiser: Optimizer) -> Progress | None:
    """Loads the newest whole checkpoint into `model` and `optimiser`; None if there is none.

    A damaged one is named on stderr and the one before is used.
    """
    for path in sorted(folder.glob("step-*"), reverse=True):
        problem = _damage(path, folder)
        if problem is not None:
            print(
                f"chord.train: {path}: {problem}; falling back to the checkpoint before it", file=sys.stderr, flush=True
            )
            continue
        load_weights(model, load_file(path / "model.safetensors"))
        _load_moments(model, optimiser, load_file(path / "optimiser.safetensors"))
        return _progress(path)
    return None


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """The model's parameters, shared ones once, on the CPU."""
    return {name: p.detach().cpu().contiguous() for name, p in model.named_parameters()}


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
        progress = _progress(path)
        if progress.best_sha256 and file_sha256(best_file(folder, progress.best_step)) != progress.best_sha256:
            return f"its best weights, {best_file(folder, progress.best_step).name}, do not have their hash"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"the checkpoint cannot be read ({error})"
    return None


def _moments(model: nn.Module, optimiser: Optimizer) -> dict[str, Tensor]:
    """Adam's state by parameter name; empty before the first step."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{names[parameter]}|{key}": value.detach().cpu().contiguous()
        for parameter, state in optimiser.state.items()
        for key, value in state.items()
    }


def _load_moments(model: nn.Module, optimiser: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    parameters = dict(model.named_parameters())
    for name, value in tensors.items():
        owner, key = name.split("|")
        parameter = parameters[owner]
        on_device = value if key == "step" else value.to(parameter.device)
        optimiser.state[parameter][key] = on_device.clone()
