"""The math of CHORD (arXiv:2508.11408): mu, token weights, advantages, losses; and what it is compared with.

N tokens of one micro-batch, P prompts, G rollouts of each; log-probabilities and entropies in nats. A schedule or a
weight is a record of `config/` and the formula that uses its settings in one: a new one is a class with an entry here
and nothing else. Nothing of torch is imported: tensors bring their own methods.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, NamedTuple

from pydantic import Field

from chord.reach import PlugPoint
from chord.settings import Fraction, Frozen, Positive, Share, Steps, StepsOrNone, derive

if TYPE_CHECKING:
    from torch import Tensor

# --- mu ----------------------------------------------------------------------------------------


class Step(NamedTuple):
    """What a schedule may know of a step of training."""

    number: int  # from 0
    seed: int  # of the training
    state: dict[str, float]  # of the schedule, see `MuSchedule.observed`
    mean_reward: float | None = None  # of the step's rollouts; None until they are graded


class MuSchedule(Frozen):
    """mu from step to step: how much the expert counts, from 0 (pure RL) to 1 (pure SFT)."""

    def mu(self, step: Step) -> float | None:
        """mu of this step; None where it depends on the rewards of the step's rollouts and these are not known."""
        raise NotImplementedError

    def is_always(self, mu: float) -> bool:
        """Whether every step has this mu, whatever happens."""
        return False

    def observed(self, step: Step, mu: float, gradient_norm: float) -> dict[str, float]:
        """The state of the schedule after a step; plain numbers, for checkpoints."""
        return step.state

    def shares(self) -> tuple[float, float]:
        """The shares of steps that sample rollouts and that read expert rows, as far as they can be foreseen."""
        return 1.0, 1.0

    @property
    def name(self) -> str:
        """What `config/` calls the schedule."""
        return str(self.model_dump()["schedule"])

    @property
    def words(self) -> str:
        """The schedule in a few words, for people."""
        values = {key.replace("_", " "): value for key, value in self.model_dump().items() if key != "schedule"}
        said = (f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in values.items())
        return ", ".join([self.name, *said])


MU_SCHEDULES = PlugPoint[type[MuSchedule]]("mu schedule")


@MU_SCHEDULES.entry("constant")
class MuConstant(MuSchedule):
    """The same mu at every step; 0 is GRPO, 1 is SFT (arXiv:2508.11408, eq. 3)."""

    schedule: Literal["constant"] = "constant"
    value: Fraction = Field(description="mu, from 0 to 1")

    def mu(self, step: Step) -> float:
        """`value`."""
        return self.value

    def is_always(self, mu: float) -> bool:
        """Whether `value` is this mu."""
        return self.value == mu

    def shares(self) -> tuple[float, float]:
        """All steps, or none, of either kind."""
        return float(self.value < 1), float(self.value > 0)

    @property
    def words(self) -> str:
        """`0.1`."""
        return f"{self.value:g}"


@MU_SCHEDULES.entry("decay")
class MuDecay(MuSchedule):
    """CHORD-mu: a linear rise from 0 to `peak`, half a cosine down to `valley`, then `valley` (section 4.3).

    Without a warm-up step 0 has `peak`, without a decay `valley` follows the warm-up at once. The paper names no
    functional form; this is the authors' (modelscope/Trinity-RFT, trinity/algorithm/policy_loss_fn/
    chord_policy_loss.py).
    """

    schedule: Literal["decay"]
    warmup_steps: StepsOrNone = Field(default=0, description="steps of the rise from 0 to `peak`")
    decay_steps: StepsOrNone = Field(description="steps from `peak` to `valley`")
    peak: Fraction = Field(description="the largest mu; the paper's is 0.9")
    valley: Fraction = Field(description="mu after the decay; the paper's is 0.05")

    def mu(self, step: Step) -> float:
        """mu at step `number`. Raises ValueError for a negative one."""
        if step.number < 0:
            raise ValueError(f"found step {step.number}, expected none below 0")
        if step.number < self.warmup_steps:
            return self.peak * step.number / self.warmup_steps
        since_peak = step.number - self.warmup_steps
        if since_peak >= self.decay_steps:
            return self.valley
        share = (1 + math.cos(math.pi * since_peak / self.decay_steps)) / 2
        return self.valley + (self.peak - self.valley) * share

    @property
    def words(self) -> str:
        """`0.9 → 0.05 over 200 steps`."""
        rise = f"0 → {self.peak:g} over {self.warmup_steps} steps, then " if self.warmup_steps else ""
        return f"{rise}{self.peak:g} → {self.valley:g} over {self.decay_steps} steps"


@MU_SCHEDULES.entry("adaptive")
class MuAdaptive(MuSchedule):
    """mu = max(0, threshold - mean reward of this step's rollouts) (arXiv:2508.11408, appendix B.1).

    At most 1: rewards below 0 could exceed it.
    """

    schedule: Literal["adaptive"]
    threshold: Fraction = Field(description="the mean reward from which on mu is 0")

    def mu(self, step: Step) -> float | None:
        """None until the step's rollouts are graded."""
        return None if step.mean_reward is None else min(1.0, max(0.0, self.threshold - step.mean_reward))


@MU_SCHEDULES.entry("gradient-norm")
class MuGradientNorm(MuSchedule):
    """SASR (arXiv:2505.13026): an SFT warm-up, then 0 or 1 at each step, drawn from gradient norms.

    The abstract speaks of "gradient norm and divergence relative to the original distribution"; no source has the exact
    rule. ours: the chance of SFT is g / (g + gamma * g0), with g the gradient norm of the last SFT step and g0 its mean
    in the warm-up, so that SFT becomes rarer as the policy comes to resemble the expert.
    """

    schedule: Literal["gradient-norm"]
    warmup_steps: Steps = Field(description="steps of SFT at the beginning")
    gamma: Positive = Field(description="how much the norms of the warm-up count; larger is less SFT")

    def mu(self, step: Step) -> float:
        """1 (SFT) in the warm-up, then 1 or 0 (GRPO), drawn for this step."""
        import numpy as np

        if step.number < self.warmup_steps:
            return 1.0
        chance = self.chance(step.state["last_norm"], step.state["warmup_norm_sum"] / self.warmup_steps)
        drawn = np.random.Generator(np.random.Philox(key=derive(step.seed, "sasr", step.number))).random()
        return 1.0 if drawn < chance else 0.0

    def chance(self, gradient_norm: float, warmup_norm: float) -> float:
        """The chance that the next step is SFT, in [0, 1]; norms are of the imitation loss's gradient."""
        total = gradient_norm + self.gamma * warmup_norm
        return gradient_norm / total if total > 0 else 0.0

    def observed(self, step: Step, mu: float, gradient_norm: float) -> dict[str, float]:
        """The norm of the last SFT step, and the sum of those of the warm-up."""
        if mu != 1:
            return step.state
        warmup = step.state.get("warmup_norm_sum", 0.0) + (gradient_norm if step.number < self.warmup_steps else 0.0)
        return {"warmup_norm_sum": warmup, "last_norm": gradient_norm}

    def shares(self) -> tuple[float, float]:
        """Half and half: nobody knows the gradient norms yet."""
        return 0.5, 0.5


# --- how much each expert token teaches ---------------------------------------------------------


class ExpertTokens(NamedTuple):
    """The expert tokens of one micro-batch as the policy sees them."""

    logp: Tensor  # (N,)
    entropy: Tensor  # (N,)
    vocabulary: int  # V
    threshold: float = 0.0  # what `TokenWeight.threshold` gave for the global batch


class TokenWeight(Frozen):
    """How much each expert token teaches: (N,), always a constant to autograd.

    A weight with a gradient would change the objective: for p < 0.2356 the gradient of p(1-p) log p is negative on
    log p, so that improbable expert tokens would be pushed down.
    """

    looks_ahead: ClassVar[bool] = False  # whether it needs `threshold` before the step

    def of(self, tokens: ExpertTokens) -> Tensor:
        """The weight of each token, (N,)."""
        raise NotImplementedError

    def threshold(self, entropies: Tensor) -> float:
        """What it needs to know of the entropies of all expert tokens of the global batch, (M,)."""
        return 0.0

    @property
    def name(self) -> str:
        """What `config/` calls the weight."""
        return str(self.model_dump()["weight"])


TOKEN_WEIGHTS = PlugPoint[type[TokenWeight]]("token weight")


@TOKEN_WEIGHTS.entry("one")
class WeightOne(TokenWeight):
    """1: plain SFT (arXiv:2508.11408, eq. 1)."""

    weight: Literal["one"] = "one"

    def of(self, tokens: ExpertTokens) -> Tensor:
        """1 for each token."""
        return tokens.logp.new_ones(tokens.logp.shape)


@TOKEN_WEIGHTS.entry("p")
class WeightProbability(TokenWeight):
    """p: importance sampling with the expert's own probability taken as 1 (eq. 4), as DFT."""

    weight: Literal["p"]

    def of(self, tokens: ExpertTokens) -> Tensor:
        """The probability that the policy gives to each token."""
        return tokens.logp.detach().exp()


@TOKEN_WEIGHTS.entry("p(1-p)")
class WeightPhi(TokenWeight):
    """phi = p(1-p): 1/4 where the policy is undecided, 0 where it is sure either way (eq. 5)."""

    weight: Literal["p(1-p)"]

    def of(self, tokens: ExpertTokens) -> Tensor:
        """phi of each token."""
        p = tokens.logp.detach().exp()
        return p * (1 - p)


@TOKEN_WEIGHTS.entry("is-clip")
class WeightClippedProbability(TokenWeight):
    """p, and 0 for tokens with p above `ceiling` (appendix B.2)."""

    weight: Literal["is-clip"]
    ceiling: Share = Field(description="the largest probability that still teaches; the paper's is 0.4")

    def of(self, tokens: ExpertTokens) -> Tensor:
        """p or 0."""
        p = tokens.logp.detach().exp()
        return p.masked_fill(p > self.ceiling, 0.0)


@TOKEN_WEIGHTS.entry("focal")
class WeightFocal(TokenWeight):
    """(1-p)^gamma (appendix B.2)."""

    weight: Literal["focal"]
    gamma: Annotated[float, Field(ge=0, le=100)] = Field(description="the exponent; the paper does not give it")

    def of(self, tokens: ExpertTokens) -> Tensor:
        """Largest for tokens that the policy finds improbable."""
        return (1 - tokens.logp.detach().exp()).clamp(min=0) ** self.gamma


@TOKEN_WEIGHTS.entry("entropy-norm")
class WeightEntropyShare(TokenWeight):
    """Entropy as a share of the largest possible, log V (appendix B.2, "proportional to entropy")."""

    weight: Literal["entropy-norm"]

    def of(self, tokens: ExpertTokens) -> Tensor:
        """From 0 to 1."""
        return tokens.entropy.detach() / math.log(tokens.vocabulary)


@TOKEN_WEIGHTS.entry("entropy-top")
class WeightEntropyTop(TokenWeight):
    """1 on the `share` most uncertain expert tokens of the global batch, else 0 (appendix B.2, Entropy Top)."""

    weight: Literal["entropy-top"]
    share: Share = Field(description="of all expert tokens of a step; the paper's is 0.05")
    looks_ahead: ClassVar[bool] = True

    def of(self, tokens: ExpertTokens) -> Tensor:
        """1 where the entropy reaches the threshold."""
        return (tokens.entropy.detach() >= tokens.threshold).to(tokens.entropy.dtype)

    def threshold(self, entropies: Tensor) -> float:
        """An entropy, in nats, that just the ceil(share x M) most uncertain tokens of the global batch exceed.

        Half way to the next lower entropy, so that last bits, which differ between two forward passes, cannot matter.
        """
        count = max(1, math.ceil(self.share * entropies.numel() - 1e-9))
        if entropies.numel() <= count:
            return -math.inf
        around = entropies.topk(count + 1).values[-2:]
        return float(around.double().mean())


# --- advantages ---------------------------------------------------------------------------------

# (rewards (P, G), rewards of the prompts' expert traces (P,), epsilon) -> advantages (P, G); of the traces (P,), where
# they join their groups.
Advantages = Callable[["Tensor", "Tensor | None", float], "tuple[Tensor, Tensor | None]"]
ADVANTAGES = PlugPoint[Advantages]("method")


@ADVANTAGES.entry("chord")
@ADVANTAGES.entry("sasr")
def among_rollouts(rewards: Tensor, _expert_rewards: Tensor | None, epsilon: float) -> tuple[Tensor, None]:
    """`group_advantages`; no expert trace joins a group."""
    return group_advantages(rewards, epsilon), None


def group_advantages(rewards: Tensor, epsilon: float) -> Tensor:
    """(reward - group mean) / (group standard deviation + `epsilon`) (arXiv:2508.11408, section 2). (P, G) -> (P, G).

    The deviation is the n - 1 form, as in the authors' code. A group with equal rewards has advantage exactly 0: its
    sequences teach nothing, and their tokens still count in the mean. Raises ValueError for groups of one.
    """
    if rewards.dim() != 2 or rewards.shape[1] < 2:
        raise ValueError(f"found rewards of shape {tuple(rewards.shape)}, expected (prompts, at least 2 rollouts)")
    mean = rewards.mean(dim=1, keepdim=True)
    spread = rewards.std(dim=1, keepdim=True, correction=1)
    equal = (rewards == rewards[:, :1]).all(dim=1, keepdim=True)
    return ((rewards - mean) / (spread + epsilon)).masked_fill(equal, 0.0)


@ADVANTAGES.entry("luffy")
def with_expert_traces(rewards: Tensor, expert_rewards: Tensor | None, _epsilon: float) -> tuple[Tensor, Tensor]:
    """LUFFY (arXiv:2504.14945): one expert trace joins the group of its own prompt.

    Both are centered by the mean of the rollouts alone and not scaled: the released run sets `grpo_use_std=False`
    (ElliottYan/LUFFY at 01f4ae0). A group with equal rewards has advantages of exactly 0, but for its trace.
    """
    assert expert_rewards is not None, "LUFFY's groups have an expert trace each"
    mean = rewards.mean(dim=1)
    equal = (rewards == rewards[:, :1]).all(dim=1, keepdim=True)
    return (rewards - mean[:, None]).masked_fill(equal, 0.0), expert_rewards - mean


# --- losses -------------------------------------------------------------------------------------


class TokenSum(NamedTuple):
    """A loss summed over `tokens` tokens, in nats, so that losses never see a batch layout or a number of GPUs."""

    total: Tensor  # ()
    tokens: int


class Parts(NamedTuple):
    """What a micro-batch holds of both branches; None for a branch without tokens in it.

    Each branch is divided by its own count over the global batch: all micro-batches, all ranks.
    """

    rollouts: TokenSum | None
    experts: TokenSum | None
    expert_logp: Tensor  # (N,)
    expert_advantage: Tensor  # (N,)
    rollout_tokens: int  # of the global batch
    expert_tokens: int  # of the global batch


def policy_gradient(
    logp: Tensor,
    old_logp: Tensor,
    advantage: Tensor,
    clip_low: float,
    clip_high: float,
    correction: Tensor | None = None,
) -> TokenSum:
    """The clipped policy-gradient loss, summed (eq. 2). All tensors (N,); only `logp` has a gradient.

    Strictly on-policy, `old_logp` is `logp` itself as a constant, the ratio is exactly 1 and nothing is clipped.
    `correction` weights each token for the mismatch of sampler and learner (`truncated_correction`).
    """
    ratio = (logp - old_logp).exp()
    gain = (ratio * advantage).minimum(ratio.clamp(1 - clip_low, 1 + clip_high) * advantage)
    if correction is not None:
        gain = gain * correction
    return TokenSum(-gain.sum(), logp.numel())


def truncated_correction(logp: Tensor, sampler_logp: Tensor, cap: float) -> Tensor:
    """min(learner's probability / sampler's, `cap`), a constant to autograd. (N,) -> (N,)."""
    return (logp.detach() - sampler_logp).exp().clamp(max=cap)


def imitation(logp: Tensor, weight: Tensor) -> TokenSum:
    """The weighted negative log-likelihood of expert tokens, summed (eqs. 1, 4, 6). Both (N,)."""
    return TokenSum(-(weight * logp).sum(), logp.numel())


# (what a micro-batch holds, mu, gamma of LUFFY) -> its part of the step's loss; None where nothing is learned from it.
LOSSES = PlugPoint[Callable[[Parts, float, "float | None"], "Tensor | None"]]("method")


@LOSSES.entry("chord")
@LOSSES.entry("sasr")
def harmonise(micro_batch: Parts, mu: float, _gamma: float | None = None) -> Tensor | None:
    """This micro-batch's part of (1 - mu) L_GRPO + mu L_SFT (eq. 3), a scalar.

    A branch without tokens here, or that does not count, is left out, not multiplied by 0, so that mu = 1 is exactly
    SFT and mu = 0 exactly GRPO.
    """
    parts: list[Tensor] = []
    if micro_batch.rollouts is not None and mu != 1:
        parts.append((1 - mu) * (micro_batch.rollouts.total / micro_batch.rollout_tokens))
    if micro_batch.experts is not None and mu != 0:
        parts.append(mu * (micro_batch.experts.total / micro_batch.expert_tokens))
    if not parts:
        return None
    return parts[0] if len(parts) == 1 else parts[0] + parts[1]


@LOSSES.entry("luffy")
def luffy_loss(parts: Parts, _mu: float, gamma: float | None) -> Tensor:
    """LUFFY: rollouts by the policy gradient, expert tokens by the shaped ratio, over all tokens of the global batch.

    ours: one token mean over both, where ElliottYan/LUFFY divides by a fixed maximum length. Only the gradient's scale
    differs, which clipping by norm and Adam do not see.
    """
    assert gamma is not None, "a recipe of LUFFY has its gamma"
    experts = shaped_imitation(parts.expert_logp, parts.expert_advantage, gamma)
    total = experts.total if parts.rollouts is None else parts.rollouts.total + experts.total
    return total / (parts.rollout_tokens + parts.expert_tokens)


def shaped_imitation(logp: Tensor, advantage: Tensor, gamma: float) -> TokenSum:
    """-A p/(p+gamma), summed; the gradient goes through p, and is largest at p = gamma. Both (N,).

    LUFFY's off-policy tokens: the demonstrator's probability is taken as 1, and nothing is clipped.
    """
    p = logp.exp()
    return TokenSum(-(advantage * p / (p + gamma)).sum(), logp.numel())
