"""Problems of a study, from reasoning-gym: which, and that no prompt serves two purposes. Knows no answers' form.

The hash of a prompt alone says which purpose may ask it, so what one set draws depends on no other set and no size.
Its first hexadecimal digit, which a problem's id shows, is 0 or 1 for benchmarks, 2 or 3 for validation, 4 to 7 for
training, 8 or 9 for the expert set, a to f for the base corpus: the more a purpose asks for, the larger its share. The
shares are the same in every study, so a prompt has one purpose in all of them. Small tasks pay for it: of the 100 sums
of two digits some 25 are for training and 6 for their first benchmark.

reasoning-gym takes seconds to import, so it is imported where problems are drawn.
"""

import difflib
import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import count
from string import Formatter
from typing import Any

from chord.config.sets import BENCHMARK, SIXTEENTHS, any_seed, place, purpose, seed_of, sizes
from chord.config.study import Study, Task
from chord.errors import ConfigError
from chord.records import Problem
from chord.settings import derive

CHUNK = 10_000  # items drawn from one seed of reasoning-gym, whose item i is drawn from seed + i
PATIENCE = 50_000  # draws in a row without a new problem, after which a task has no more
SOLVED_FROM = ("expression", "word")  # facts that the scripted expert needs
TEMPLATE_TOKENS = 2  # the chat template of a `random` model puts one token before the prompt and one after it
SHAPES = {
    "all": re.compile(r"[\s\S]*"),
    "sums": re.compile(r"[0-9]+(\+[0-9]+)+"),
    "differences": re.compile(r"[0-9]+(-[0-9]+)+"),
}
ID_DIGITS = 12  # hexadecimal digits of a prompt's hash in a problem's id
SIXTEENTH = 16 ** (ID_DIGITS - 1)

OTHER_SHAPE = "an expression of another shape than tasks.keep"
OUTSIDE = "a character outside the alphabet"
TOO_LONG = "prompt over rollouts.max_prompt_tokens"
ELSEWHERE = "prompt belongs to another purpose"
REPEATED = "prompt already in this set"
SPARE = "fits, but the set is full"


@dataclass(frozen=True)
class Draw:
    """The problems kept for one set, how many others were dropped by why, and what else the counts say, by place."""

    problems: list[Problem]
    dropped: Counter[str]
    source: dict[str, str] = field(default_factory=dict[str, str])
    details: dict[str, Any] = field(default_factory=dict[str, Any])
    groups: dict[str, Any] = field(default_factory=dict[str, Any])

    def counts(self, name: str) -> dict[str, Any]:
        """What the set called `name` was drawn from, what was dropped and why, what was kept."""
        return {
            "set": name,
            **self.source,
            "drawn": len(self.problems) + self.dropped.total(),
            "dropped": dict(sorted(self.dropped.items())),
            **self.details,
            "kept": len(self.problems),
            "kept_by_task": dict(Counter(problem.task for problem in self.problems)),
            "distinct_prompts": len({problem.prompt for problem in self.problems}),
            **self.groups,
        }


def draw(study: Study, problems: str) -> Draw:
    """The problems of one set, task by task; see `chord.config.sets`. Raises ConfigError if a task has too few.

    Each prompt is there once, but in the base corpus again and again: small tasks are meant to repeat there.
    """
    kept, dropped = list[Problem](), Counter[str]()
    for task, size in sizes(study, problems).items():
        kept += _drawn(study, problems, task, size, dropped)
    return Draw(kept, dropped, {"generator": f"reasoning-gym {version('reasoning-gym')}"})


def owner(prompt: str) -> tuple[str, int]:
    """The one purpose that may ask this prompt, and for benchmarks the place of the one that may.

    Of the benchmarks of one task the first has half of their share, the next half of the rest, and so on: one that is
    added after them takes nothing from them.
    """
    start, number = 0, int(_hash(prompt), 16)
    for mine, sixteenths in SIXTEENTHS.items():
        share = sixteenths * SIXTEENTH
        if number < start + share:
            ones = share.bit_length() - (start + share - number - 1).bit_length() - 1  # with which the rest begins
            return mine, ones if mine == "benchmark" else 0
        start += share
    raise AssertionError(f"found {SIXTEENTHS}, expected sixteenths that add up to 16")


def _drawn(study: Study, problems: str, task: str, size: int, all_dropped: Counter[str]) -> list[Problem]:
    """`size` problems of one task; those that are not kept are added to `all_dropped`."""
    file, key = f"config/studies/{study.name}.yaml", _key(problems, task)
    mine = (purpose(problems), place(study, problems))
    kept, seen, dropped, in_a_row = list[Problem](), set[str](), Counter[str](), 0
    of_task = candidates(task, study.tasks[task], derive(seed_of(study, problems), "problems", key, task), file)
    while len(kept) < size:
        problem = next(of_task)
        reason = _unfit(study, problem)
        if reason is None and owner(problem.prompt) != mine:
            reason = ELSEWHERE
        if reason is None and problem.prompt in seen:
            reason = REPEATED
        if reason is None:
            kept.append(problem)
            in_a_row = 0
            if mine[0] != "base":
                seen.add(problem.prompt)
            continue
        dropped[reason] += 1
        in_a_row += 1
        if in_a_row == PATIENCE:
            why = ", ".join(f"{reason}: {count}" for reason, count in dropped.most_common())
            raise ConfigError(
                f"{file}: {key} asks for {size} problems of '{task}', found {len(kept)} that fit and are new,"
                f" then {PATIENCE} draws without one (dropped: {why}); expected a smaller size or a larger task"
            )
    all_dropped.update(dropped)
    return kept


def _key(problems: str, task: str) -> str:
    """Where a set stands in the study's file. It decides the seed too, so a larger expert set begins as the first."""
    if purpose(problems) == "base":
        other = any_seed(problems).removeprefix("base").lstrip("-")
        return f"{f'other_models.{other}.' if other else ''}base_corpus.parts ({task})"
    if problems.startswith(BENCHMARK):
        return f"benchmarks.{problems.removeprefix(BENCHMARK)}.problems"
    return f"data.{purpose(problems)}"


def _unfit(study: Study, problem: Problem) -> str | None:
    """Why the study cannot use this problem, whatever else it has."""
    alphabet = study.model.alphabet
    if not SHAPES[study.tasks[problem.task].keep].fullmatch(problem.source.get("expression", "")):
        return OTHER_SHAPE
    if alphabet is not None:  # one character is one token
        if not set(problem.prompt + problem.answer) <= set(alphabet):
            return OUTSIDE
        if len(problem.prompt) + TEMPLATE_TOKENS > study.rollouts.max_prompt_tokens:
            return TOO_LONG
    return None


def candidates(name: str, task: Task, seed: int, file: str) -> Iterator[Problem]:
    """Problems of `task` without end; the n-th depends on the task, `seed` and n alone.

    What a prompt may name in braces: `question`, and the facts that the generator tells of an item. An `expression` is
    written without spaces; a `word` and its reversal in small letters.
    """
    where = f"{file}: tasks.{name}"
    named = names_in(task.prompt, where)
    for chunk in count():
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


def problem_id(task: str, prompt: str) -> str:
    """The same for the same question in every study and split that asks it."""
    return f"{task}-{_hash(prompt)}"


def _hash(prompt: str) -> str:
    return hashlib.sha256(prompt.encode()).hexdigest()[:ID_DIGITS]


def _dataset(task: Task, seed: int, where: str) -> Any:
    """The reasoning-gym dataset, or ConfigError if it knows no such name or settings."""
    from reasoning_gym import factory

    gym: Any = factory
    known: list[str] = list(gym.DATASETS)
    if task.dataset not in known:
        near = difflib.get_close_matches(task.dataset, known, n=1)
        hint = f" (nearest: `{near[0]}`)" if near else ""
        raise ConfigError(f"{where}.dataset is '{task.dataset}', expected a dataset of reasoning-gym{hint}")
    try:
        return gym.create_dataset(task.dataset, seed=seed, size=CHUNK, **task.settings)
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


def names_in(prompt: str, where: str) -> set[str]:
    """What stands in braces in the text of a prompt. Raises ConfigError, with `where`, for braces that do not match."""
    try:
        return {name for _, name, _, _ in Formatter().parse(prompt) if name is not None}
    except ValueError as error:
        raise ConfigError(
            f"{where}.prompt is '{prompt}', expected names in braces, other braces doubled: {error}"
        ) from None
