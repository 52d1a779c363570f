"""LUFFY's loss over packed rows; used by no other arm."""

from torch import Tensor

from chord.objective.losses import TokenSum
from chord.objective.luffy import shaped_imitation


def luffy_loss(
    rollouts: TokenSum | None, expert_logp: Tensor, expert_advantage: Tensor, gamma: float, tokens: int
) -> Tensor:
    """Rollouts by the policy gradient, expert tokens by the shaped ratio, divided by all `tokens` of the batch.

    ours: one token mean over both, where ElliottYan/LUFFY sums and divides by a fixed maximum length; the gradient's
    scale differs, its direction does not, and clipping by norm and Adam see the same.
    """
    experts = shaped_imitation(expert_logp, expert_advantage, gamma)
    total = experts.total if rollouts is None else rollouts.total + experts.total
    return total / tokens
