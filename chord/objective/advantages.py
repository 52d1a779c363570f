"""What a rollout is worth beside the other rollouts of its prompt. P prompts, G rollouts of each."""

import torch
from torch import Tensor


def group_advantages(rewards: Tensor, epsilon: float) -> Tensor:
    """(reward - group mean) / (group standard deviation + `epsilon`). (P, G) -> (P, G).

    arXiv:2508.11408, section 2; the deviation is the n - 1 form, as in the authors' code. A group with equal rewards
    has advantage exactly 0: its sequences teach nothing, and their tokens still count in the mean.
    Raises ValueError for groups of one, which have nothing to be compared with.
    """
    if rewards.dim() != 2 or rewards.shape[1] < 2:
        raise ValueError(f"found rewards of shape {tuple(rewards.shape)}, expected (prompts, at least 2 rollouts)")
    mean = rewards.mean(dim=1, keepdim=True)
    spread = rewards.std(dim=1, keepdim=True, correction=1)
    equal = (rewards == rewards[:, :1]).all(dim=1, keepdim=True)
    return torch.where(equal, torch.zeros_like(rewards), (rewards - mean) / (spread + epsilon))
