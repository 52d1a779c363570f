"""What carries a model through a step: forward, backward, update, and its whole weights when asked. N response tokens.

The step itself, its losses and counts, is in `chord.training.gradient` and `chord train`; they see the same numbers
whoever carries. `chord.training.sharded` is the other implementation: every rank calls each method, in the same order.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import HashStore
from torch.optim import AdamW
from transformers import PreTrainedModel

from chord.config.study import Optimiser
from chord.training.batch import Packed
from chord.training.policy import TokenStatistics, full_weights, token_statistics

# --- world ---------------------------------------------------------------------------------------

# The processes that train one model together: sums and gathers over ranks. One process needs no set-up.


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


# --- engine --------------------------------------------------------------------------------------


class Engine(Protocol):
    """One model in training on all ranks. `model` has the names and sizes, and not always the weights."""

    @property
    def model(self) -> PreTrainedModel:
        """The model that learns."""
        ...

    @property
    def world(self) -> World:
        """The ranks that it learns on."""
        ...

    @property
    def readable(self) -> PreTrainedModel:
        """A model that each rank may sample from alone; its weights are the present ones after `hand_over`."""
        ...

    def statistics(
        self, batch: Packed, chunk_tokens: int, compute_dtype: torch.dtype, temperature: float
    ) -> TokenStatistics:
        """`token_statistics` of the present weights."""
        ...

    def rounds(self, mine: int) -> int:
        """How many passes this rank has to make where it has work for `mine`; the others are idle ones."""
        ...

    def backward(self, loss: Tensor, last: bool) -> None:
        """Adds the gradient of one pass; `last`: of the step."""
        ...

    def collect(self) -> None:
        """Ends the passes of a step: the gradient is that of all ranks."""
        ...

    def update(self, rate: float, max_norm: float) -> float:
        """One step of Adam; gives the norm of the gradient before it was clipped to `max_norm`, and forgets it.

        Weights change only if the norm is a finite number, and only if anything was learned from.
        """
        ...

    def hand_over(self) -> None:
        """Brings the present weights into `readable`."""
        ...

    def weights(self) -> dict[str, Tensor]:
        """All parameters by name, shared ones once, on the CPU of the leading rank; nothing elsewhere."""
        ...

    def moments(self) -> dict[str, Tensor]:
        """Adam's state by `parameter|key`, as `weights`; empty before the first update."""
        ...

    def load_moments(self, moments: Mapping[str, Tensor]) -> None:
        """Continues from what `moments` gave, on any number of ranks."""
        ...


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
        """The very model that learns."""
        return self.model

    def statistics(
        self, batch: Packed, chunk_tokens: int, compute_dtype: torch.dtype, temperature: float
    ) -> TokenStatistics:
        """See Engine."""
        return token_statistics(self.model, batch, chunk_tokens, compute_dtype, temperature)

    def rounds(self, mine: int) -> int:
        """Ranks meet only when all passes are made."""
        return mine

    def backward(self, loss: Tensor, last: bool) -> None:
        """See Engine."""
        loss.backward()

    def collect(self) -> None:
        """See Engine."""
        self.world.sum_gradients(self.model)

    def update(self, rate: float, max_norm: float) -> float:
        """See Engine."""
        norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), max_norm))
        if math.isfinite(norm):
            set_rate(self.optimiser, rate)
            self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return norm

    def hand_over(self) -> None:
        """Nothing to do."""

    def weights(self) -> dict[str, Tensor]:
        """See Engine."""
        if not self.world.leads:
            return {}
        return {name: weight.cpu().contiguous() for name, weight in full_weights(self.model)}

    def moments(self) -> dict[str, Tensor]:
        """See Engine."""
        if not self.world.leads:
            return {}
        names: dict[Tensor, str] = {parameter: name for name, parameter in self.model.named_parameters()}
        return {
            f"{names[parameter]}|{key}": value.detach().cpu().contiguous()
            for parameter, state in self.optimiser.state.items()
            for key, value in state.items()
        }

    def load_moments(self, moments: Mapping[str, Tensor]) -> None:
        """See Engine."""
        parameters = dict(self.model.named_parameters())
        for name, value in moments.items():
            owner, key = name.split("|")
            parameter = parameters[owner]
            self.optimiser.state[parameter][key] = value.to(parameter.device).clone()  # steps too: Adam is fused
