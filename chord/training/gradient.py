"""The gradient of one training step: sequences, packed into micro-batches, give losses, and these a gradient.

S sequences, T tokens of a micro-batch, N of them response tokens. A micro-batch is one long row without padding:
sequences one after another, each with positions from 0; attention never crosses their borders
(`chord.training.policy`). Each branch of the loss is divided by its own token count over the global batch, so the
result does not depend on how sequences are split, packed, ordered or shared between ranks. One forward serves both
branches, one backward a micro-batch.
"""

import json
import math
from collections.abc import Callable, Iterable
from collections.abc import Sequence as List
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from chord.config.study import Arithmetic, PolicyLoss, Recipe
from chord.objective import (
    LOSSES,
    ExpertTokens,
    Parts,
    TokenSum,
    TokenWeight,
    imitation,
    policy_gradient,
    truncated_correction,
)
from chord.reach import PlugPoint
from chord.training.engine import Engine, World
from chord.training.policy import DTYPES, TokenStatistics, output_head


class NotFinite(Exception):
    """A loss or gradient that is not a finite number; raised before any weight changed."""


# --- batch ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sequence:
    """A prompt with a response that teaches. Rollouts carry the sampler's log-probabilities, experts none."""

    name: str  # for messages and dumps
    prompt: tuple[int, ...]
    response: tuple[int, ...]
    is_expert: bool
    advantage: float = 0.0
    sampler_logp: tuple[float, ...] = ()

    def __len__(self) -> int:
        return len(self.prompt) + len(self.response)

    def teaches(self, mu: float) -> bool:
        """Whether the sequence can change the gradient at this mu."""
        if self.is_expert:
            return mu > 0 or self.advantage != 0
        return mu < 1 and self.advantage != 0


# A pass over it keeps a rank in step with others that have more work; its loss counts nothing.
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
    batches: list[list[int]] = []
    room = 0
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
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

    sizes = torch.tensor([len(s.response) for s in sequences])

    def tensor(values: Iterable[Any], kind: torch.dtype | None = None) -> Tensor:
        return torch.tensor([*values], dtype=kind, device=device)

    def repeated(values: List[float], kind: torch.dtype) -> Tensor:
        return torch.tensor(values, dtype=kind).repeat_interleave(sizes).to(device)

    return Packed(
        ids=tensor(chain.from_iterable((*s.prompt, *s.response) for s in sequences))[None],
        positions=tensor(chain.from_iterable(range(len(s)) for s in sequences))[None],
        lengths=tuple(len(s) for s in sequences),
        source=tensor(source),
        target=tensor(chain.from_iterable(s.response for s in sequences)),
        is_expert=repeated([s.is_expert for s in sequences], torch.bool),
        advantage=repeated([s.advantage for s in sequences], dtype),
        sampler_logp=tensor(chain.from_iterable(s.sampler_logp or (0.0,) * len(s.response) for s in sequences), dtype),
    )


# --- gradient ------------------------------------------------------------------------------------


@dataclass
class Sums:
    """What one step saw, summed over its tokens; ready to be added up over ranks."""

    values: dict[str, float] = field(default_factory=dict[str, float])

    def add(self, **values: float | Tensor) -> None:
        """Adds to the sums of these names."""
        for name, value in values.items():
            self.values[name] = self.values.get(name, 0.0) + float(value)

    def over(self, world: World) -> "Sums":
        """The sums of all ranks together."""
        names = sorted({name for rank in world.gather(sorted(self.values)) for name in rank})
        return Sums(dict(zip(names, world.sum([self.values.get(name, 0.0) for name in names]), strict=True)))

    def mean(self, name: str, count: str) -> float | None:
        """One sum divided by another; None where nothing was counted."""
        total = self.values.get(count, 0.0)
        return self.values.get(name, 0.0) / total if total else None


def accumulate_gradient(
    engine: Engine,
    sequences: List[Sequence],
    mu: float,
    recipe: Recipe,
    policy_loss: PolicyLoss | None,
    execution: Arithmetic,
    temperature: float,
) -> Sums:
    """Adds the gradient of (1-mu) L_GRPO + mu L_SFT over the global batch to the engine's; gives the step's sums.

    `sequences` are this rank's own. Sequences that cannot teach (a rollout with advantage 0) are only looked at.
    Raises NotFinite, with the names of the micro-batch's sequences, for a loss that is not a finite number; first all
    passes are made, since other ranks may wait for this one's.
    """
    world = engine.world
    tokens = [float(sum(len(s.response) for s in sequences if s.is_expert is kind)) for kind in (False, True)]
    rollout_tokens, expert_tokens = map(int, world.sum(tokens))
    step = _Step(engine, mu, recipe, policy_loss, execution, temperature, rollout_tokens, expert_tokens)
    if recipe.expert_tokens.looks_ahead:
        step.threshold = step.entropy_threshold([s for s in sequences if s.is_expert])
    fault = ""
    for teaches in (True, False):  # those that teach come first
        batches = step.micro_batches([s for s in sequences if s.teaches(mu) is teaches])
        for number, members in enumerate(batches, 1):
            with torch.set_grad_enabled(teaches):
                batch, stats = step.forward(members)
                loss = step.loss(batch, stats) if members else stats.logp.sum() * 0
            value = float(loss.detach())
            step.sums.add(loss=value)
            if not math.isfinite(value):
                fault = fault or f"the loss is {value}; sequences: {json.dumps([s.name for s in members])}"
            if teaches:
                engine.backward(loss, last=number == len(batches))
    for found in world.gather(fault):  # every rank stops, not only the one that saw it
        if found:
            raise NotFinite(found)
    engine.collect()
    return step.sums.over(world)


@dataclass
class _Step:
    """One step on this rank: what all its micro-batches share, and what was summed over them so far."""

    engine: Engine
    mu: float
    recipe: Recipe
    policy_loss: PolicyLoss | None
    execution: Arithmetic
    temperature: float
    rollout_tokens: int  # of the global batch
    expert_tokens: int  # of the global batch
    threshold: float = 0.0  # of `TokenWeight.threshold`
    sums: Sums = field(default_factory=Sums)

    def micro_batches(self, sequences: List[Sequence]) -> list[list[Sequence]]:
        """The sequences in micro-batches, and empty ones where other ranks have more."""
        planned = plan([len(s) for s in sequences], self.execution.micro_batch_tokens)
        batches = [[sequences[index] for index in indices] for indices in planned]
        return batches + [[]] * (self.engine.rounds(len(batches)) - len(batches))

    def forward(self, sequences: List[Sequence]) -> tuple[Packed, TokenStatistics]:
        """Packs the sequences and runs the policy over them; over IDLE where there are none."""
        model, compute = self.engine.model, DTYPES[self.execution.compute_dtype]
        dtype = torch.float64 if next(model.parameters()).dtype == torch.float64 else torch.float32
        batch = pack(sequences or [IDLE], model.device, dtype)
        return batch, self.engine.statistics(batch, self.execution.logit_chunk_tokens, compute, self.temperature)

    def loss(self, batch: Packed, stats: TokenStatistics) -> Tensor:
        """This micro-batch's part of the step's loss, a scalar; adds what it saw to `sums`."""
        expert, rollouts, experts = batch.is_expert, None, None
        if bool((~expert).any()):
            assert self.policy_loss is not None, "a recipe with rollouts has a policy loss"
            rollouts = BRANCHES["rollouts"](batch, stats, self.policy_loss, self.sums)
        if bool(expert.any()):
            vocabulary = output_head(self.engine.model).out_features
            tokens = ExpertTokens(stats.logp[expert], stats.entropy[expert], vocabulary, self.threshold)
            experts = BRANCHES["experts"](tokens, self.recipe.expert_tokens, self.sums)
        counts = self.rollout_tokens, self.expert_tokens
        parts = Parts(rollouts, experts, stats.logp[expert], batch.advantage[expert], *counts)
        loss = LOSSES[self.recipe.method](parts, self.mu, self.recipe.reshape_gamma)
        return stats.logp.detach().sum() * 0 if loss is None else loss  # None: tokens are only looked at

    def entropy_threshold(self, experts: List[Sequence]) -> float:
        """What the token weight needs to know of all expert tokens of the global batch before they teach."""
        found: list[float] = []
        with torch.no_grad():
            for members in self.micro_batches(experts):
                entropy = self.forward(members)[1].entropy
                found += entropy.tolist() if members else []
        everyone = [value for rank in self.engine.world.gather(found) for value in rank]
        return self.recipe.expert_tokens.threshold(torch.tensor(everyone, dtype=torch.float64))


# The parts of a loss: each sums up its tokens and adds what it saw to `Sums`.
BRANCHES = PlugPoint[Callable[..., TokenSum]]("branch")


@BRANCHES.entry("rollouts")
def _rollout_loss(batch: Packed, stats: TokenStatistics, policy_loss: PolicyLoss, sums: Sums) -> TokenSum:
    """The policy gradient of the rollouts in a micro-batch."""
    rollout = ~batch.is_expert
    logp, old, sampled = stats.logp[rollout], stats.logp.detach()[rollout], batch.sampler_logp[rollout]
    low, high, cap = policy_loss.clip_low, policy_loss.clip_high, policy_loss.importance_cap
    correction = None if cap is None else truncated_correction(logp, sampled, cap)
    loss = policy_gradient(logp, old, batch.advantage[rollout], low, high, correction)
    ratio = (logp.detach() - old).exp()
    sums.add(
        rollout_tokens=loss.tokens,
        policy_loss=loss.total.detach(),
        clipped=((ratio < 1 - low) | (ratio > 1 + high)).sum(),
        policy_entropy=stats.entropy[rollout].sum(),
        logp_mismatch=(old - sampled).abs().sum(),
    )
    return loss


@BRANCHES.entry("experts")
def _expert_loss(tokens: ExpertTokens, weight: TokenWeight, sums: Sums) -> TokenSum:
    """The weighted imitation of the expert tokens in a micro-batch."""
    weights = weight.of(tokens)
    loss = imitation(tokens.logp, weights)
    sums.add(
        expert_tokens=loss.tokens,
        imitation_loss=loss.total.detach(),
        phi=weights.sum(),
        expert_logp=tokens.logp.detach().sum(),
        expert_entropy=tokens.entropy.sum(),
    )
    return loss
