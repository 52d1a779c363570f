"""Who writes the expert traces: a solver, a dataset, or a language model. Knows no files."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from chord.config.models import Model
from chord.settings import Count, Frozen, Minutes, Number, Share, Temperature, Text, Tokens


class ExpertScripted(Frozen):
    """A written-out solver, named as such wherever it appears."""

    source: Literal["scripted"]
    name: Text
    style: Literal["terse", "worked", "checked", "sentences"]


class ExpertPublished(Frozen):
    """Traces that stand in the dataset of the problems; of the kept ones of a problem one is drawn at random."""

    source: Literal["published"]
    name: Text


class ExpertServed(Frozen):
    """A language model that vLLM serves; of its answers to a problem that the grader finds right, one is kept.

    `replicas` and what follows say how machines are used; `options` are fields of vLLM's EngineArgs.
    """

    source: Literal["served"]
    name: Text
    model: Model
    system: str | None = None
    prompt: str = "{prompt}"
    samples_per_problem: Count
    keep: Literal["best", "random"]
    temperature: Temperature
    top_p: Share = 1.0
    max_response_tokens: Tokens
    tensor_parallel: Count = 1
    options: dict[str, Number | str | bool | list[str]] = Field(default={})
    replicas: Count = 1
    shard_size: Count = 64
    requests_at_once: Count = 64
    start_minutes: Minutes = 30.0

    @model_validator(mode="after")
    def _can_be_asked(self) -> Self:
        if self.model.source == "random":
            raise ValueError("found expert.model.source random, expected hub or package: a model that can answer")
        if self.prompt.count("{prompt}") != 1:
            raise ValueError(f"found expert.prompt '{self.prompt}', expected a text with {{prompt}} in it, once")
        return self


Expert = Annotated[ExpertScripted | ExpertPublished | ExpertServed, Field(discriminator="source")]
