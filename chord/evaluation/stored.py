"""Answers that are already there, as a model that lm-eval can ask, and their grading. Scoring needs no model."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

from lm_eval.api.instance import Instance

from chord.config.study import AnswerForm
from chord.evaluation.lm_eval_models import Generates, numbered
from chord.grading.graders import grade_all
from chord.records import Answer, Outcome


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
        return [Response.of(self.answers[place]) for place in numbered(requests)]


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
