"""What a study builds: which tables and figures, why not the others, from which arms and start models."""

from collections.abc import Mapping, Sequence
from typing import Literal

from chord.config.artefacts import Artefact, Categories, Lengths, Table
from chord.config.columns import benchmark_beside, benchmarks_of
from chord.config.recipe import Arm
from chord.config.sets import corpus_of, expert_of, is_served, purpose, trace_sets
from chord.config.study import BaseCorpus, Model, Study


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


def below(names: Sequence[str], arms: Mapping[str, Arm]) -> list[str]:
    """The arms of these names, and those that they start from or choose between."""
    used, waiting = dict[str, None](), list(names)
    while waiting:
        name = waiting.pop()
        if name in arms and name not in used:
            used[name] = None
            waiting += started_from(arms[name])
    return [name for name in arms if name in used]


def started_from(arm: Arm) -> list[str]:
    """The arms, or the start model, that this one starts from or chooses between."""
    return [*(arm.choose or ()), *([arm.recipe.init] if arm.recipe else []), *([arm.same_as] if arm.same_as else [])]


def can_train(study: Study, arms: Mapping[str, Arm], name: str) -> bool:
    """Whether the study has the start models and expert sets of an arm and of all arms below it."""
    return not any(_lacking(study, arms[other]) for other in below((name,), arms))


def start_models(study: Study) -> dict[str, Model]:
    """The models that arms may start from, by name: `base`, and one `base-NAME` for each of `other_models`."""
    others = {f"base-{name}": other.model or study.model for name, other in study.other_models.items()}
    return {"base": study.model, **others}


def models_from(study: Study, source: Literal["hub", "package"]) -> dict[str, Model]:
    """The models that come from there, by their folders in models/: those that arms start from, and served experts."""
    asked = {asked_expert(study, name): expert_of(study, name) for name in trace_sets(study) if is_served(study, name)}
    experts = {name: one.model for name, one in asked.items() if one.source == "served"}
    return {name: one for name, one in {**start_models(study), **experts}.items() if one.source == source}


def asked_expert(study: Study, traces: str) -> str:
    """The folder in models/ of the model that is asked for these traces: `expert`, or `expert-NAME`."""
    other = study.other_experts.get(traces.removeprefix("expert-"))
    return traces if purpose(traces) == "expert" and other and other.expert else "expert"


def start_of(arms: Mapping[str, Arm], name: str) -> str:
    """The start model at the end of an arm's chain of starting models, `base` or `base-NAME`."""
    while name in arms:
        name = started_from(arms[name])[0]
    return name


def tested_on(study: Study) -> str:
    """The benchmark by whose scores arms with `choose_on: test` choose: the study's first."""
    return next(iter(study.benchmarks))


def trained_starts(study: Study) -> list[str]:
    """Those of `start_models` that the study trains itself."""
    return [name for name, model in start_models(study).items() if model.source == "random"]


def corpus_of_start(study: Study, start: str) -> BaseCorpus:
    """What a start model that the study trains learns, and how."""
    assert start in trained_starts(study), "only a random model is trained by the DAG"
    return corpus_of(study, corpus_name(study, start))


def corpus_name(study: Study, start: str) -> str:
    """The set of traces that a start model learns from: its own corpus, or the study's."""
    other = study.other_models.get(start.removeprefix("base-"))
    return start if other and other.base_corpus else "base"


def _lacking(study: Study, arm: Arm) -> str | None:
    """What the arm itself reads or starts from and the study does not have; a missing `aligned` is told elsewhere."""
    for start in started_from(arm):
        if start.startswith("base-") and start not in start_models(study):
            return f"the study has no other_models.{start.removeprefix('base-')}"
    traces = arm.recipe.traces if arm.recipe and arm.recipe.needs_experts else "expert"
    if traces.startswith("expert-") and traces not in trace_sets(study):
        return f"the study has no other_experts.{traces.removeprefix('expert-')}"
    return None
