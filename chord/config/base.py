"""What all configuration records are made of: the frozen base, kinds of numbers and names, and the error."""

from typing import Annotated, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

NAME = r"^[a-z0-9][a-z0-9.+-]*$"

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
CountOrNone = Annotated[int, Field(ge=0)]
Number = int | float
Name = Annotated[str, Field(pattern=NAME)]
Raw: TypeAlias = "dict[str, Raw] | list[Raw] | str | int | float | bool | None"  # what YAML and JSON can say


class ConfigError(Exception):
    """One or more things in `config/` that cannot be run; the message lists all of them, one a line."""


class Frozen(BaseModel):
    """Base of every configuration record: immutable, strict about keys and types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
