"""What all configuration records are made of: the frozen base, kinds of numbers and names, and the error."""

import hashlib
from collections.abc import Iterator
from typing import Annotated, Self, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

T = TypeVar("T")
NAME = r"^[a-z0-9][a-z0-9.+-]*$"

# Upper bounds are far above all that makes sense, so that a slip of the unit or of a key is told and nothing else is.
MOST = 10**9  # things, numbers without a bound of their own: more than any dataset, budget or price here
Fraction = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, le=1)]
Below1 = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0, le=MOST)]
NotNegative = Annotated[float, Field(ge=0, le=MOST)]
Small = Annotated[float, Field(gt=0, le=1)]  # what is added, clipped or decayed: above 1 it would be all there is
Count = Annotated[int, Field(ge=1, le=MOST)]
CountOrNone = Annotated[int, Field(ge=0, le=MOST)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # what NumPy takes
Steps = Annotated[int, Field(ge=1, le=10**6)]  # the paper's longest training has 1,500
StepsOrNone = Annotated[int, Field(ge=0, le=10**6)]
Tokens = Annotated[int, Field(ge=1, le=10**7)]  # no model reads more at a time
Temperature = Annotated[float, Field(ge=0.01, le=10)]  # vLLM raises what is lower to 0.01; at 10 all tokens are alike
Minutes = Annotated[float, Field(gt=0, le=60 * 24 * 7)]
Text = Annotated[str, Field(min_length=1)]
Number = int | float
Name = Annotated[str, Field(pattern=NAME)]
Names = Annotated[tuple[Name, ...], Field(min_length=1)]
Raw: TypeAlias = "dict[str, Raw] | list[Raw] | str | int | float | bool | None"  # what YAML and JSON can say


class Frozen(BaseModel):
    """Base of every configuration record: immutable, strict about keys and types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def _wrong(self) -> Iterator[str]:
        """What is wrong with the values together, each as found and expected; the first of these is raised."""
        yield from ()

    @model_validator(mode="after")
    def _is_right(self) -> Self:
        for message in self._wrong():
            raise ValueError(message)
        return self


def default(value: T, description: str) -> T:
    """A field that need not be given."""
    return Field(default=value, description=description)


def quiet(value: T, description: str) -> T:
    """The same, left out of what is written while it has its default, so that old results still hold."""
    return Field(default=value, exclude_if=lambda given: given == value, description=description)


def derive(seed: int, purpose: str, *items: int | str) -> int:
    """A 64-bit seed for one draw; equal arguments give equal seeds on every machine and Python version.

    Every random draw has a seed of its own. There is no global generator.
    """
    text = "\x1f".join([str(seed), purpose, *map(str, items)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
