"""How much the expert counts at each step: mu, from 0 (pure RL) to 1 (pure SFT)."""

import math


def decayed_mu(step: int, warmup_steps: int, decay_steps: int, peak: float, valley: float) -> float:
    """mu at `step` (counted from 0): a linear rise from 0 to `peak`, half a cosine down to `valley`, then `valley`.

    With `warmup_steps` = 0 step 0 has `peak`; with `warmup_steps` > 0 step 0 has 0 and step `warmup_steps` has `peak`.
    With `decay_steps` = 0 `valley` follows the warm-up at once; with both 0 every step has `valley`, so that a
    constant is `decayed_mu(step, 0, 0, peak, valley)` whatever `peak` is (as in the authors' code, where the
    paper names no functional form: modelscope/Trinity-RFT, trinity/algorithm/policy_loss_fn/chord_policy_loss.py).
    Raises ValueError for a negative step or length, or for an end point outside [0, 1].
    """
    if min(step, warmup_steps, decay_steps) < 0:
        raise ValueError(f"found step {step}, warm-up {warmup_steps}, decay {decay_steps}; expected none below 0")
    if not (0 <= peak <= 1 and 0 <= valley <= 1):
        raise ValueError(f"found peak {peak}, valley {valley}; expected both in [0, 1]")
    if step < warmup_steps:
        return peak * step / warmup_steps
    since_peak = step - warmup_steps
    if since_peak >= decay_steps:
        return valley
    share = (1 + math.cos(math.pi * since_peak / decay_steps)) / 2
    return valley + (peak - valley) * share


def adaptive_mu(mean_reward: float, threshold: float) -> float:
    """max(0, threshold - mean reward), at most 1 (arXiv:2508.11408, appendix B.1); rewards below 0 can exceed 1."""
    return min(1.0, max(0.0, threshold - mean_reward))
