"""`python -m tests.faults.fixed_draws ...` is `chord train`, but that each token follows from its random number alone.

Two trainings that add up in another order have policies that differ in their last bits, and sooner or later a draw
falls between the two. Where numbers are compared, the texts are fixed: every token of the vocabulary is as likely as
another, whatever the policy says. The log-probabilities beside them are the policy's.
"""

import runpy
import sys

import torch
from torch import Tensor

from chord.training import transformers_sampler


def same_for_all(probabilities: Tensor) -> Tensor:
    """The cumulative sum of equal shares, (R, V) -> (R, V)."""
    rows, size = probabilities.shape
    return torch.arange(1, size + 1, dtype=probabilities.dtype).expand(rows, size).contiguous()


if __name__ == "__main__":
    transformers_sampler._running_sum = same_for_all
    sys.argv.insert(1, "train")
    runpy.run_module("chord", run_name="__main__", alter_sys=True)
