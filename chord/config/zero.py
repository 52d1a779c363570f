"""How DeepSpeed divides a training among its ranks."""

from typing import Literal, Self

from pydantic import model_validator

from chord.settings import Frozen


class Zero(Frozen):
    """What DeepSpeed divides among the ranks of a training: nothing, its ZeRO stages 1 to 3. Stage 0 is without it."""

    stage: Literal[0, 1, 2, 3] = 0
    offload: Literal["none", "optimiser"] = "none"

    @model_validator(mode="after")
    def _offloads_something(self) -> Self:
        if self.stage == 0 and self.offload != "none":
            raise ValueError(f"found offload {self.offload} with stage 0, expected stage 1, 2 or 3: DeepSpeed does it")
        return self
