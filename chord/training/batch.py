"""Which rows a step reads, which sequences share a micro-batch, and how they lie in it.

S sequences, T tokens in all, no padding.
"""

from collections.abc import Sequence as List
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from chord.records import derive

# --- order ---------------------------------------------------------------------------------------

# Which rows a step reads: an endless stream of shuffled epochs, a pure function of seed and position.


def rows_at(position: int, count: int, size: int, seed: int, purpose: str) -> list[int]:
    """Rows `position` to `position + count` of the stream over `size` rows; each epoch is every row once."""
    if size < 1:
        raise ValueError(f"found {size} rows to read for {purpose}, expected at least one")
    rows: list[int] = []
    while len(rows) < count:
        epoch, start = divmod(position + len(rows), size)
        shuffled = np.random.Generator(np.random.Philox(key=derive(seed, purpose, epoch))).permutation(size)
        rows += shuffled[start : start + count - len(rows)].tolist()
    return rows


# --- packing -------------------------------------------------------------------------------------

# Which sequences share a micro-batch, and how they lie in it. S sequences, T tokens in all, no padding.
#
# A micro-batch is one long row: sequences one after another, each with positions from 0. Attention never crosses
# their borders (`chord.training.policy`).


@dataclass(frozen=True)
class Sequence:
    """A prompt with a response that teaches. Rollouts carry the sampler's log-probabilities, experts none."""

    name: str  # what it is, for messages and dumps
    prompt: tuple[int, ...]
    response: tuple[int, ...]
    is_expert: bool
    advantage: float = 0.0
    sampler_logp: tuple[float, ...] = ()

    def __len__(self) -> int:
        return len(self.prompt) + len(self.response)


# A pass of it keeps a rank in step with others that have more work; its loss counts nothing.
IDLE = Sequence("an idle pass", prompt=(0,), response=(0,), is_expert=True)


@dataclass(frozen=True)
class Packed:
    """One micro-batch. `source` points at the token whose hidden state predicts each of the N response tokens."""

    ids: Tensor  # (1, T)
    positions: Tensor  # (1, T)
    lengths: tuple[int, ...]  # (S,)
    source: Tensor  # (N,)
    target: Tensor  # (N,)
    is_expert: Tensor  # (N,) bool
    advantage: Tensor  # (N,)
    sampler_logp: Tensor  # (N,)


def plan(lengths: List[int], budget: int) -> list[list[int]]:
    """Micro-batches as lists of indices: longest first, each filled up to `budget` tokens; a pure function.

    A sequence longer than the budget has a micro-batch of its own.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    batches: list[list[int]] = []
    room = 0
    for index in order:
        if not batches or lengths[index] > room:
            batches.append([])
            room = budget
        batches[-1].append(index)
        room -= lengths[index]
    return batches


def pack(sequences: List[Sequence], device: torch.device, dtype: torch.dtype) -> Packed:
    """The sequences laid one after another. Raises ValueError for an empty prompt or response."""
    source: list[int] = []
    start = 0
    for sequence in sequences:
        if not sequence.prompt or not sequence.response:
            raise ValueError(f"{sequence.name}: found an empty prompt or response, expected at least one token in each")
        first = start + len(sequence.prompt) - 1
        source += range(first, first + len(sequence.response))
        start += len(sequence)

    def per_token(values: List[object], kind: torch.dtype) -> Tensor:
        flat = [value for value, sequence in zip(values, sequences, strict=True) for _ in sequence.response]
        return torch.tensor(flat, dtype=kind, device=device)

    logps = [x for s in sequences for x in (s.sampler_logp or (0.0,) * len(s.response))]
    return Packed(
        ids=torch.tensor([[t for s in sequences for t in (*s.prompt, *s.response)]], device=device),
        positions=torch.tensor([[p for s in sequences for p in range(len(s))]], device=device),
        lengths=tuple(len(s) for s in sequences),
        source=torch.tensor(source, device=device),
        target=torch.tensor([t for s in sequences for t in s.response], device=device),
        is_expert=per_token([s.is_expert for s in sequences], torch.bool),
        advantage=per_token([s.advantage for s in sequences], dtype),
        sampler_logp=torch.tensor(logps, dtype=dtype, device=device),
    )
