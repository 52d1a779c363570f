"""A policy as a model that lm-eval can ask. It knows lm-eval's requests and the sampler; not text, files or grades."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from chord.records import Answer, derive
from chord.sampling.protocol import PromptError, Request, Sampled, Sampler


class UnfitPrompt(Exception):
    """A problem that the sampler refuses: its prompt is empty, or longer than the model's context allows."""


class PolicyModel(LM):
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
        settings, places, wanted = asked_of(requests, self.encode, self.benchmark, self.seed)
        try:
            sampled = self.sampler.sample(wanted, settings["max_gen_toks"], settings["temperature"])
        except PromptError as error:
            raise UnfitPrompt(str(error)) from None
        for (problem, sample, prompt), request, got in zip(places, wanted, sampled, strict=True):
            text = self.decode(got)
            self.answers.append(
                Answer(self.benchmark, problem, sample, prompt, text, got.finish, len(got.ids), request.seed)
            )
        return [answer.text for answer in self.answers[-len(requests) :]]

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Not offered: no benchmark here compares log-likelihoods."""
        raise NotImplementedError("a policy only generates here; use a benchmark of type generate_until")

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Not offered: no benchmark here compares log-likelihoods."""
        raise NotImplementedError("a policy only generates here; use a benchmark of type generate_until")


def asked_of(
    requests: list[Instance], encode: Callable[[str], Sequence[int]], benchmark: str, seed: int
) -> tuple[dict[str, Any], list[tuple[str, int, str]], list[Request]]:
    """How all are to be sampled; the problem, sample and prompt of each; and what a sampler is asked for each."""
    settings = requests[0].arguments[1]
    if any(request.arguments[1] != settings for request in requests):
        raise ValueError("found requests of different benchmarks together, expected one benchmark at a time")
    asked: Counter[str] = Counter()
    places: list[tuple[str, int, str]] = []
    wanted: list[Request] = []
    for request in requests:
        problem, prompt = request.doc["id"], request.arguments[0]
        sample = asked[problem]
        asked[problem] += 1
        places.append((problem, sample, prompt))
        own = derive(seed, "evaluate", benchmark, problem, sample)
        wanted.append(Request(f"{problem}#{sample}", tuple(encode(prompt)), own))
    return settings, places, wanted
