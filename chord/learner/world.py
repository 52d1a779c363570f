"""The processes that train one model together: sums and gathers over ranks. One process needs no set-up."""

import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch._C._distributed_c10d import HashStore


@dataclass(frozen=True)
class World:
    """This process's place among the ranks. `size` 1 means alone, and every sum is its own term."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this rank writes files."""
        return self.rank == 0

    def sum(self, values: list[float]) -> list[float]:
        """Each value summed over ranks, in float64."""
        if self.size == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor)
        return tensor.tolist()

    def gather(self, value: Any) -> list[Any]:
        """The value of every rank, in rank order."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def from_leader(self, value: Any) -> Any:
        """The leading rank's value, on every rank."""
        return self.gather(value)[0]

    def sum_gradients(self, model: nn.Module) -> None:
        """Adds up every parameter's gradient over ranks; a rank without any sequence takes part with zeros.

        Where no rank has a gradient there is none, as in one process: zeros would let Adam move by its momentum.
        """
        if self.size == 1 or not any(self.gather(any(p.grad is not None for p in model.parameters()))):
            return
        for parameter in model.parameters():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)


def join_world(alone_too: bool = False) -> World:
    """The world that torchrun describes in the environment; alone without it.

    `alone_too`: one process is a group as well, which DeepSpeed asks for.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        if alone_too:
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
        return World()
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("cpu:gloo,cuda:nccl")  # sums of numbers go over gloo, gradients over nccl
    else:
        dist.init_process_group("gloo")
    return World(dist.get_rank(), size)


def leave_world() -> None:
    """Ends what `join_world` began, if there is anything to end."""
    if dist.is_initialized():
        dist.destroy_process_group()
