"""Which sets of problems and traces a study has, and how many problems of which task each set holds. Knows no files.

A set of problems is named `train`, `validation`, `expert`, `base` or `benchmark:NAME`; the other sets of experts and
corpora `expert-NAME` and `base-NAME`.
"""

from collections import Counter

from chord.config.messages import expected
from chord.config.study import BaseCorpus, Expert, Split, Study
from chord.settings import ConfigError

BENCHMARK = "benchmark:"
SPLITS = ("train", "validation", "expert")
# The share of all hashes of prompts, in this order, whose prompts a purpose may ask; see chord.tasks.problems.
SIXTEENTHS = {"benchmark": 2, "validation": 2, "train": 4, "expert": 2, "base": 6}


def problem_sets(study: Study) -> list[str]:
    """The names of the study's sets of problems."""
    experts = [f"expert-{name}" for name, other in study.other_experts.items() if other.problems]
    return [*SPLITS, *experts, *_corpora(study), *(f"{BENCHMARK}{name}" for name in study.benchmarks)]


def trace_sets(study: Study) -> list[str]:
    """The names of the study's sets of traces."""
    experts = ["expert", *(["aligned"] if study.data.aligned_traces else [])]
    return [*experts, *(f"expert-{name}" for name in study.other_experts), *_corpora(study)]


def corpus_of(study: Study, name: str) -> BaseCorpus:
    """What the start models that learn from the corpus `name` learn, and how."""
    corpus = study.base_corpus if name == "base" else study.other_models[name.removeprefix("base-")].base_corpus
    assert corpus is not None, f"{name} is no corpus of the study"
    return corpus


def expert_of(study: Study, traces: str) -> Expert:
    """Who writes a set of traces that is no corpus."""
    other = study.other_experts.get(traces.removeprefix("expert-")) if traces.startswith("expert-") else None
    return (other and other.expert) or study.expert


def is_published(study: Study, traces: str) -> bool:
    """Whether a set of traces stands in the dataset of its problems; corpora are always written here."""
    return purpose(traces) != "base" and expert_of(study, traces).source == "published"


def is_served(study: Study, traces: str) -> bool:
    """Whether a language model is asked for a set of traces."""
    return purpose(traces) != "base" and expert_of(study, traces).source == "served"


def answered(study: Study, traces: str) -> str:
    """The set of problems that a set of traces answers: `aligned` answers the training problems."""
    if traces == "aligned":
        return "train"
    return traces if traces in problem_sets(study) else "expert"


def purpose(problems: str) -> str:
    """What a set is for, which decides whose prompts it may ask: sets of one purpose share theirs."""
    return problems.partition(":")[0].partition("-")[0]


def _corpora(study: Study) -> list[str]:
    own = [f"base-{name}" for name, other in study.other_models.items() if other.base_corpus]
    return [*(["base"] if study.base_corpus else []), *own]


def checked(name: str, known: list[str], study: Study) -> str:
    """`name`. Raises ConfigError if the study has no such set."""
    if name not in known:
        raise ConfigError(f"config/studies/{study.name}.yaml: found no set '{name}' in it, {expected(name, known)}")
    return name


def sizes(study: Study, problems: str) -> dict[str, int]:
    """How many problems of each task a set holds, in the order in which they are drawn."""
    checked(problems, problem_sets(study), study)
    if purpose(problems) == "base":
        return task_sizes(corpus_of(study, problems))
    split = split_of(study, problems)
    return {split.task: split.size}


def split_of(study: Study, problems: str) -> Split:
    """Task and size of a set that is drawn from one task: any but corpora."""
    if problems.startswith("expert-"):
        size = study.other_experts[problems.removeprefix("expert-")].problems or study.data.expert.size
        return Split(task=study.data.expert.task, size=size)
    if problems in SPLITS:
        return getattr(study.data, problems)
    return study.benchmarks[problems.removeprefix(BENCHMARK)].problems


def source_of(study: Study, problems: str) -> str:
    """Where the problems of a set come from: `generator`, which the base corpus always has, `hub` or `package`."""
    checked(problems, problem_sets(study), study)
    return "generator" if purpose(problems) == "base" else study.tasks[split_of(study, problems).task].source


def apart_from(study: Study, problems: str) -> list[str]:
    """The sets whose prompts a set out of a hub must not have: those before it, RL taking what remains (A.2)."""
    order = ("expert", "validation", "train")
    if problems not in order or source_of(study, problems) == "generator":
        return []
    return list(order[: order.index(problems)])


def beside_benchmark(study: Study, problems: str) -> list[str]:
    """The sets with which a benchmark out of a hub or a package is compared, since it must not be trained on.

    They are those of generators. Sets out of a hub are compared with benchmarks when they are drawn themselves; and
    sets and benchmarks of generators are apart by the hash of each prompt.
    """
    if not problems.startswith(BENCHMARK) or source_of(study, problems) == "generator":
        return []
    others = [name for name in problem_sets(study) if not name.startswith(BENCHMARK)]
    return [name for name in others if source_of(study, name) == "generator"]


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
