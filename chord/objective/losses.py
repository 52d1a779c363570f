"""The two losses of CHORD and their mixture. N tokens of one micro-batch; log-probabilities in nats.

A loss is a sum over tokens together with its token count. Each branch is divided once, by its own count over the
global batch (all micro-batches, all ranks), so losses never see a batch layout or a number of GPUs.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class TokenSum(NamedTuple):
    """A loss summed over `tokens` tokens, in nats."""

    total: Tensor  # ()
    tokens: int


def policy_gradient(
    logp: Tensor,
    old_logp: Tensor,
    advantage: Tensor,
    clip_low: float,
    clip_high: float,
    correction: Tensor | None = None,
) -> TokenSum:
    """The clipped policy-gradient loss, summed (arXiv:2508.11408, eq. 2). All tensors (N,); only `logp` has a gradient.

    Strictly on-policy, `old_logp` is `logp` itself as a constant, the ratio is exactly 1 and nothing is clipped.
    `correction` weights each token for the mismatch of sampler and learner (`truncated_correction`).
    """
    ratio = (logp - old_logp).exp()
    gain = torch.minimum(ratio * advantage, ratio.clamp(1 - clip_low, 1 + clip_high) * advantage)
    if correction is not None:
        gain = gain * correction
    return TokenSum(-gain.sum(), logp.numel())


def truncated_correction(logp: Tensor, sampler_logp: Tensor, cap: float) -> Tensor:
    """min(learner's probability / sampler's, `cap`), a constant to autograd. (N,) -> (N,)."""
    return (logp.detach() - sampler_logp).exp().clamp(max=cap)


def imitation(logp: Tensor, weight: Tensor) -> TokenSum:
    """The weighted negative log-likelihood of expert tokens, summed (eqs. 1, 4, 6). Both (N,)."""
    return TokenSum(-(weight * logp).sum(), logp.numel())


def harmonise(
    rollouts: TokenSum | None, experts: TokenSum | None, mu: float, rollout_tokens: int, expert_tokens: int
) -> Tensor:
    """This micro-batch's part of (1 - mu) L_GRPO + mu L_SFT (eq. 3), a scalar.

    `rollout_tokens` and `expert_tokens` are the counts over the global batch. A branch that is None is left out, not
    multiplied by 0, so that mu = 1 is exactly SFT and mu = 0 exactly GRPO. Raises ValueError if both are None.
    """
    parts: list[Tensor] = []
    if rollouts is not None and mu != 1:
        parts.append((1 - mu) * (rollouts.total / rollout_tokens))
    if experts is not None and mu != 0:
        parts.append(mu * (experts.total / expert_tokens))
    if not parts:
        raise ValueError(f"found no branch to learn from at mu = {mu}, expected rollouts or expert tokens")
    return parts[0] if len(parts) == 1 else parts[0] + parts[1]
