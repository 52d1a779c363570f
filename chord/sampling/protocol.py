"""What a sampler is: prompts as tokens in, responses as tokens out. It knows neither text nor rewards."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol


class PromptError(ValueError):
    """A prompt that cannot be answered: empty, or too long for the model's context; the message names it."""


class StaleSampler(Exception):
    """The sampler does not compute with the learner's weights; the message says which differ."""


class Request(NamedTuple):
    """One response that is wanted. Its seed alone decides the random numbers, whatever else is in the batch."""

    id: str
    prompt_ids: tuple[int, ...]
    seed: int


@dataclass(frozen=True)
class Sampled:
    """A response; `logp` in nats at the sampling temperature. With `finish` "stop" the last id is an end token."""

    ids: list[int]
    logp: list[float]
    finish: str  # "stop" or "length"


def check_prompts(requests: Sequence[Request], max_tokens: int, context: int) -> None:
    """Raises PromptError for a prompt that is empty, or after which a response of `max_tokens` may not fit."""
    for request in requests:
        if not 0 < len(request.prompt_ids) <= context - max_tokens:
            raise PromptError(
                f"{request.id}: found a prompt of {len(request.prompt_ids)} tokens, expected 1 to"
                f" {context - max_tokens} (context {context} less {max_tokens} for the response)"
            )


class Sampler(Protocol):
    """Anything that samples responses from the policy's present weights."""

    def sample(self, requests: Sequence[Request], max_tokens: int, temperature: float) -> list[Sampled]:
        """One response for each request, in order. Raises PromptError for an empty or over-long prompt."""
        ...
