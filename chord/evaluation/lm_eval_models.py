"""Models that lm-eval can ask: a policy that samples, and answers that are already there. Knows no files, no grades."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from chord.data.prompts import as_recorded, prompt_ids
from chord.evaluation.benchmarks import Response
from chord.records import Answer, Request, Sampled, Sampler
from chord.settings import derive


@dataclass(frozen=True)
class Texts:
    """Prompts to tokens and responses to text, by a model's tokenizer and the day that prompts show."""

    tokenizer: Any
    ends: Sequence[int]
    date: str | None

    def encode(self, prompt: str) -> list[int]:
        """The tokens of the whole prompt for a user's message."""
        return prompt_ids(self.tokenizer, prompt, date=self.date)

    def decode(self, sampled: Sampled) -> str:
        """The text of a response without the token that ended it."""
        ids = sampled.ids[:-1] if sampled.finish == "stop" else sampled.ids
        return str(self.tokenizer.decode(ids, skip_special_tokens=False))

    def recorded(self, prompt: str) -> dict[str, Any]:
        """What a manifest says of them."""
        return as_recorded(self.tokenizer, self.ends, prompt, date=self.date)


class Generates(LM):
    """A model class for lm-eval that gives texts alone."""

    def loglikelihood(self, requests: list[Instance]) -> NoReturn:
        """Not offered: no benchmark here compares log-likelihoods."""
        raise NotImplementedError("found a benchmark of log-likelihoods, expected one of type generate_until")

    loglikelihood_rolling = loglikelihood


class StoredAnswers(Generates):
    """Gives the stored answers: the n-th time a problem is asked, its n-th sample."""

    def __init__(self, answers: Iterable[Answer]) -> None:
        super().__init__()
        self.answers = {(answer.problem, answer.sample): answer for answer in answers}

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """A `Response` for each request, in order."""
        return [Response.of(self.answers[place]) for place in numbered(requests)]


class Answering:
    """A model's answers to one benchmark at a time: `begin` it, ask the model through lm-eval, read `answers`.

    An answer depends on (seed, benchmark, problem, sample) and the policy alone, so it is the same in any order.
    """

    texts: Texts
    benchmark: str
    seed: int
    answers: list[Answer]

    def begin(self, benchmark: str, seed: int) -> None:
        """Be ready for the problems of one benchmark."""
        self.benchmark, self.seed, self.answers = benchmark, seed, []

    def answered(
        self, requests: Sequence[Any], sample: Callable[[list[Request], Mapping[str, Any]], Sequence[Sampled]]
    ) -> list[str]:
        """A text for each request, in order; `sample` gets lm-eval's settings with what a sampler is asked."""
        settings = requests[0].arguments[1]
        if any(request.arguments[1] != settings for request in requests):
            raise ValueError("found requests of different benchmarks together, expected one benchmark at a time")
        wanted = list[Request]()
        for (problem, number), request in zip(numbered(requests), requests, strict=True):
            seed = derive(self.seed, "evaluate", self.benchmark, problem, number)
            prompt_ids = tuple(self.texts.encode(request.arguments[0]))
            wanted.append(Request(f"{problem}#{number}", prompt_ids, seed))
        sampled = [(self.texts.decode(one), one.finish, len(one.ids)) for one in sample(wanted, settings)]
        self.answers += [
            Answer(self.benchmark, *place, request.arguments[0], *response, one.seed)
            for place, request, one, response in zip(numbered(requests), requests, wanted, sampled, strict=True)
        ]
        return [text for text, _, _ in sampled]


class PolicyModel(Answering, Generates):
    """Samples from a policy."""

    def __init__(self, sampler: Sampler, texts: Texts) -> None:
        super().__init__()
        self.sampler, self.texts = sampler, texts

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """A text for each request, in order. Raises PromptError for one that the sampler refuses."""
        return self.answered(
            requests,
            lambda wanted, settings: self.sampler.sample(wanted, settings["max_gen_toks"], settings["temperature"]),
        )


def numbered(requests: Iterable[Any]) -> Iterator[tuple[str, int]]:
    """The problem of each request, and how often it was asked for before."""
    seen = Counter[str]()
    for request in requests:
        problem = request.doc["id"]
        yield problem, seen[problem]
        seen[problem] += 1
