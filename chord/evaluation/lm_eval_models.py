"""Models that lm-eval can ask: a policy behind a sampler, and answers that are already there."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from chord.config.study import AnswerForm
from chord.grading.graders import grade_all
from chord.records import Answer, Outcome, derive
from chord.sampling.protocol import PromptError, Request, Sampled, Sampler

# --- harness -------------------------------------------------------------------------------------

# A policy as a model that lm-eval can ask. It knows lm-eval's requests and the sampler; not text, files or grades.


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


# --- stored --------------------------------------------------------------------------------------

# Answers that are already there, as a model that lm-eval can ask, and their grading. Scoring needs no model.


class Response(str):
    """The text of an answer, as lm-eval hands it to the grader, with how it ended: "stop" or "length"."""

    finish: str

    @classmethod
    def of(cls, answer: Answer) -> Self:
        """The answer as a response."""
        response = cls(answer.text)
        response.finish = answer.finish
        return response


class StoredAnswers(LM):
    """A model class for lm-eval that gives the stored answers: the n-th time a problem is asked, its n-th sample."""

    def __init__(self, answers: Iterable[Answer]) -> None:
        super().__init__()
        self.answers = {(answer.problem, answer.sample): answer for answer in answers}

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """A `Response` for each request, in order."""
        asked: Counter[str] = Counter()
        responses: list[str] = []
        for request in requests:
            problem = request.doc["id"]
            responses.append(Response.of(self.answers[problem, asked[problem]]))
            asked[problem] += 1
        return responses

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Not stored."""
        raise NotImplementedError("stored answers have no log-likelihoods; use a benchmark of type generate_until")

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Not stored."""
        raise NotImplementedError("stored answers have no log-likelihoods; use a benchmark of type generate_until")


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
