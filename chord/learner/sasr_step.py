"""SASR's choice between SFT and GRPO over a run; used by no other arm. Its state is plain numbers, for checkpoints."""

import numpy as np

from chord.config import MuGradientNorm
from chord.objective.sasr import sft_probability
from chord.seeds import derive


def choose_mu(rule: MuGradientNorm, step: int, seed: int, state: dict[str, float]) -> float:
    """1 (SFT) in the warm-up, then 1 or 0 (GRPO), drawn for this step."""
    if step < rule.warmup_steps:
        return 1.0
    warmup_norm = state["warmup_norm_sum"] / rule.warmup_steps
    chance = sft_probability(state["last_norm"], warmup_norm, rule.gamma)
    drawn = np.random.Generator(np.random.Philox(key=derive(seed, "sasr", step))).random()
    return 1.0 if drawn < chance else 0.0


def observe(
    rule: MuGradientNorm, step: int, mu: float, gradient_norm: float, state: dict[str, float]
) -> dict[str, float]:
    """The state after a step. ours: the SFT gradient norm is that of the last SFT step, not measured anew each step."""
    if mu != 1:
        return state
    warmup = state.get("warmup_norm_sum", 0.0) + (gradient_norm if step < rule.warmup_steps else 0.0)
    return {"warmup_norm_sum": warmup, "last_norm": gradient_norm}
