"""How vLLM is used as the sampler of a training. Knows vLLM by name only."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from chord.settings import Count, Frozen, Number, Positive, Share, Tokens

ADDRESS = r"^[A-Za-z0-9.-]+:[0-9]{1,5}$"


class Vllm(Frozen):
    """The engine that samples in training, its place, and more options of vLLM by their own names."""

    placement: Literal["colocated", "server"] = "colocated"
    address: Annotated[str, Field(pattern=ADDRESS)] | None = None
    replicas: Count = 1
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    memory_share: Share | None = None
    cache_gb: Positive | None = None
    context_tokens: Tokens | None = None
    enforce_eager: bool = True
    sleep: bool = False
    batch_invariant: bool = False
    options: dict[str, Number | str | bool | list[str]] = Field(default={})

    @model_validator(mode="after")
    def _fits_its_place(self) -> Self:
        if self.placement == "colocated" and (self.address is not None or self.replicas != 1):
            raise ValueError(
                "found `address` or `replicas` with placement colocated, expected placement server:"
                " colocated, each rank has one engine of its own"
            )
        if self.placement == "server" and self.sleep:
            raise ValueError("found `sleep: true` with placement server, expected colocated: a server has its own GPUs")
        return self
