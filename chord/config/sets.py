"""What a study is made of: its sets of problems and traces, its models, repositories of a hub; what can be built of it.

A set of problems is named `train`, `validation`, `expert`, `base` or `benchmark:NAME`; the other sets of experts and
corpora `expert-NAME` and `base-NAME`. Where each training seed draws its own (`data.by_seed`), the name of a set, and
of a model that is trained on one, ends in `/seed-N`: `expert/seed-3`.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import filter as matching
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import Field, TypeAdapter

from chord.config.paper import Artefact, Categories, Lengths, Table, benchmark_beside, benchmarks_of
from chord.config.reading import read_json, validated
from chord.config.study import Arm, BaseCorpus, Expert, Model, Split, Study
from chord.errors import ConfigError, expected
from chord.reach import decides_nothing
from chord.settings import Frozen, Name, derive

# --- problems and traces -------------------------------------------------------------------------

BENCHMARK = "benchmark:"
LEARNED = ("train", "aligned", "expert", "base")  # the purposes of sets that a seed may draw anew: validation is common
LARGER = "expert-"  # other expert sets: with the study's own at their head, and drawn after every other set
SPLITS = ("train", "validation", "expert")
# The share of all hashes of prompts, in this order, whose prompts a purpose may ask; see chord.data.problems.
SIXTEENTHS = {"benchmark": 2, "validation": 2, "train": 4, "expert": 2, "base": 6}


def problem_sets(study: Study) -> list[str]:
    """The names of the study's sets of problems, of any seed."""
    experts = [f"{LARGER}{name}" for name, other in study.other_experts.items() if other.problems]
    return [*SPLITS, *experts, *_corpora(study), *(f"{BENCHMARK}{name}" for name in study.benchmarks)]


def trace_sets(study: Study) -> list[str]:
    """The names of the study's sets of traces, of any seed."""
    experts = ["expert", *(["aligned"] if study.data.aligned_traces else [])]
    return [*experts, *(f"{LARGER}{name}" for name in study.other_experts), *_corpora(study)]


def _corpora(study: Study) -> list[str]:
    own = [f"base-{name}" for name, other in study.other_models.items() if other.base_corpus]
    return [*(["base"] if study.base_corpus else []), *own]


def checked(name: str, known: list[str], study: Study) -> str:
    """`name`. Raises ConfigError if the study has no such set."""
    if any_seed(name) not in known:
        raise ConfigError(f"config/studies/{study.name}.yaml: found no set '{name}' in it, {expected(name, known)}")
    return name


def of_right_seed(study: Study, name: str) -> str:
    """`name`. Raises ConfigError if it has a seed where all seeds have one set, or has none where each has its own."""
    if (name != any_seed(name)) != is_by_seed(study, name):
        wanted = any_seed(name) + ("/seed-N" if is_by_seed(study, name) else "")
        raise ConfigError(f"config/studies/{study.name}.yaml: found no set '{name}' in it, expected '{wanted}'")
    return name


def purpose(problems: str) -> str:
    """What a set is for, which decides whose prompts it may ask: sets of one purpose share theirs."""
    return any_seed(problems).partition(":")[0].partition("-")[0]


def any_seed(name: str) -> str:
    """The name of a set or a start model without its seed."""
    return name.partition("/")[0]


def is_by_seed(study: Study, name: str) -> bool:
    """Whether each training seed has a set of this name of its own."""
    return study.data.by_seed and purpose(name) in LEARNED


def of_seed(study: Study, name: str, seed: int | str) -> str:
    """The set of this name that a training with this seed reads."""
    return f"{any_seed(name)}/seed-{seed}" if is_by_seed(study, name) else name


def for_seeds(study: Study, names: Iterable[str], seeds: Iterable[int]) -> list[str]:
    """The sets of these names that trainings with these seeds read."""
    every = [*seeds]
    return [*dict.fromkeys(of_seed(study, name, seed) for name in names for seed in every)]


def seed_of(study: Study, name: str) -> int:
    """What decides the draws of a set: the seed of the study's data, and with it the set's own."""
    _, own, seed = name.partition("/seed-")
    return derive(study.data.seed, "training seed", int(seed)) if own else study.data.seed


def corpus_of(study: Study, name: str) -> BaseCorpus:
    """What the start models that learn from the corpus `name` learn, and how."""
    name = any_seed(name)
    corpus = study.base_corpus if name == "base" else study.other_models[name.removeprefix("base-")].base_corpus
    assert corpus is not None, f"{name} is no corpus of the study"
    return corpus


def expert_of(study: Study, traces: str) -> Expert:
    """Who writes a set of traces that is no corpus."""
    traces = any_seed(traces)
    other = study.other_experts.get(traces.removeprefix(LARGER)) if traces.startswith(LARGER) else None
    return (other and other.expert) or study.expert


def is_published(study: Study, traces: str) -> bool:
    """Whether a set of traces stands in the dataset of its problems; corpora are always written here."""
    return purpose(traces) != "base" and expert_of(study, traces).source == "published"


def is_served(study: Study, traces: str) -> bool:
    """Whether a language model is asked for a set of traces."""
    return purpose(traces) != "base" and expert_of(study, traces).source == "served"


def answered(study: Study, traces: str) -> str:
    """The set of problems that a set of traces answers: `aligned` answers the training problems."""
    name, of_one, seed = traces.partition("/")
    problems = "train" if name == "aligned" else name if name in problem_sets(study) else "expert"
    return problems + of_one + seed


def sizes(study: Study, problems: str) -> dict[str, int]:
    """How many problems of each task a set holds, in the order in which they are drawn."""
    checked(problems, problem_sets(study), study)
    if purpose(problems) == "base":
        return task_sizes(corpus_of(study, problems))
    split = split_of(study, problems)
    return {split.task: split.size}


def split_of(study: Study, problems: str) -> Split:
    """Task and size of a set that is drawn from one task: any but corpora."""
    problems = any_seed(problems)
    if problems.startswith(LARGER):
        own = study.data.expert
        larger = study.other_experts[problems.removeprefix(LARGER)].problems
        return own.model_copy(update={"size": larger or own.size})
    if problems in SPLITS:
        return getattr(study.data, problems)
    return study.benchmarks[problems.removeprefix(BENCHMARK)].problems


def source_of(study: Study, problems: str) -> str:
    """Where the problems of a set come from: `generator`, which the base corpus always has, `hub` or `package`."""
    checked(problems, problem_sets(study), study)
    return "generator" if purpose(problems) == "base" else study.tasks[split_of(study, problems).task].source


def apart_from(problems: str) -> list[str]:
    """The sets whose prompts a set out of a hub must not have: those before it, RL taking what remains (A.2).

    A larger expert set takes what RL left, so that the sets of the main results do not depend on it.
    """
    before = {"validation": ["expert"], "train": ["expert", "validation"]}
    return ["validation", "train"] if problems.startswith(LARGER) else before.get(problems, [])


def drawn_as(problems: str) -> str:
    """The name by which rows are put in order for a set: a larger expert set takes the expert set's first."""
    return "expert" if problems.startswith(LARGER) else problems


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


# --- models --------------------------------------------------------------------------------------


def start_models(study: Study) -> dict[str, Model]:
    """The models that arms may start from, by name: `base`, and one `base-NAME` for each of `other_models`."""
    others = {f"base-{name}": other.model or study.model for name, other in study.other_models.items()}
    return {"base": study.model, **others}


def trained_starts(study: Study) -> list[str]:
    """Those of `start_models` that the study trains itself."""
    return [name for name, model in start_models(study).items() if model.source == "random"]


def start_of_seed(study: Study, start: str, seed: int | str) -> str:
    """The start model of this name from which a training with this seed starts."""
    return of_seed(study, start, seed) if start in trained_starts(study) else start


def corpus_name(study: Study, start: str) -> str:
    """The set of traces that a start model learns from: its own corpus, or the study's; of the same seed."""
    name, of_one, seed = start.partition("/")
    other = study.other_models.get(name.removeprefix("base-"))
    return (name if other and other.base_corpus else "base") + of_one + seed


def corpus_of_start(study: Study, start: str) -> BaseCorpus:
    """What a start model that the study trains learns, and how."""
    assert any_seed(start) in trained_starts(study), "only a random model is trained by the DAG"
    return corpus_of(study, corpus_name(study, start))


def asked_expert(study: Study, traces: str) -> str:
    """The folder in models/ of the model that is asked for these traces: `expert`, or `expert-NAME`."""
    traces = any_seed(traces)
    other = study.other_experts.get(traces.removeprefix(LARGER))
    return traces if purpose(traces) == "expert" and other and other.expert else "expert"


def models_from(study: Study, source: Literal["hub", "package"]) -> dict[str, Model]:
    """The models that come from there, by their folders in models/: those that arms start from, and served experts."""
    found = start_models(study)
    for traces in trace_sets(study):
        if purpose(traces) != "base" and (expert := expert_of(study, traces)).source == "served":
            found[asked_expert(study, traces)] = expert.model
    return {name: one for name, one in found.items() if one.source == source}


def tested_on(study: Study) -> str:
    """The benchmark by whose scores arms with `choose_on: test` choose: the study's first."""
    return next(iter(study.benchmarks))


# --- what can be built ---------------------------------------------------------------------------


def started_from(arm: Arm) -> list[str]:
    """The arms, or the start model, that this one starts from or chooses between."""
    return [*(arm.choose or ()), *([arm.recipe.init] if arm.recipe else []), *([arm.same_as] if arm.same_as else [])]


def start_of(arms: Mapping[str, Arm], name: str) -> str:
    """The start model at the end of an arm's chain of starting models, `base` or `base-NAME`."""
    while name in arms:
        name = started_from(arms[name])[0]
    return name


def below(names: Sequence[str], arms: Mapping[str, Arm]) -> list[str]:
    """The arms of these names, and those that they start from or choose between."""
    used, waiting = set[str](), list(names)
    while waiting:
        name = waiting.pop()
        if name in arms and name not in used:
            used.add(name)
            waiting += started_from(arms[name])
    return [name for name in arms if name in used]


def why_not(study: Study, arms: Mapping[str, Arm], artefact: Artefact) -> str | None:
    """Why the study does not build this table or figure; None where it does."""
    if study.name in artefact.not_here:
        return artefact.not_here[study.name]
    for name in below(artefact.arms, arms):
        if lacking := _lacking(study, arms[name]):
            return f"{lacking}, which {name} needs"
    if isinstance(artefact, Categories) and not benchmark_beside(study, artefact.column):
        return f"the study has no benchmark with `categories` beside the paper's {artefact.column}"
    if isinstance(artefact, Table | Lengths) and artefact.benchmarks and not benchmarks_of(study, artefact):
        return f"the study has no benchmark beside {', '.join(artefact.benchmarks)}"
    return None


def can_train(study: Study, arms: Mapping[str, Arm], name: str) -> bool:
    """Whether the study has the start models and expert sets of an arm and of all arms below it."""
    return not any(_lacking(study, arms[other]) for other in below((name,), arms))


def _lacking(study: Study, arm: Arm) -> str | None:
    """What the arm itself reads or starts from and the study does not have; of `aligned` chord.config.checks says."""
    for start in started_from(arm):
        if start.startswith("base-") and start not in start_models(study):
            return f"the study has no other_models.{start.removeprefix('base-')}"
    traces = arm.recipe.traces if arm.recipe and arm.recipe.needs_experts else "expert"
    if traces.startswith(LARGER) and traces not in trace_sets(study):
        return f"the study has no other_experts.{traces.removeprefix(LARGER)}"
    return None


# --- repositories of a hub -----------------------------------------------------------------------

COMMIT = r"^[0-9a-f]{40}$"
# Weights as safetensors alone: no pickle, and no code of a repository, is ever fetched.
MODEL_FILES = (
    *("*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", "tokenizer.json"),
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.*", "vocab.json"),
    *("merges.txt", "LICENSE*", "USE_POLICY*"),
)


class Wanted(NamedTuple):
    """A repository that a study needs: files that match `patterns`, and at least one for each of `required`."""

    kind: Literal["model", "dataset"]
    name: str
    revision: str
    patterns: tuple[str, ...]
    required: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


class LockedFile(Frozen):
    """One file as it arrived: bytes, and their SHA-256."""

    size: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class LockedRepository(Frozen):
    """One repository at one commit. `revision` is what the study asked for when it was pinned."""

    kind: Literal["model", "dataset"]
    name: str
    revision: str
    commit: str = Field(pattern=COMMIT)
    files: dict[str, LockedFile]


class Lock(Frozen):
    """config/locks/STUDY.json: every repository that the study needs, pinned."""

    study: Name
    repositories: tuple[LockedRepository, ...]

    def find(self, wanted: Wanted) -> LockedRepository | None:
        """The pinned repository that `wanted` asks for, as far as it is the same revision and has such files."""
        for one in self.repositories:
            same = (one.kind, one.name, one.revision) == (wanted.kind, wanted.name, wanted.revision)
            if same and all(matching(one.files, pattern) for pattern in wanted.required):
                return one
        return None


def lock_path(root: Path, study: str) -> Path:
    """Where the lock file of a study is, in the project in `root`."""
    return root / "config" / "locks" / f"{study}.json"


@decides_nothing("what config/ says reaches a job as values, which its manifest records")
def read_lock(root: Path, study: str) -> Lock | None:
    """The study's lock file, or nothing where none was written yet. Raises ConfigError for a damaged one."""
    path = lock_path(root, study)
    if not path.exists():
        return None
    shown = f"config/locks/{path.name}"
    return validated(TypeAdapter(Lock), read_json(path, shown, f"a lock file of `chord fetch --study {study}`"), shown)


def repositories(study: Study) -> list[Wanted]:
    """Every repository of a hub that the study needs, each once: its models and its datasets."""
    found: dict[tuple[str, str, str], Wanted] = {}
    models = [wanted_model(model) for model in models_from(study, "hub").values()]
    for one in [*models, *(wanted_dataset(study, dataset) for dataset in study.datasets)]:
        before = found.setdefault(one[:3], one)
        both = (tuple(dict.fromkeys(old + new)) for old, new in zip(before[3:], one[3:], strict=True))
        found[one[:3]] = Wanted(*one[:3], *both)
    return list(found.values())


def wanted_model(model: Model) -> Wanted:
    """The repository of a model of a hub."""
    assert model.source == "hub" and model.revision is not None
    needed = ("*.safetensors", "config.json", "tokenizer.json")
    return Wanted("model", model.name, model.revision, MODEL_FILES, needed)


def wanted_dataset(study: Study, dataset: str) -> Wanted:
    """The repository of one of the study's datasets."""
    one = study.datasets[dataset]
    return Wanted("dataset", one.repository, one.revision, one.files, one.files)
