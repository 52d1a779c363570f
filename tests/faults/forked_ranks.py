"""`python -m tests.faults.forked_ranks [--load PACKAGE] MODULE ...`: two ranks of a module under torchrun's own agent.

What torchrun does, but that the ranks are forks of this process instead of two more Pythons that load torch again.
"""

import gc
import importlib
import os
import runpy
import sys

import torch
from torch.distributed.launcher.api import LaunchConfig, elastic_launch


def rank(module: str, arguments: list[str]) -> None:
    """The module as the main program of one rank."""
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def main() -> None:
    """Starts the ranks and waits for them; raises ChildFailedError, which names the first that failed."""
    words = sys.argv[1:]
    if words[0] == "--load":
        if not torch.cuda.is_available():
            os.environ.setdefault("DS_ACCELERATOR", "cpu")  # as chord.training.sharded does before it loads DeepSpeed
        importlib.import_module(words[1])
        words = words[2:]
    gc.freeze()  # DeepSpeed collects garbage at each start: not again in every rank what this process has loaded
    here = {"min_nodes": 1, "max_nodes": 1, "rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0"}
    how = LaunchConfig(nproc_per_node=2, max_restarts=0, start_method="fork", **here)
    elastic_launch(how, rank)(words[0], words[1:])


if __name__ == "__main__":
    main()
