"""Whether two questions share words in a row: how a training problem that stands in a benchmark is found."""

import hashlib
import re
from collections.abc import Iterable

WORD = re.compile(r"\w+")


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
