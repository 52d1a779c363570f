"""This project's side of `benchmarks.against_peers`: `chord train` as it is, stopped between its steps.

What differs from a training: the reward is the one that all sides have, no token ends a response, and each line of
metrics waits for the next turn.
"""

import sys
from collections.abc import Mapping
from typing import Any

import torch

from benchmarks.peers.turns import Turns, reward
from chord.grading.graders import REWARDS
from chord.training import train
from chord.training.checkpoint import Logs
from chord.training.setup import SAMPLERS


def main() -> None:
    """Trains until the driver ends it."""
    turns = Turns("torch", "transformers")
    write, sampler_of = Logs.write, SAMPLERS["transformers"]

    def write_and_wait(logs: Logs, record: dict[str, Any], seconds: Mapping[str, float]) -> None:
        write(logs, record, seconds)
        turns.note(threads=torch.get_num_threads())
        if record["step"]:  # not the line before the first step
            turns.note(**{name: record[name] for name in ("loss", "rollout_tokens", "expert_tokens")})
        turns.next()

    Logs.write = write_and_wait
    REWARDS.entry(turns.job["reward"])(lambda _outcome, text: reward(text))
    SAMPLERS.entry("transformers")(lambda task, model, tokenizer, _: sampler_of(task, model, tokenizer, []))
    sys.argv = ["chord train", *turns.job["words"]]
    train.main()


if __name__ == "__main__":
    main()
