"""SASR (arXiv:2505.13026): an SFT warm-up, then SFT or GRPO at each step, drawn from gradient norms.

The abstract speaks of "gradient norm and divergence relative to the original distribution"; the exact rule was not
found in a stored source. ours: p = g / (g + gamma * g0), with g the SFT gradient norm now and g0 its mean in the
warm-up, so that SFT becomes rarer as the policy comes to resemble the expert.
"""


def sft_probability(gradient_norm: float, warmup_norm: float, gamma: float) -> float:
    """The chance that the next step is SFT, in [0, 1]; norms are of the imitation loss's gradient."""
    total = gradient_norm + gamma * warmup_norm
    return gradient_norm / total if total > 0 else 0.0
