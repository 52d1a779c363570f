"""What does not fit together in a study: lengths, marks, options, columns, durations. Each line names the file."""

import difflib
from collections.abc import Iterator, Mapping, Sequence

from chord.config.artefacts import Artefact
from chord.config.benchmarks import BenchmarkTask
from chord.config.experts import Expert
from chord.config.known import known
from chord.config.messages import expected, shown
from chord.config.recipe import Arm
from chord.config.study import Study

# What the paper measures: columns of its tables that a benchmark may stand beside.
COLUMNS = ("AMC", "AIME24", "AIME25", "MATH-500", "MMLU-Pro", "BFCL", "RaR-Medicine")
MOST_DECAY = 1.0  # of weights: above it one step with a learning rate of 1 would take more than there is


def of_study(study: Study, file: str, tasks: Mapping[str, BenchmarkTask]) -> Iterator[str]:
    """What the study's own values say of each other; `tasks` are the files of its benchmarks that could be read."""
    if study.optimiser.weight_decay > MOST_DECAY:
        yield f"{file}: optimiser.weight_decay is {study.optimiser.weight_decay:g}, expected at most {MOST_DECAY:g}"
    yield from _marks(study, file)
    yield from _lengths(study, file, tasks)
    yield from _options(study, file)
    corpora = {"": study.base_corpus} | {f"other_models.{k}.": one.base_corpus for k, one in study.other_models.items()}
    for place, corpus in corpora.items():
        for key, says in corpus.recipe.unreasonable() if corpus else ():
            yield f"{file}: {place}base_corpus.recipe.{key[0]} {says}" if len(key) == 1 else f"{file}: {place}: {says}"


def of_arms(arms: Mapping[str, Arm], used: Sequence[str], budgets: Mapping[str, str]) -> Iterator[str]:
    """Values of recipes that no training can have; how long things last is asked of the arms that are `used` alone.

    `budgets` says, by dotted key of arms.yaml, which key of which study's `budget` a value comes from.
    """
    for name, arm in arms.items():
        for keys, says in arm.recipe.unreasonable() if arm.recipe else ():
            if len(keys) > 1 and name not in used:
                continue
            places = [f"{name}.recipe.{key}" for key in keys]
            origins = [budgets[place] for place in places if place in budgets]
            if not origins:
                yield f"config/arms.yaml: {places[0] if len(keys) == 1 else f'{name}.recipe:'} {says}"
            elif len(keys) == 1:
                yield f"{origins[0]} {says}; asked for in config/arms.yaml: {places[0]}"
            else:
                also = ", ".join(origin.partition(": ")[2] for origin in origins[1:])
                yield f"{origins[0]}{f', {also}' if also else ''}: {says}; asked for in config/arms.yaml: {name}.recipe"


def of_columns(study: Study, file: str, artefacts: Mapping[str, Artefact]) -> Iterator[str]:
    """Columns of the paper that none of its tables has."""
    columns = list(dict.fromkeys([*COLUMNS, *(name for one in artefacts.values() for name in one.paper.columns)]))
    for name, benchmark in study.benchmarks.items():
        where, parts = f"{file}: benchmarks.{name}", benchmark.parts
        for key, names in (
            ("paper_column", [benchmark.paper_column] if benchmark.paper_column is not None else []),
            ("other_paper_columns", benchmark.other_paper_columns),
            ("parts.columns", list(parts.columns.values()) if parts else []),
        ):
            for one in names:
                if one not in columns:
                    yield f"{where}.{key} is {shown(one)}, {expected(one, columns)}"


def _marks(study: Study, file: str) -> Iterator[str]:
    """Marks that the model cannot write."""
    alphabet = study.model.alphabet
    places = {"grading": study.grading.mark}
    places |= {f"benchmarks.{name}.grading": one.grading.mark for name, one in study.benchmarks.items() if one.grading}
    for place, mark in places.items():
        outside = sorted(set(mark or "") - set(alphabet or mark or ""))
        if outside:
            yield (
                f"{file}: {place}.mark is {shown(mark)}, expected characters of model.alphabet:"
                f" {shown(outside[0])} is no token"
            )


def _lengths(study: Study, file: str, tasks: Mapping[str, BenchmarkTask]) -> Iterator[str]:
    """Prompts and answers that are longer together than a model of the study's own, or its engine, can read."""
    prompt, response = study.rollouts.max_prompt_tokens, study.rollouts.max_response_tokens
    vllm = study.execution.vllm
    if vllm and vllm.context_tokens is not None and prompt + response > vllm.context_tokens:
        yield (
            f"{file}: execution.vllm.context_tokens is {vllm.context_tokens}, expected at least {prompt + response}:"
            " rollouts.max_prompt_tokens and max_response_tokens together"
        )
    if not study.model.architecture:
        return
    most = study.model.architecture.max_position_embeddings
    if prompt + response > most:
        yield (
            f"{file}: rollouts.max_prompt_tokens and max_response_tokens are {prompt} and {response}, expected together"
            f" at most {most}: model.architecture.max_position_embeddings"
        )
    for name, benchmark in study.benchmarks.items():
        answer = tasks[benchmark.file].generation_kwargs.max_gen_toks if benchmark.file in tasks else 0
        if prompt + answer > most:
            yield (
                f"config/benchmarks/{benchmark.file}: generation_kwargs.max_gen_toks is {answer}, expected at most"
                f" {most - prompt} for benchmarks.{name} of {file}: its model reads {most} tokens, prompt and answer"
            )


def _options(study: Study, file: str) -> Iterator[str]:
    """Options of vLLM's engine that it does not have; whether they fit is asked where it is started."""
    experts = {"expert": study.expert} | {
        f"other_experts.{k}.expert": one.expert for k, one in study.other_experts.items()
    }
    places: dict[str, Sequence[str]] = {
        f"{place}.options": _of_expert(expert) for place, expert in experts.items() if expert
    }
    places["execution.answers_options"] = list(study.execution.answers_options)
    places["execution.vllm.options"] = list(study.execution.vllm.options) if study.execution.vllm else []
    has: list[str] = known("vllm")["options"]
    version = known("vllm")["version"]
    for place, names in places.items():
        for name in names:
            if name not in has:
                near = difflib.get_close_matches(name.replace("-", "_"), has, n=1)
                yield (
                    f"{file}: {place}.{name}: found an option that vLLM {version} lacks, expected a field of its"
                    f" EngineArgs{f' (nearest: `{near[0]}`)' if near else ''}"
                )


def _of_expert(expert: Expert) -> list[str]:
    return list(expert.options) if expert.source == "served" else []
