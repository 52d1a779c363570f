"""Problems of a benchmark out of an installed package: BFCL's items. Knows no hub and no generator."""

from collections import Counter
from collections.abc import Mapping, Sequence

from chord.config.sets import BENCHMARK, split_of
from chord.config.study import Study
from chord.data.problems import Draw, problem_id
from chord.errors import ConfigError
from chord.grading import bfcl
from chord.records import Problem, derive

SPARE = "fits, but the set is full"


def packaged(study: Study, name: str) -> Draw:
    """The benchmark called `name`; of more items than it asks for, those whose seeded hash is lowest, in item order.

    Raises ConfigError if it is no benchmark, if the package has too few items, or if the prompt names what none has.
    """
    split = split_of(study, name)
    task, where = study.tasks[split.task], f"config/studies/{study.name}.yaml: tasks.{split.task}"
    if not name.startswith(BENCHMARK):
        raise ConfigError(
            f"{where}: found it in data.{name}, expected it in benchmarks alone: its items are a test set"
        )
    found = list(bfcl.items(_categories(task.settings, where), where))
    try:
        problems = [
            Problem(
                problem_id(split.task, f"{item['id']} {task.prompt.format_map(item)}"),
                split.task,
                task.prompt.format_map(item),
                item["answer"],
                {"package": bfcl.release(), "item": item["id"], "category": item["category"], "kind": _kind(item)},
            )
            for item in found
        ]
    except (KeyError, ValueError) as error:
        raise ConfigError(f"{where}.prompt: found {error} in braces, expected only `question` and `tools`") from None
    if len(problems) < split.size and not split.or_fewer:
        key = f"benchmarks.{name.removeprefix(BENCHMARK)}.problems.size"
        raise ConfigError(f"{where}: found {len(problems)} items, {key} asks for {split.size}; expected no more")
    return _lowest(problems, split.size, study.data.seed)


def _kind(item: Mapping[str, str]) -> str:
    """`live` for what users asked, `non-live` for what was made: the two halves of the paper's column BFCL."""
    return "live" if item["category"].startswith("live_") else "non-live"


def _categories(settings: Mapping[str, object], where: str) -> Sequence[str]:
    """The categories that a task's settings name, all of the paper's if none."""
    given = settings.get("categories", list(bfcl.CATEGORIES))
    unknown = sorted(set(settings) - {"categories"})
    if unknown or not isinstance(given, list) or not given:
        raise ConfigError(f"{where}.settings is {settings}, expected `categories`, a list of BFCL's")
    return [str(one) for one in given]


def _lowest(problems: list[Problem], size: int, seed: int) -> Draw:
    """So many of them, category by category as even as their numbers allow, in their order."""
    turn: Counter[str] = Counter()
    ranked: list[tuple[int, int, int]] = []
    for place in sorted(range(len(problems)), key=lambda at: derive(seed, "items", problems[at].id)):
        category = problems[place].source["category"]
        ranked.append((turn[category], derive(seed, "turn", category), place))
        turn[category] += 1
    kept = sorted(place for _, _, place in sorted(ranked)[:size])
    dropped = {SPARE: len(problems) - len(kept)} if len(kept) < len(problems) else {}
    return Draw([problems[place] for place in kept], dropped)
