"""A policy as a model that lm-eval can ask. It knows lm-eval's requests and the sampler; not text, files or grades."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from chord.records import Answer, derive
from chord.sampling.protocol import PromptError, Request, Sampled, Sampler


class UnfitPrompt(Exception):
    """A problem that the sampler refuses: its prompt is empty, or longer than the model's context allows."""


class Generates(LM):
    """A model class for lm-eval that gives texts alone."""

    def loglikelihood(self, requests: list[Instance]) -> NoReturn:
        """Not offered: no benchmark here compares log-likelihoods."""
        raise NotImplementedError("found a benchmark of log-likelihoods, expected one of type generate_until")

    loglikelihood_rolling = loglikelihood


class PolicyModel(Generates):
    """A model class for lm-eval that samples from a policy and keeps every answer as a record.

    `encode` turns a user's message into the tokens of the whole prompt; `decode` gives the text of a response.
    An answer depends on (seed, benchmark, problem, sample) and the policy alone, so it is the same in any order.
    """

    def __init__(
        self,
        sampler: Sampler,
        encode: Callable[[str], Sequence[int]],
        decode: Callable[[Sampled], str],
        benchmark: str,
        seed: int,
    ) -> None:
        super().__init__()
        self.sampler, self.encode, self.decode = sampler, encode, decode
        self.benchmark, self.seed = benchmark, seed
        self.answers: list[Answer] = []

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """A text for each request, in order. Raises UnfitPrompt for one that the sampler refuses."""

        def sample(wanted: list[Request], settings: Mapping[str, Any]) -> list[Sampled]:
            return self.sampler.sample(wanted, settings["max_gen_toks"], settings["temperature"])

        answers = answers_to(requests, self.encode, sample, self.decode, self.benchmark, self.seed)
        self.answers += answers
        return [answer.text for answer in answers]


def answers_to(
    requests: Sequence[Instance],
    encode: Callable[[str], Sequence[int]],
    sample: Callable[[list[Request], Mapping[str, Any]], Sequence[Sampled]],
    decode: Callable[[Sampled], str],
    benchmark: str,
    seed: int,
) -> list[Answer]:
    """A record for each request, in order; `sample` gets lm-eval's settings with what a sampler is asked.

    Raises UnfitPrompt where `sample` raises PromptError.
    """
    settings = requests[0].arguments[1]
    if any(request.arguments[1] != settings for request in requests):
        raise ValueError("found requests of different benchmarks together, expected one benchmark at a time")
    places = [(*place, request.arguments[0]) for place, request in zip(numbered(requests), requests, strict=True)]
    wanted = [
        Request(f"{problem}#{number}", tuple(encode(prompt)), derive(seed, "evaluate", benchmark, problem, number))
        for problem, number, prompt in places
    ]
    try:
        sampled = sample(wanted, settings)
    except PromptError as error:
        raise UnfitPrompt(str(error)) from None
    return [
        Answer(benchmark, *place, decode(got), got.finish, len(got.ids), one.seed)
        for place, one, got in zip(places, wanted, sampled, strict=True)
    ]


def numbered(requests: Iterable[Instance]) -> Iterator[tuple[str, int]]:
    """The problem of each request, and how often it was asked for before."""
    seen = Counter[str]()
    for request in requests:
        problem = request.doc["id"]
        yield problem, seen[problem]
        seen[problem] += 1
