"""What carries a model through a step: forward, backward, update, and its whole weights when asked. N response tokens.

The step itself, its losses and counts, is in `chord.learner.gradient` and `chord.train`; they see the same numbers
whoever carries. `chord.learner.zero` is the other implementation: every rank calls each method, in the same order.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.optim import AdamW
from transformers import PreTrainedModel

from chord.config.study import Optimiser
from chord.learner.packing import Packed
from chord.learner.policy import TokenStatistics, full_weights, token_statistics
from chord.learner.world import World


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
