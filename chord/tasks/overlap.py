"""Which problems of one set stand in another: how a benchmark that is trained on is found.

By the whole prompt or question, and by words in a row where questions are texts.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from chord.records import Problem
from chord.tasks.problems import problem_id

WORD = re.compile(r"\w+")
WORDS = 8  # in a row, where no filter of the task names a number; as in open-r1's decontamination


class Shared(NamedTuple):
    """The problems of a set that stand in another: as they are, and those that share words in a row with one there."""

    same: list[Problem]
    words: list[Problem]

    @property
    def all(self) -> list[Problem]:
        """Those of either kind, once each."""
        return list({problem.id: problem for problem in [*self.same, *self.words]}.values())


def shared(problems: Sequence[Problem], others: Sequence[Problem], words: int) -> Shared:
    """Which of `problems` stand among `others`, of any source; white space does not count.

    Words in a row are compared where neither is made by a generator, whose prompts share their wording by design.
    """
    keys = {key for other in others for key in _keys(other)}
    grams = Overlap([question_of(other) for other in others if _is_text(other)], words)
    same = [problem for problem in problems if keys & _keys(problem)]
    return Shared(same, [problem for problem in problems if _is_text(problem) and question_of(problem) in grams])


def question_of(problem: Problem) -> str:
    """What overlap is looked for in: the question without the text around it that all prompts of a task share."""
    return str(problem.source.get("question", problem.prompt))


def question_key(question: str) -> str:
    """The same for questions that differ in white space alone."""
    return problem_id("question", " ".join(question.split()))


def _keys(problem: Problem) -> set[str]:
    return {question_key(problem.prompt), question_key(question_of(problem))}


def _is_text(problem: Problem) -> bool:
    return "generator" not in problem.source


class Overlap:
    """The n-grams of words of some questions. Case, punctuation and layout do not count.

    A question of fewer than n words is one n-gram: it is found where it is the whole other question.
    """

    def __init__(self, questions: Iterable[str], words: int) -> None:
        self.words = words
        self._grams = {gram for question in questions for gram in self._of(question)}

    def __contains__(self, question: str) -> bool:
        return not self._grams.isdisjoint(self._of(question))

    def _of(self, question: str) -> set[int]:
        found = WORD.findall(question.casefold())
        starts = range(max(1, len(found) - self.words + 1))
        return {_hash(" ".join(found[start : start + self.words])) for start in starts} if found else set()


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), "big")
