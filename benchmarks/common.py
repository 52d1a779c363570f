"""What the benchmarks of speed share: models, batches, measurements that alternate, and a table that says where.

Variants take turns within one process, and each round gives a ratio to the first variant; so what else the machine does
falls on all of them. T tokens of a batch, prompts included.
"""

import ctypes
import gc
import importlib.metadata
import os
import random
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

from chord.config.project import load
from chord.data.models import find, unpack
from chord.training.gradient import Sequence
from chord.training.policy import as_policy, blank_model, character_tokenizer, load_policy

ROOT = Path(__file__).resolve().parents[1]
TINY = {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 2}
TINY |= {"num_key_value_heads": 2}
MODELS = ("demo", "smollm2", "tiny")


@dataclass(frozen=True)
class Measured:
    """One variant: its median speed, the median of its speed over that of the first variant, and its memory."""

    name: str
    tokens_per_second: float
    ratio: float
    peak_mb: float  # above what was held before it began; of the GPU, or of this process


def device_here() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def model_of(name: str, device: torch.device) -> PreTrainedModel:
    """The demo's model or one of 0.1 M parameters, with random weights, or SmolLM2 out of its package; in float32."""
    if name == "smollm2":
        with tempfile.TemporaryDirectory() as folder:
            _, weights = find(load(ROOT, study="small").study.model, "config/studies/small.yaml")
            unpack(weights, Path(folder, "model"))
            return load_policy(Path(folder, "model"))[0].to(device)  # pyright: ignore[reportArgumentType]
    described = load(ROOT, study="demo").study.model
    assert described.alphabet is not None and described.architecture is not None
    sizes = described.architecture.model_dump() | (TINY if name == "tiny" else {})
    model = as_policy(blank_model(sizes, character_tokenizer(described.alphabet), seed=1))
    return model.to(device)  # pyright: ignore[reportArgumentType]


def batch_of(vocabulary: int, rollouts: int, experts: int, longest: int) -> list[Sequence]:
    """Rollouts and expert traces: prompts of 8 to 16 tokens, responses of 1 to `longest`, all lengths alike likely."""
    chance = random.Random(1)
    made: list[Sequence] = []
    for index in range(rollouts + experts):
        prompt = tuple(chance.randrange(vocabulary) for _ in range(chance.randint(8, 16)))
        response = tuple(chance.randrange(vocabulary) for _ in range(chance.randint(1, longest)))
        expert = index >= rollouts
        advantage = 0.0 if expert else chance.choice((-1.0, 1.0))
        logp = () if expert else (-1.0,) * len(response)
        made.append(Sequence(f"s{index}", prompt, response, expert, advantage, logp))
    return made


def alternate(variants: Mapping[str, Callable[[], int]], rounds: int, device: torch.device) -> list[Measured]:
    """Each variant twice to warm up and for its memory, then all in turn; a variant gives the tokens that it did."""
    peaks = {name: _peak_mb(work, device) for name, work in variants.items()}
    speeds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, work in variants.items():
            began = time.perf_counter()
            tokens = work()
            if device.type == "cuda":
                torch.cuda.synchronize()
            speeds[name].append(tokens / (time.perf_counter() - began))
    first = speeds[next(iter(speeds))]
    ratios = {name: [a / b for a, b in zip(found, first, strict=True)] for name, found in speeds.items()}
    median = statistics.median
    return [Measured(name, median(speeds[name]), median(ratios[name]), peaks[name]) for name in variants]


def _peak_mb(work: Callable[[], int], device: torch.device) -> float:
    """The most memory that `work` held above what was held before; nan where the system does not tell."""
    work()  # the first time makes what stays
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    if not Path("/proc/self/clear_refs").exists():
        work()
        return float("nan")
    ctypes.CDLL(None).malloc_trim(0)  # what is free goes back, else the work would find it there
    Path("/proc/self/clear_refs").write_text("5")  # the peak of this process is from here on
    before = _status_kb("VmRSS")
    work()
    return (_status_kb("VmHWM") - before) / 1024


def _status_kb(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def show(what: str, measured: list[Measured], device: torch.device) -> None:
    """The table, headed by what was measured, of which commit, with which versions, and on what."""
    print(f"{what}; {where(device)}\n")
    print(f"| variant | tokens/s | speed, ratio to {measured[0].name} | peak memory, MB | memory, ratio |")
    print("|---|---:|---:|---:|---:|")
    for one in measured:
        memory = one.peak_mb / measured[0].peak_mb if measured[0].peak_mb else float("nan")
        print(f"| {one.name} | {one.tokens_per_second:,.0f} | {one.ratio:.2f} | {one.peak_mb:,.0f} | {memory:.2f} |")
    print(flush=True)


def where(device: torch.device) -> str:
    """Commit, versions and device, in one line."""
    told = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers")]
    name = (
        torch.cuda.get_device_name() if device.type == "cuda" else f"{_processor()}, {torch.get_num_threads()} threads"
    )
    busy = f", load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    return ", ".join([f"at {told.stdout.strip() or 'no commit'}", *versions, name]) + busy


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "an unnamed processor")
