"""Models that lm-eval can ask: a policy behind a sampler, and answers that are already there, with their grading."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn, Self

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from chord.config.study import AnswerForm
from chord.grading.graders import grade_all
from chord.records import Answer, Outcome, derive
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
    places = [(*place, request.arguments[0]) for place, request in zip(_numbered(requests), requests, strict=True)]
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


def _numbered(requests: Iterable[Instance]) -> Iterator[tuple[str, int]]:
    """The problem of each request, and how often it was asked for before."""
    seen = Counter[str]()
    for request in requests:
        problem = request.doc["id"]
        yield problem, seen[problem]
        seen[problem] += 1


# --- stored answers ------------------------------------------------------------------------------


class Response(str):
    """The text of an answer, as lm-eval hands it to the grader, with how it ended: "stop" or "length"."""

    finish: str

    @classmethod
    def of(cls, answer: Answer) -> Self:
        """The answer as a response."""
        response = cls(answer.text)
        response.finish = answer.finish
        return response


class StoredAnswers(Generates):
    """A model class for lm-eval that gives the stored answers: the n-th time a problem is asked, its n-th sample."""

    def __init__(self, answers: Iterable[Answer]) -> None:
        super().__init__()
        self.answers = {(answer.problem, answer.sample): answer for answer in answers}

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """A `Response` for each request, in order."""
        return [Response.of(self.answers[place]) for place in _numbered(requests)]


def process_results(doc: Mapping[str, Any], results: Sequence[Sequence[Response]]) -> dict[str, Any]:
    """What lm-eval records of one problem with k answers: avg@k, pass@k, and the outcome of each answer in order."""
    form = AnswerForm.model_validate_json(doc["form"])
    outcomes = grade_all([(str(text), text.finish, doc["answer"]) for text in results[0]], form)
    right = [outcome is Outcome.RIGHT for outcome in outcomes]
    return {
        f"avg@{len(right)}": sum(right) / len(right),
        f"pass@{len(right)}": float(any(right)),
        "outcomes": [outcome.value for outcome in outcomes],
    }


def counted(outcomes: Iterable[Sequence[str]]) -> dict[str, int]:
    """How many answers had each outcome; lm-eval's aggregation over all problems."""
    counts = Counter(outcome for answers in outcomes for outcome in answers)
    return {outcome.value: counts[outcome.value] for outcome in Outcome}
