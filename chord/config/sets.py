"""Which sets of problems and traces a study has, and how many problems of which task each set holds. Knows no files.

A set of problems is named `train`, `validation`, `expert`, `base` or `benchmark:NAME`.
"""

from collections import Counter

from chord.config.base import ConfigError
from chord.config.messages import expected
from chord.config.study import BaseCorpus, Split, Study

BENCHMARK = "benchmark:"
SPLITS = ("train", "validation", "expert")


def problem_sets(study: Study) -> list[str]:
    """The names of the study's sets of problems."""
    base = ["base"] if study.base_corpus else []
    return [*SPLITS, *base, *(f"{BENCHMARK}{name}" for name in study.benchmarks)]


def trace_sets(study: Study) -> list[str]:
    """The names of the study's sets of traces."""
    known = {"expert": True, "aligned": study.data.aligned_traces, "base": study.base_corpus is not None}
    return [name for name, there in known.items() if there]


def answered(traces: str) -> str:
    """The set of problems that a set of traces answers: `aligned` answers the training problems."""
    return "train" if traces == "aligned" else traces


def checked(name: str, known: list[str], study: Study) -> str:
    """`name`. Raises ConfigError if the study has no such set."""
    if name not in known:
        raise ConfigError(f"config/studies/{study.name}.yaml: found no set '{name}' in it, {expected(name, known)}")
    return name


def sizes(study: Study, problems: str) -> dict[str, int]:
    """How many problems of each task a set holds, in the order in which they are drawn."""
    checked(problems, problem_sets(study), study)
    if problems == "base":
        assert study.base_corpus is not None
        return task_sizes(study.base_corpus)
    split = split_of(study, problems)
    return {split.task: split.size}


def split_of(study: Study, problems: str) -> Split:
    """Task and size of a set that is drawn from one task: any but `base`."""
    if problems in SPLITS:
        return getattr(study.data, problems)
    return study.benchmarks[problems.removeprefix(BENCHMARK)].problems


def source_of(study: Study, problems: str) -> str:
    """Where the problems of a set come from: `generator`, which the base corpus always has, `hub` or `package`."""
    checked(problems, problem_sets(study), study)
    return "generator" if problems == "base" else study.tasks[split_of(study, problems).task].source


def apart_from(study: Study, problems: str) -> list[str]:
    """The sets whose prompts a set out of a hub must not have: those before it, RL taking what remains (A.2)."""
    order = ("expert", "validation", "train")
    if problems not in order or source_of(study, problems) == "generator":
        return []
    return list(order[: order.index(problems)])


def place(study: Study, problems: str) -> int:
    """How many benchmarks of the same task stand before this one in the study's file; 0 for what is no benchmark."""
    name = problems.removeprefix(BENCHMARK)
    if name == problems:
        return 0
    task = study.benchmarks[name].problems.task
    return [key for key, one in study.benchmarks.items() if one.problems.task == task].index(name)


def part_sizes(corpus: BaseCorpus) -> list[int]:
    """How many texts each part has; they add up to `corpus.size`; the largest remainders are rounded up."""
    exact = [part.share * corpus.size for part in corpus.parts]
    whole = [int(value) for value in exact]
    by_remainder = sorted(range(len(exact)), key=lambda index: (whole[index] - exact[index], index))
    for index in by_remainder[: corpus.size - sum(whole)]:
        whole[index] += 1
    return whole


def task_sizes(corpus: BaseCorpus) -> dict[str, int]:
    """How many problems of each task the parts need together, in the order in which the parts name them."""
    needed: Counter[str] = Counter()
    for part, size in zip(corpus.parts, part_sizes(corpus), strict=True):
        needed[part.task] += size
    return dict(needed)
