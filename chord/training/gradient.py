"""The gradient of one training step, accumulated over micro-batches. N response tokens of a micro-batch.

Each branch is divided by its own token count over the global batch, so the result does not depend on how sequences
are split, packed, ordered or shared between ranks. One forward serves both branches, one backward a micro-batch.
"""

import json
import math
from collections.abc import Callable, Iterator
from collections.abc import Sequence as List
from dataclasses import dataclass, field

import torch
from torch import Tensor

from chord.config.recipe import Recipe
from chord.config.study import Arithmetic, PolicyLoss
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
from chord.training.batch import IDLE, Packed, Sequence, pack, plan
from chord.training.engine import Engine, World
from chord.training.policy import DTYPES, TokenStatistics, output_head


class NotFinite(Exception):
    """A loss or gradient that is not a finite number; raised before any weight changed."""


@dataclass
class Sums:
    """What one step saw, summed over its tokens; ready to be added up over ranks."""

    values: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, value: float | Tensor) -> None:
        """Adds to one sum."""
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
    tokens = world.sum(
        [float(sum(len(s.response) for s in sequences if s.is_expert is kind)) for kind in (False, True)]
    )
    counts = int(tokens[0]), int(tokens[1])  # of rollouts, of experts
    run = _Forward(engine, execution, temperature)
    threshold = _entropy_threshold(run, sequences, recipe.expert_tokens, world)
    sums, fault = Sums(), ""
    for members, teaches, last in _passes(engine, sequences, mu, execution.micro_batch_tokens):
        with torch.set_grad_enabled(teaches):
            batch, stats = run(members or [IDLE])
            if members:
                loss = _loss(batch, stats, mu, recipe, policy_loss, run.vocabulary, threshold, counts, sums)
            else:
                loss = stats.logp.sum() * 0
        value = float(loss.detach())
        sums.add("loss", value)
        if not math.isfinite(value):
            fault = fault or f"the loss is {value}; sequences: {json.dumps([s.name for s in members])}"
        if teaches:
            engine.backward(loss, last)
    for found in world.gather(fault):  # every rank stops, not only the one that saw it
        if found:
            raise NotFinite(found)
    engine.collect()
    return sums.over(world)


def _passes(
    engine: Engine, sequences: List[Sequence], mu: float, budget: int
) -> Iterator[tuple[list[Sequence], bool, bool]]:
    """Sequences that share a forward pass, none in an idle one; whether they teach; whether they are the last to.

    Those that teach come first.
    """
    for teaches in (True, False):
        batches = _micro_batches(engine, [s for s in sequences if _teaches(s, mu) is teaches], budget)
        for number, members in enumerate(batches, 1):
            yield members, teaches, teaches and number == len(batches)


def _micro_batches(engine: Engine, sequences: List[Sequence], budget: int) -> list[list[Sequence]]:
    """The sequences in micro-batches, and empty ones where other ranks have more."""
    batches = [[sequences[index] for index in indices] for indices in plan([len(s) for s in sequences], budget)]
    return batches + [[]] * (engine.rounds(len(batches)) - len(batches))


@dataclass(frozen=True)
class _Forward:
    """Packs sequences and runs the policy over them."""

    engine: Engine
    execution: Arithmetic
    temperature: float

    @property
    def vocabulary(self) -> int:
        return output_head(self.engine.model).out_features

    def __call__(self, sequences: List[Sequence]) -> tuple[Packed, TokenStatistics]:
        model, compute = self.engine.model, DTYPES[self.execution.compute_dtype]
        dtype = torch.float64 if next(model.parameters()).dtype == torch.float64 else torch.float32
        batch = pack(sequences, model.device, dtype)
        stats = self.engine.statistics(batch, self.execution.logit_chunk_tokens, compute, self.temperature)
        return batch, stats


def _teaches(sequence: Sequence, mu: float) -> bool:
    """Whether the sequence can change the gradient at this mu."""
    if sequence.is_expert:
        return mu > 0 or sequence.advantage != 0
    return mu < 1 and sequence.advantage != 0


def _loss(
    batch: Packed,
    stats: TokenStatistics,
    mu: float,
    recipe: Recipe,
    policy_loss: PolicyLoss | None,
    vocabulary: int,
    threshold: float,
    counts: tuple[int, int],
    sums: Sums,
) -> Tensor:
    """This micro-batch's part of the step's loss, a scalar; adds what it saw to `sums`."""
    expert, old = batch.is_expert, stats.logp.detach()
    rollouts = experts = None
    if bool((~expert).any()):
        assert policy_loss is not None
        rollouts = BRANCHES["rollouts"](batch, stats, policy_loss, sums)
    if bool(expert.any()):
        tokens = ExpertTokens(stats.logp[expert], stats.entropy[expert], vocabulary, threshold)
        experts = BRANCHES["experts"](tokens, recipe.expert_tokens, sums)
    parts = Parts(rollouts, experts, stats.logp[expert], batch.advantage[expert], *counts)
    loss = LOSSES[recipe.method](parts, mu, recipe.reshape_gamma)
    return old.sum() * 0 if loss is None else loss  # where nothing is learned from, tokens are only looked at


# The parts of a loss: each sums up its tokens and adds what it saw to `Sums`.
BRANCHES = PlugPoint[Callable[..., TokenSum]]("branch")


@BRANCHES.entry("rollouts")
def _rollout_loss(batch: Packed, stats: TokenStatistics, policy_loss: PolicyLoss, sums: Sums) -> TokenSum:
    """The policy gradient of the rollouts in a micro-batch."""
    rollout = ~batch.is_expert
    logp, old, cap = stats.logp[rollout], stats.logp.detach()[rollout], policy_loss.importance_cap
    sampled = batch.sampler_logp[rollout]
    correction = None if cap is None else truncated_correction(logp, sampled, cap)
    low, high = policy_loss.clip_low, policy_loss.clip_high
    loss = policy_gradient(logp, old, batch.advantage[rollout], low, high, correction)
    ratio = (logp.detach() - old).exp()
    sums.add("rollout_tokens", loss.tokens)
    sums.add("policy_loss", loss.total.detach())
    sums.add("clipped", ((ratio < 1 - low) | (ratio > 1 + high)).sum())
    sums.add("policy_entropy", stats.entropy[rollout].sum())
    sums.add("logp_mismatch", (old - sampled).abs().sum())
    return loss


@BRANCHES.entry("experts")
def _expert_loss(tokens: ExpertTokens, weight: TokenWeight, sums: Sums) -> TokenSum:
    """The weighted imitation of the expert tokens in a micro-batch."""
    weights = weight.of(tokens)
    loss = imitation(tokens.logp, weights)
    sums.add("expert_tokens", loss.tokens)
    sums.add("imitation_loss", loss.total.detach())
    sums.add("phi", weights.sum())
    sums.add("expert_logp", tokens.logp.detach().sum())
    sums.add("expert_entropy", tokens.entropy.sum())
    return loss


def _entropy_threshold(run: _Forward, sequences: List[Sequence], weight: TokenWeight, world: World) -> float:
    """What the weight is to know of the expert tokens of the global batch before they teach; 0 where nothing."""
    if not weight.looks_ahead:
        return 0.0
    found: list[float] = []
    experts = [s for s in sequences if s.is_expert]
    with torch.no_grad():
        for members in _micro_batches(run.engine, experts, run.execution.micro_batch_tokens):
            entropy = run(members or [IDLE])[1].entropy
            found += entropy.tolist() if members else []
    everyone = [value for rank in world.gather(found) for value in rank]
    return weight.threshold(torch.tensor(everyone, dtype=torch.float64))
