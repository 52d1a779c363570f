"""The processes that train one model together, and what carries the model through a step. N response tokens.

The step itself, its losses and counts, is in `chord.training.train` and `chord.training.gradient`; they see the same
numbers whether `Plain` or `Sharded` carries. Every rank calls each method, in the same order.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import HashStore
from torch.optim import AdamW
from transformers import PreTrainedModel

from chord.config.study import Optimiser
from chord.training.policy import TokenStatistics, full_weights, token_statistics

if TYPE_CHECKING:
    from chord.training.gradient import Packed
    from chord.training.sharded import Sharded

Engine: TypeAlias = "Plain | Sharded"

# --- world ---------------------------------------------------------------------------------------


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
        return [float(value) for value in tensor]

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


def join_world(alone_too: bool = False) -> World:
    """The world that torchrun describes in the environment; alone without it.

    `alone_too`: one process is a group as well, which DeepSpeed asks for.
    """
    on_gpu = torch.cuda.is_available()
    backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"  # sums of numbers go over gloo, gradients over nccl
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        if alone_too:
            dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
        return World()
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group(backend)
    return World(dist.get_rank(), dist.get_world_size())


def leave_world() -> None:
    """Ends what `join_world` began, if there is anything to end."""
    if dist.is_initialized():
        dist.destroy_process_group()


# --- engine --------------------------------------------------------------------------------------


def adam(model: PreTrainedModel, rate: float, optimiser: Optimiser) -> AdamW:
    """AdamW over all parameters of the model."""
    return AdamW(
        model.parameters(),
        lr=rate,
        betas=(optimiser.beta1, optimiser.beta2),
        eps=optimiser.epsilon,
        weight_decay=optimiser.weight_decay,
        fused=True,
    )


def set_rate(optimiser: AdamW, rate: float) -> None:
    """The learning rate of the next update."""
    for group in optimiser.param_groups:
        group["lr"] = rate


@dataclass(frozen=True)
class Plain:
    """PyTorch alone: every rank holds the whole model and adds up whole gradients."""

    model: PreTrainedModel
    optimiser: AdamW
    world: World

    @property
    def readable(self) -> PreTrainedModel:
        """A model that each rank may sample from alone; its weights are the present ones after `hand_over`."""
        return self.model

    def statistics(
        self, batch: "Packed", chunk_tokens: int, compute_dtype: torch.dtype, temperature: float
    ) -> TokenStatistics:
        """`token_statistics` of the present weights."""
        return token_statistics(self.model, batch, chunk_tokens, compute_dtype, temperature)

    def rounds(self, mine: int) -> int:
        """How many passes this rank makes where it has work for `mine`; ranks meet only after all passes."""
        return mine

    def backward(self, loss: Tensor, last: bool) -> None:
        """Adds the gradient of one pass; `last`: of the step."""
        loss.backward()

    def collect(self) -> None:
        """Ends the passes of a step: the gradient is that of all ranks.

        Where no rank has a gradient there is none, as in one process: zeros would let Adam move by its momentum.
        """
        parameters = list(self.model.parameters())
        if self.world.size == 1 or not any(self.world.gather(any(p.grad is not None for p in parameters))):
            return
        for parameter in parameters:
            if parameter.grad is None:  # of a rank without any sequence
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)

    def update(self, rate: float, max_norm: float) -> float:
        """One step of Adam; gives the norm of the gradient before it was clipped to `max_norm`, and forgets it.

        Weights change only if the norm is a finite number, and only if anything was learned from.
        """
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), max_norm))
        if math.isfinite(norm):
            set_rate(self.optimiser, rate)
            self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return norm

    def hand_over(self) -> None:
        """Brings the present weights into `readable`, where that is another model."""

    def weights(self) -> dict[str, Tensor]:
        """All parameters by name, shared ones once, on the CPU of the leading rank; nothing elsewhere."""
        if not self.world.leads:
            return {}
        return {name: weight.cpu().contiguous() for name, weight in full_weights(self.model)}

    def moments(self) -> dict[str, Tensor]:
        """Adam's state by `parameter|key`, as `weights`; empty before the first update."""
        if not self.world.leads:
            return {}
        names: dict[Tensor, str] = {parameter: name for name, parameter in self.model.named_parameters()}
        return {
            f"{names[parameter]}|{key}": value.detach().cpu().contiguous()
            for parameter, state in self.optimiser.state.items()
            for key, value in state.items()
        }

    def load_moments(self, moments: Mapping[str, Tensor]) -> None:
        """Continues from what `moments` gave, on any number of ranks."""
        parameters = dict(self.model.named_parameters())
        for name, value in moments.items():
            owner, key = name.split("|")
            parameter = parameters[owner]
            self.optimiser.state[parameter][key] = value.to(parameter.device).clone()  # steps too: Adam is fused
