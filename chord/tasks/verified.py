"""Sampled answers of an expert -> verified ones, the one to keep, and how much of what was asked came to something."""

import re
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from chord.records import Answer, Outcome, Problem, derive

NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class Judged:
    """One answer: what the grader says, its length in the policy's tokens, and why the policy could not write it."""

    answer: Answer
    outcome: Outcome
    tokens: int
    misfit: str | None

    @property
    def is_verified(self) -> bool:
        """Right, and within what the policy can write."""
        return self.outcome is Outcome.RIGHT and self.misfit is None


def kept(judged: Sequence[Judged], keep: Literal["best", "random"], seed: int) -> Judged | None:
    """The one answer to a problem that becomes its trace; None if none is verified.

    ours: the best is the shortest, in the policy's tokens, and of equally short ones the first. The paper does not say
    how its one trace for each problem was chosen. `random` is drawn by (seed, problem) alone.
    """
    verified = [one for one in judged if one.is_verified]
    if not verified:
        return None
    if keep == "best":
        return min(verified, key=lambda one: (one.tokens, one.answer.sample))
    return verified[derive(seed, "keep", verified[0].answer.problem) % len(verified)]


def why_none(judged: Sequence[Judged]) -> str:
    """For a problem without a trace: what stood in the way of its answers most often."""
    reasons = Counter(one.misfit if one.outcome is Outcome.RIGHT else one.outcome.value for one in judged)
    return str(min(reasons, key=lambda reason: (-reasons[reason], str(reason))))


def difficulty(problem: Problem) -> str:
    """How hard the problem is, as far as its source tells; else the length of its prompt."""
    source = problem.source
    if "difficulty" in source:
        return f"difficulty {source['difficulty']}"
    if "expression" in source and (numbers := NUMBER.findall(source["expression"])):
        return f"{len(numbers)} terms of up to {max(map(len, numbers))} digits"
    if "word" in source:
        return f"{len(source['word'])} letters"
    return f"prompts of up to {1 << (len(problem.prompt) - 1).bit_length()} characters"


def yields(judged: Mapping[str, Sequence[Judged]], problems: Sequence[Problem]) -> dict[str, Any]:
    """For each task and difficulty: problems, those with a verified answer, samples by outcome, and their lengths."""
    return {
        name: {
            "problems": len(group),
            "with_a_verified_answer": sum(any(one.is_verified for one in judged[problem.id]) for problem in group),
            **_samples([one for problem in group for one in judged[problem.id]]),
        }
        for name, group in sorted(_grouped(problems, lambda problem: f"{problem.task}: {difficulty(problem)}").items())
    }


def _samples(judged: Sequence[Judged]) -> dict[str, Any]:
    verified = [one for one in judged if one.is_verified]
    return {
        "samples": len(judged),
        "verified": len(verified),
        "yield": round(len(verified) / len(judged), 4),
        "outcomes": dict(sorted(Counter(one.outcome.value for one in judged).items())),
        "right_but_unfit": dict(
            sorted(Counter(one.misfit for one in judged if one.outcome is Outcome.RIGHT and one.misfit).items())
        ),
        "tokens": lengths([one.tokens for one in judged]),
        "tokens_of_verified": lengths([one.tokens for one in verified]),
    }


def lengths(tokens: Sequence[int]) -> dict[str, float] | None:
    """Mean, least, median and most; None of nothing."""
    if not tokens:
        return None
    middle = statistics.median_low(tokens)
    return {"mean": round(statistics.fmean(tokens), 3), "min": min(tokens), "median": middle, "max": max(tokens)}


def _grouped(problems: Sequence[Problem], key: Callable[[Problem], str]) -> dict[str, list[Problem]]:
    groups: dict[str, list[Problem]] = {}
    for problem in problems:
        groups.setdefault(key(problem), []).append(problem)
    return groups
