"""How the base corpus is divided: so many texts a part, in an order of its own. Knows no generator and no solver."""

from collections import defaultdict
from collections.abc import Sequence

from chord.config.sets import part_sizes, task_sizes
from chord.config.study import BaseCorpus, CorpusPart
from chord.records import Problem, derive


def divided(corpus: BaseCorpus, problems: Sequence[Problem]) -> list[tuple[CorpusPart, Problem]]:
    """Every problem with the part whose text it becomes. Raises ValueError if a task has too few or too many."""
    waiting: defaultdict[str, list[Problem]] = defaultdict(list)
    for problem in problems:
        waiting[problem.task].append(problem)
    found = {task: len(of_task) for task, of_task in waiting.items()}
    needed = {task: size for task, size in task_sizes(corpus).items() if size}
    if found != needed:
        raise ValueError(f"found {found}, expected {needed} problems")
    rows: list[tuple[CorpusPart, Problem]] = []
    for part, size in zip(corpus.parts, part_sizes(corpus), strict=True):
        rows += [(part, problem) for problem in waiting[part.task][:size]]
        del waiting[part.task][:size]
    return rows


def shuffled(count: int, seed: int) -> list[int]:
    """The numbers below `count` in an order decided by `seed` alone, the same in every version of Python."""
    return sorted(range(count), key=lambda index: derive(seed, "base corpus order", index))
