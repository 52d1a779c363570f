"""How much each expert token teaches. N expert tokens; every weight is a constant to autograd.

A weight that kept its gradient would change the objective: the gradient of p(1-p) log p through both factors is
negative on log p for p < 0.2356, so that improbable expert tokens would be pushed down.
"""

import math

import torch
from torch import Tensor


def one(logp: Tensor) -> Tensor:
    """1: plain SFT (arXiv:2508.11408, eq. 1). (N,) -> (N,)."""
    return torch.ones_like(logp)


def probability(logp: Tensor) -> Tensor:
    """p: importance sampling with the expert's own probability taken as 1 (eq. 4), as DFT. (N,) -> (N,)."""
    return logp.detach().exp()


def phi(logp: Tensor) -> Tensor:
    """p(1-p): 1/4 where the policy is undecided, 0 where it is sure either way (eq. 5). (N,) -> (N,)."""
    p = logp.detach().exp()
    return p * (1 - p)


def clipped_probability(logp: Tensor, ceiling: float) -> Tensor:
    """p, and 0 for tokens with p above `ceiling` (appendix B.2: 0.4). (N,) -> (N,)."""
    p = logp.detach().exp()
    return torch.where(p > ceiling, torch.zeros_like(p), p)


def focal(logp: Tensor, gamma: float) -> Tensor:
    """(1-p)^gamma (appendix B.2; the paper does not give gamma). (N,) -> (N,)."""
    return (1 - logp.detach().exp()).clamp(min=0) ** gamma


def entropy_share(entropy: Tensor, vocabulary: int) -> Tensor:
    """Entropy as a share of the largest possible, log V (appendix B.2 "proportional to entropy"). (N,) -> (N,)."""
    return entropy.detach() / math.log(vocabulary)


def entropy_above(entropy: Tensor, threshold: float) -> Tensor:
    """1 where the entropy reaches `threshold` nats, else 0 (appendix B.2, Entropy Top). (N,) -> (N,)."""
    return (entropy.detach() >= threshold).to(entropy.dtype)


def top_threshold(entropies: Tensor, share: float) -> float:
    """An entropy that just the ceil(share x N) most uncertain tokens of the whole batch exceed. (N,) -> nats.

    Taken over the global batch, so that micro-batches and ranks cannot matter; half way to the next lower entropy, so
    that last bits, which differ from one forward pass to the next, cannot either.
    """
    count = max(1, math.ceil(share * entropies.numel() - 1e-9))
    if entropies.numel() <= count:
        return -math.inf
    around = entropies.topk(count + 1).values[-2:]
    return float(around.double().mean())
