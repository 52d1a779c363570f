"""The gradient of one training step, accumulated over micro-batches. N response tokens of a micro-batch.

Each branch is divided by its own token count over the global batch, so the result does not depend on how sequences
are split, packed, ordered or shared between ranks. One forward serves both branches, one backward a micro-batch.
"""

import json
import math
from collections.abc import Iterator
from collections.abc import Sequence as List
from dataclasses import dataclass, field

import torch
from torch import Tensor

from chord.config import Arithmetic, PolicyLoss, Recipe, TokenWeight
from chord.learner.engine import Engine
from chord.learner.packing import IDLE, Packed, Sequence, pack, plan
from chord.learner.policy import DTYPES, TokenStatistics, output_head
from chord.learner.world import World
from chord.objective import losses, weights


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
    expert = batch.is_expert
    rollout = ~expert
    old = stats.logp.detach()
    rollouts = experts = None
    if bool(rollout.any()):
        assert policy_loss is not None
        cap = policy_loss.importance_cap
        correction = (
            None if cap is None else losses.truncated_correction(stats.logp[rollout], batch.sampler_logp[rollout], cap)
        )
        rollouts = losses.policy_gradient(
            stats.logp[rollout],
            old[rollout],
            batch.advantage[rollout],
            policy_loss.clip_low,
            policy_loss.clip_high,
            correction,
        )
        sums.add("rollout_tokens", rollouts.tokens)
        sums.add("policy_loss", rollouts.total.detach())
        ratio = (stats.logp.detach()[rollout] - old[rollout]).exp()
        sums.add("clipped", ((ratio < 1 - policy_loss.clip_low) | (ratio > 1 + policy_loss.clip_high)).sum())
        sums.add("policy_entropy", stats.entropy[rollout].sum())
        sums.add("logp_mismatch", (old[rollout] - batch.sampler_logp[rollout]).abs().sum())
    if bool(expert.any()):
        weight = expert_weight(recipe.expert_tokens, stats.logp[expert], stats.entropy[expert], vocabulary, threshold)
        experts = losses.imitation(stats.logp[expert], weight)
        sums.add("expert_tokens", experts.tokens)
        sums.add("imitation_loss", experts.total.detach())
        sums.add("phi", weight.sum())
        sums.add("expert_logp", old[expert].sum())
        sums.add("expert_entropy", stats.entropy[expert].sum())
    if recipe.method == "luffy":
        from chord.learner.luffy_step import luffy_loss

        assert recipe.reshape_gamma is not None
        return luffy_loss(rollouts, stats.logp[expert], batch.advantage[expert], recipe.reshape_gamma, sum(counts))
    if (rollouts is None or mu == 1) and (experts is None or mu == 0):
        return stats.logp.detach().sum() * 0  # nothing here is learned from; only looked at
    return losses.harmonise(rollouts, experts, mu, *counts)


def expert_weight(weight: TokenWeight, logp: Tensor, entropy: Tensor, vocabulary: int, threshold: float) -> Tensor:
    """The token weight that the recipe names, (N,) -> (N,); a constant to autograd."""
    match weight.weight:
        case "one":
            return weights.one(logp)
        case "p":
            return weights.probability(logp)
        case "p(1-p)":
            return weights.phi(logp)
        case "entropy-norm":
            return weights.entropy_share(entropy, vocabulary)
        case "entropy-top":
            return weights.entropy_above(entropy, threshold)
        case "is-clip":
            return weights.clipped_probability(logp, weight.ceiling)
        case "focal":
            return weights.focal(logp, weight.gamma)


def _entropy_threshold(run: _Forward, sequences: List[Sequence], weight: TokenWeight, world: World) -> float:
    """For entropy-top, the entropy that its share of all expert tokens of the global batch reaches; 0 otherwise."""
    if weight.weight != "entropy-top":
        return 0.0
    found: list[float] = []
    experts = [s for s in sequences if s.is_expert]
    with torch.no_grad():
        for members in _micro_batches(run.engine, experts, run.execution.micro_batch_tokens):
            entropy = run(members or [IDLE])[1].entropy
            found += entropy.tolist() if members else []
    everyone = [value for rank in world.gather(found) for value in rank]
    return weights.top_threshold(torch.tensor(everyone, dtype=torch.float64), weight.share)
