"""Problems of a study, from reasoning-gym: which, and that no prompt serves two purposes. Knows no answers' form.

reasoning-gym takes seconds to import, so it is imported where problems are drawn.
"""

import difflib
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from string import Formatter
from typing import Any

from chord.config import ConfigError, Split, Study, Task
from chord.records import Problem
from chord.seeds import derive
from chord.tasks.corpus import task_sizes

CHUNK = 10_000  # items drawn from one seed of reasoning-gym, whose item i is drawn from seed + i
PATIENCE = 50_000  # draws in a row without a new problem, after which a task has no more
SOLVED_FROM = ("expression", "word")  # facts that the scripted expert needs
TEMPLATE_TOKENS = 2  # the chat template of a `random` model puts one token before the prompt and one after it
SHAPES = {
    "all": re.compile(r"[\s\S]*"),
    "sums": re.compile(r"[0-9]+(\+[0-9]+)+"),
    "differences": re.compile(r"[0-9]+(-[0-9]+)+"),
}

OTHER_SHAPE = "an expression of another shape than tasks.keep"
OUTSIDE = "a character outside the alphabet"
TOO_LONG = "prompt over rollouts.max_prompt_tokens"
ELSEWHERE = "prompt already in another split or benchmark"
REPEATED = "prompt already in this split"


@dataclass(frozen=True)
class Draw:
    """The problems kept for one purpose, and why others were not: `drawn` is kept plus dropped."""

    problems: list[Problem]
    dropped: dict[str, int]

    @property
    def drawn(self) -> int:
        """How many items the generator was asked for."""
        return len(self.problems) + sum(self.dropped.values())


class Pool:
    """Problems of one study. No prompt is given out for two purposes; within a split each prompt is there once."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.taken: set[str] = set()

    def split(self, where: str, split: Split) -> Draw:
        """`split.size` problems, different from each other and from all that were given out before.

        `where` is the key in the study's file: it decides the seed and is named when the task has too few problems.
        """
        mine: set[str] = set()

        def repeated(prompt: str) -> str | None:
            if prompt in mine:
                return REPEATED
            if prompt in self.taken:
                return ELSEWHERE
            mine.add(prompt)
            return None

        draw = self._draw(where, split.task, split.size, repeated)
        self.taken |= mine
        return draw

    def corpus(self) -> Draw:
        """Problems of the base corpus, task by task; a prompt may come again, but none of a split or benchmark does.

        Call it after the splits. Small tasks are meant to repeat: there are only 100 sums of two digits.
        """
        assert self.study.base_corpus is not None, "only a random model has a base corpus"
        problems: list[Problem] = []
        dropped: Counter[str] = Counter()
        for task, size in task_sizes(self.study.base_corpus).items():
            where = f"base_corpus.parts ({task})"
            draw = self._draw(where, task, size, lambda prompt: ELSEWHERE if prompt in self.taken else None)
            problems += draw.problems
            dropped.update(draw.dropped)
        return Draw(problems, dict(dropped))

    def _draw(self, where: str, name: str, size: int, repeated: Callable[[str], str | None]) -> Draw:
        file = f"config/studies/{self.study.name}.yaml"
        kept: list[Problem] = []
        dropped: Counter[str] = Counter()
        in_a_row = 0
        if size == 0:
            return Draw(kept, {})
        for problem in candidates(
            name, self.study.tasks[name], derive(self.study.data.seed, "problems", where, name), file
        ):
            reason = self._unfit(problem) or repeated(problem.prompt)
            if reason is None:
                kept.append(problem)
                in_a_row = 0
                if len(kept) == size:
                    break
                continue
            dropped[reason] += 1
            in_a_row += 1
            if in_a_row == PATIENCE:
                why = ", ".join(f"{reason}: {count}" for reason, count in dropped.most_common())
                raise ConfigError(
                    f"{file}: {where} asks for {size} problems of '{name}', found {len(kept)} that fit and are new,"
                    f" then {PATIENCE} draws without one (dropped: {why}); expected a smaller size or a larger task"
                )
        return Draw(kept, dict(dropped))

    def _unfit(self, problem: Problem) -> str | None:
        """Why the study cannot use this problem, whatever else it has."""
        model = self.study.model
        if not SHAPES[self.study.tasks[problem.task].keep].fullmatch(problem.source.get("expression", "")):
            return OTHER_SHAPE
        if model.alphabet is not None:  # one character is one token
            if not set(problem.prompt + problem.answer) <= set(model.alphabet):
                return OUTSIDE
            if len(problem.prompt) + TEMPLATE_TOKENS > self.study.rollouts.max_prompt_tokens:
                return TOO_LONG
        return None


def candidates(name: str, task: Task, seed: int, file: str) -> Iterator[Problem]:
    """Problems of `task` without end; the n-th depends on the task, `seed` and n alone.

    What a prompt may name in braces: `question`, and the facts that the generator tells of an item. An `expression` is
    written without spaces; a `word` and its reversal in small letters.
    """
    where = f"{file}: tasks.{name}"
    named = _named(task.prompt, where)
    chunk = 0
    while True:
        start = derive(seed, "chunk", chunk) % 2**31
        dataset = _dataset(task, start, where)
        for index in range(CHUNK):
            facts, answer = _facts(task.dataset, dataset[index])
            if not named <= facts.keys():
                raise ConfigError(
                    f"{where}.prompt is '{task.prompt}', expected a text with only these in braces: {', '.join(facts)}"
                )
            prompt = task.prompt.format_map(facts)
            source = {"generator": "reasoning-gym", "dataset": task.dataset, "seed": start, "index": index}
            source |= {key: facts[key] for key in SOLVED_FROM if key in facts}
            yield Problem(id=problem_id(name, prompt), task=name, prompt=prompt, answer=answer, source=source)
        chunk += 1


def problem_id(task: str, prompt: str) -> str:
    """The same for the same question in every study and split that asks it."""
    return f"{task}-{hashlib.sha256(prompt.encode()).hexdigest()[:12]}"


def _dataset(task: Task, seed: int, where: str) -> Any:
    """The reasoning-gym dataset, or ConfigError if it knows no such name or settings."""
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    if task.dataset not in DATASETS:
        near = difflib.get_close_matches(task.dataset, DATASETS, n=1)
        hint = f" (nearest: `{near[0]}`)" if near else ""
        raise ConfigError(f"{where}.dataset is '{task.dataset}', expected a dataset of reasoning-gym{hint}")
    try:
        return reasoning_gym.create_dataset(task.dataset, seed=seed, size=CHUNK, **task.settings)
    except (TypeError, AssertionError, ValueError) as error:
        raise ConfigError(
            f"{where}.settings is {task.settings}, expected settings of {task.dataset}: {error}"
        ) from None


def _facts(dataset: str, item: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """What a prompt may name, and the answer."""
    facts, answer = item["metadata"], str(item["answer"])
    facts["question"] = item["question"]
    if "expression" in facts:
        facts["expression"] = facts["expression"].replace(" ", "")
    if dataset == "spell_backward":
        facts["word"], answer = facts["word"].lower(), answer.lower()
    return facts, answer


def _named(prompt: str, where: str) -> set[str]:
    """What stands in braces in the text of a prompt."""
    try:
        return {name for _, name, _, _ in Formatter().parse(prompt) if name is not None}
    except ValueError as error:
        raise ConfigError(
            f"{where}.prompt is '{prompt}', expected names in braces, other braces doubled: {error}"
        ) from None
