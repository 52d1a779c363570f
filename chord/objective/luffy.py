"""LUFFY (arXiv:2504.14945): one expert trace joins the group of its own prompt. P prompts, G rollouts, N tokens.

Read from ElliottYan/LUFFY at 01f4ae0: off-policy tokens use f(p) = p / (p + gamma) with the demonstrator's probability
taken as 1 and no clip; mean and deviation are those of the on-policy rewards only, and a deviation of 0 becomes 1.
"""

import torch
from torch import Tensor

from chord.objective.losses import TokenSum


def luffy_advantages(rewards: Tensor, expert_rewards: Tensor) -> tuple[Tensor, Tensor]:
    """Advantages of rollouts (P, G) and of their expert traces (P,), centred and scaled by the rollouts alone."""
    mean = rewards.mean(dim=1)
    spread = rewards.std(dim=1, correction=1)
    spread = torch.where((rewards == rewards[:, :1]).all(dim=1), torch.ones_like(spread), spread)
    return (rewards - mean[:, None]) / spread[:, None], (expert_rewards - mean) / spread


def shaped_imitation(logp: Tensor, advantage: Tensor, gamma: float) -> TokenSum:
    """-A p/(p+gamma), summed; the gradient goes through p, and is largest at p = gamma. Both (N,)."""
    p = logp.exp()
    return TokenSum(-(advantage * p / (p + gamma)).sum(), logp.numel())
