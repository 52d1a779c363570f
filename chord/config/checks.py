"""What only several parts of config/ together can say: names, ranges and fits that no job may meet later."""

import difflib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from string import Formatter
from typing import Any

from chord.config.benchmarks import BenchmarkTask, known
from chord.config.paper import (
    NOT_PUBLISHED,
    Against,
    Artefact,
    Cells,
    Choice,
    Claims,
    Elsewhere,
    Figure,
    Lengths,
    Table,
    Tabled,
)
from chord.config.reading import expected, shown
from chord.config.recipe import Arm
from chord.config.sets import (
    BENCHMARK,
    SIXTEENTHS,
    place,
    problem_sets,
    purpose,
    sizes,
    source_of,
    started_from,
    why_not,
)
from chord.config.study import OF_GENERATIONS, Benchmark, Planning, Study, Task

# --- limits --------------------------------------------------------------------------------------

# What the paper measures: columns of its tables that a benchmark may stand beside.
COLUMNS = ("AMC", "AIME24", "AIME25", "MATH-500", "MMLU-Pro", "BFCL", "RaR-Medicine")
MOST_DECAY = 1.0  # of weights: above it one step with a learning rate of 1 would take more than there is


def of_study(study: Study, file: str, tasks: Mapping[str, BenchmarkTask]) -> Iterator[str]:
    """What the study's own values say of each other; `tasks` are the files of its benchmarks that could be read."""
    if study.optimiser.weight_decay > MOST_DECAY:
        yield f"{file}: optimiser.weight_decay is {study.optimiser.weight_decay:g}, expected at most {MOST_DECAY:g}"
    alphabet = study.model.alphabet
    forms = {f"benchmarks.{name}.grading": one.grading for name, one in study.benchmarks.items() if one.grading}
    for where, form in {"grading": study.grading.form, **forms}.items():
        if alphabet and (outside := sorted(set(form.mark or "") - set(alphabet))):
            want = f"expected characters of model.alphabet: {shown(outside[0])} is no token"
            yield f"{file}: {where}.mark is {shown(form.mark)}, {want}"
    yield from _lengths(study, file, tasks)
    yield from _options(study, file)
    corpora = {"": study.base_corpus} | {f"other_models.{k}.": one.base_corpus for k, one in study.other_models.items()}
    for where, corpus in corpora.items():
        for key, says in corpus.recipe.unreasonable() if corpus else ():
            yield f"{file}: {where}base_corpus.recipe.{key[0]} {says}" if len(key) == 1 else f"{file}: {where}: {says}"


def of_arms(arms: Mapping[str, Arm], used: Sequence[str], budgets: Mapping[str, str]) -> Iterator[str]:
    """Values of recipes that no training can have; how long things last is asked of the arms that are `used` alone.

    `budgets` says, by dotted key of arms.yaml, which key of which study's `budget` a value comes from.
    """
    for name, arm in arms.items():
        for keys, says in arm.recipe.unreasonable() if arm.recipe else ():
            if len(keys) > 1 and name not in used:
                continue
            place, sign = f"config/arms.yaml: {name}.recipe", ":" if len(keys) > 1 else ""
            place += "" if sign else f".{' '.join(keys)}"
            first, *others = [budgets[key] for one in keys if (key := f"{name}.recipe.{one}") in budgets] or [place]
            where = ", ".join([first, *(one.partition(": ")[2] for one in others)])
            yield f"{where}{sign} {says}" + (f"; asked for in {place}" if first != place else "")


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


def _lengths(study: Study, file: str, tasks: Mapping[str, BenchmarkTask]) -> Iterator[str]:
    """Prompts and answers that are longer together than a model of the study's own, or its engine, can read."""
    prompt, response, vllm = study.rollouts.max_prompt_tokens, study.rollouts.max_response_tokens, study.execution.vllm
    names = "rollouts.max_prompt_tokens and max_response_tokens"
    if vllm and vllm.context_tokens is not None and prompt + response > vllm.context_tokens:
        want = f"expected at least {prompt + response}: {names} together"
        yield f"{file}: execution.vllm.context_tokens is {vllm.context_tokens}, {want}"
    if not study.model.architecture:
        return
    most = study.model.architecture.max_position_embeddings
    if prompt + response > most:
        want = f"expected together at most {most}: model.architecture.max_position_embeddings"
        yield f"{file}: {names} are {prompt} and {response}, {want}"
    for name, benchmark in study.benchmarks.items():
        answer = tasks[benchmark.file].generation_kwargs.max_gen_toks if benchmark.file in tasks else 0
        if prompt + answer > most:
            yield (
                f"config/benchmarks/{benchmark.file}: generation_kwargs.max_gen_toks is {answer}, expected at most"
                f" {most - prompt} for benchmarks.{name} of {file}: its model reads {most} tokens, prompt and answer"
            )


def _options(study: Study, file: str) -> Iterator[str]:
    """Options of vLLM's engine that it does not have; whether they fit is asked where it is started."""
    experts = {"expert": study.expert}
    experts |= {f"other_experts.{k}.expert": one.expert for k, one in study.other_experts.items() if one.expert}
    places = {f"{where}.options": [*one.options] for where, one in experts.items() if one.source == "served"}
    places["execution.answers_options"] = [*study.execution.answers_options]
    places["execution.vllm.options"] = [*study.execution.vllm.options] if study.execution.vllm else []
    has: Mapping[str, Any] = known("vllm")
    for where, names in places.items():
        for name in names:
            if name not in has["options"]:
                want = f"expected a field of its EngineArgs{_near(name.replace('-', '_'), has['options'])}"
                yield f"{file}: {where}.{name}: found an option that vLLM {has['version']} lacks, {want}"


def _near(name: str, names: Iterable[str]) -> str:
    """The nearest of very many names, as a hint."""
    near = difflib.get_close_matches(name, list(names), n=1)
    return f" (nearest: `{near[0]}`)" if near else ""


# --- tasks ---------------------------------------------------------------------------------------

# By kind of a setting: types of its values, and what they are called.
OF_KIND: dict[str, tuple[tuple[type, ...], str]] = {
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "bool": ((bool,), "true or false"),
    "str": ((str,), "text"),
    "list": ((list,), "a list of texts"),
}
OF_PACKAGE = ("question", "tools")  # what an item of BFCL tells of itself
PLENTY = 10**12  # more problems than any set asks for: nobody needs to count further
# Facts of which an item has no more than it has questions; a prompt with others could differ where questions do not.
COUNTED = {"question", "expression", "word", "word_len", "numbers", "result", "num_terms", "num_digits"}
DEVIATIONS = 4  # standard deviations by which the hashes of prompts may favour a purpose; beyond, a set is too large


def _task(study: Study, task: Task, where: str) -> Iterator[str]:
    """Names, settings and words in braces that do not exist."""
    facts: list[str] = list(OF_PACKAGE)
    if task.source == "generator":
        generators: Mapping[str, Any] = known("generators")
        if task.dataset not in generators:
            hint = _near(task.dataset, generators)
            yield f"{where}.dataset is '{task.dataset}', expected a dataset of reasoning-gym{hint}"
            return
        yield from _settings(task, generators[task.dataset]["settings"], f"{where}.settings")
        facts = generators[task.dataset]["facts"]
        if task.keep != "all" and "expression" not in facts:
            yield f"{where}.keep is '{task.keep}', expected `all`: {task.dataset} has no sums and no differences"
    elif task.source == "package":
        yield from _categories(task, where)
    elif task.dataset in study.datasets:
        facts = list(study.datasets[task.dataset].columns)
    yield from _prompt(study, task, facts, f"{where}.prompt")


def _settings(task: Task, settings: Mapping[str, Any], where: str) -> Iterator[str]:
    """Settings that the generator does not have, or not of this kind or size; `min_x` above `max_x`."""
    for key, value in task.settings.items():
        if key not in settings:
            yield f"{where}.{key} is not a setting of {task.dataset}, {expected(key, settings)}"
            continue
        kind, _, least = settings[key]
        if kind and (type(value) not in OF_KIND[kind][0]):
            yield f"{where}.{key} is {shown(value)}, expected {OF_KIND[kind][1]}"
        elif least is not None and not isinstance(value, str | list) and value < least:
            yield f"{where}.{key} is {shown(value)}, expected at least {least}"
    for key in settings:
        low, high = (_set(task, settings, name) for name in (key, f"max_{key.removeprefix('min_')}"))
        if key.startswith("min_") and isinstance(low, int | float) and isinstance(high, int | float) and low > high:
            yield f"{where}: found {key} {low} above max_{key.removeprefix('min_')} {high}, expected at most that"


def _set(task: Task, settings: Mapping[str, Any], key: str) -> Any:
    """The value of a setting, its default where it is not given; None for one that there is not."""
    return task.settings.get(key, settings[key][1]) if key in settings else None


def _categories(task: Task, where: str) -> Iterator[str]:
    items = known("bfcl")
    for key in task.settings:
        if key != "categories":
            yield f"{where}.settings.{key} is not a setting of bfcl, expected `categories`"
    given = task.settings.get("categories", list(items))
    if not isinstance(given, list) or not given:
        yield f"{where}.settings.categories is {shown(given)}, expected a list of BFCL's"
        return
    for one in dict.fromkeys(given):
        if one not in items:
            yield f"{where}.settings.categories: found category '{one}', {expected(one, items)}"
    yield from _names(given, given, f"{where}.settings.categories")


def _prompt(study: Study, task: Task, facts: list[str], where: str) -> Iterator[str]:
    """Words in braces that no problem has, a text that is the same for all, characters that the model cannot read."""
    try:
        parts = list(Formatter().parse(task.prompt))
    except ValueError as error:
        yield f"{where} is {shown(task.prompt)}, expected names in braces, other braces doubled: {error}"
        return
    names = [name for _, name, _, _ in parts if name is not None]
    for name in names:
        if name not in facts:
            yield f"{where} has {{{name}}} in braces, {expected(name, facts)}"
    if any(form or how for _, _, form, how in parts):
        yield f"{where} is {shown(task.prompt)}, expected names alone in braces, without `:` and `!`"
    if not names:
        yield f"{where} is {shown(task.prompt)}, expected a name in braces: else all problems have one prompt"
    alphabet = study.model.alphabet
    text = "".join(literal for literal, *_ in parts)
    if alphabet is not None and (outside := sorted(set(text) - set(alphabet))):
        yield f"{where} has {shown(outside[0])}, expected characters of model.alphabet: others are no tokens"


def _too_many(study: Study, file: str, read: Collection[str]) -> Iterator[str]:
    """A set of more problems than there are, or than its purpose has; a base corpus may ask each again and again."""
    for problems in problem_sets(study):
        if "-" in problems.partition(":")[0] and problems not in read:
            continue
        source, key = source_of(study, problems), _key(problems)
        for name, size in sizes(study, problems).items():
            task, benchmark = study.tasks[name], study.benchmarks.get(problems.removeprefix(BENCHMARK))
            if source == "package" and benchmark is not None and not benchmark.problems.or_fewer:
                items = known("bfcl")
                given = task.settings.get("categories", list(items))
                there = sum(items[one] for one in given) if isinstance(given, list) else 0
                if size > there:
                    yield f"{file}: tasks.{name}: found {there} items, {key}.size asks for {size}; expected no more"
            there = distinct(task) if source == task.source == "generator" else None
            if there is None:
                continue
            halvings = place(study, problems) + 1 if purpose(problems) == "benchmark" else 0
            share = SIXTEENTHS[purpose(problems)] / 16 / 2**halvings
            mine = there * share
            most = mine + DEVIATIONS * (mine * (1 - share)) ** 0.5
            if size > most and (purpose(problems) != "base" or there == 0):
                found = f"found {there} of which about {mine:.0f} are for it, expected a smaller size or a larger task"
                yield f"{file}: {key} asks for {size} problems of '{name}', {found}"


def _key(problems: str) -> str:
    """Where the size of a set stands in the study's file."""
    kind, _, name = problems.partition(":")
    if kind == "benchmark":
        return f"benchmarks.{name}.problems"
    before, _, after = problems.partition("-")
    if before == "expert" and after:
        return f"other_experts.{after}.problems"
    return f"data.{problems}" if before != "base" else f"other_models.{after}.base_corpus" if after else "base_corpus"


def distinct(task: Task) -> int | None:
    """An upper bound of the different prompts of a task; None where nobody has counted, or for more than PLENTY."""
    count = {"chain_sum": _sums, "lcm": _tuples, "spell_backward": _words}.get(task.dataset)
    names = {name for _, name, _, _ in Formatter().parse(task.prompt) if name is not None}
    if count is None or not names <= COUNTED:
        return None
    settings = known("generators")[task.dataset]["settings"]
    found = count(task, {key: _set(task, settings, key) for key in settings})
    return None if found is None or found > PLENTY else found


def _sums(task: Task, given: Mapping[str, Any]) -> int | None:
    """Terms of one item have the same number of digits; 0 is one digit; signs are free unless `keep` decides them."""
    total = 0
    if max(given["min_terms"], given["min_digits"]) > 12:
        return None  # 9^13 and 10^13 are more than PLENTY
    for digits in range(given["min_digits"], min(given["max_digits"], 12) + 1):
        values = 10 if digits == 1 else 9 * 10 ** (digits - 1)
        values = 2 * 10**digits - 1 if given["allow_negation"] else values
        for terms in range(given["min_terms"], min(given["max_terms"], 12) + 1):
            signs = 2 ** (terms - 1) if task.keep == "all" else int(terms > 1)
            total += values**terms * signs
    return total if max(given["max_terms"], given["max_digits"]) <= 12 else None


def _tuples(task: Task, given: Mapping[str, Any]) -> int | None:
    values = given["max_value"] - given["min_value"] + 1
    if given["max_numbers"] > 40 and values > 1:
        return None
    return sum(values**numbers for numbers in range(given["min_numbers"], given["max_numbers"] + 1))


def _words(task: Task, given: Mapping[str, Any]) -> int | None:
    if "data_file" in task.settings:
        return None
    least, most = given["min_word_len"], given["max_word_len"]
    return sum(count for length, count in known("words").items() if least <= int(length) <= most)


# --- checks --------------------------------------------------------------------------------------

STUDIES = ("demo", "small", "math", "tools")  # those of the project; a copy of it may hold fewer


def crossed(
    study: Study, arms: Mapping[str, Arm], artefacts: Mapping[str, Artefact], choice: Choice, root: Path
) -> Iterator[str]:
    """Every such problem of what is to be built, one line each: file, key, found, expected."""
    for name, arm in arms.items():
        yield from _arm(name, arm, arms)
    used = {name for key in choice.artefacts if key in artefacts for name in artefacts[key].arms}
    yield from _data(study, {name: arm for name, arm in arms.items() if name in used})
    yield from _names(choice.artefacts, artefacts, "config/config.yaml: artefacts")
    yield from _names(choice.seeds or (), choice.seeds or (), "config/config.yaml: seeds")
    for key in choice.artefacts:
        if key in artefacts and (reason := why_not(study, arms, artefacts[key])):
            found = f"'{key}', which study {study.name} does not build ({reason})"
            yield f"config/config.yaml: artefacts names {found}, expected others"
    known = sorted({*STUDIES, *(path.stem for path in (root / "config" / "studies").glob("*.yaml"))})
    for key, artefact in artefacts.items():
        yield from _artefact(key, artefact, study, arms)
        yield from _names(tuple(artefact.not_here), known, f"config/experiments/{key}.yaml: not_here")


def alone(study: Study, name: str, root: Path, built: Sequence[Arm]) -> Iterator[str]:
    """Every such problem of the study in `name`.yaml; `built` are the arms of what is to be built, in any study."""
    file = f"config/studies/{name}.yaml"
    if study.name != name:
        yield f"{file}: name is '{study.name}', expected '{name}', the name of the file"
    have = sorted(path.name for path in (root / "config" / "benchmarks").glob("*.yaml"))
    for name, benchmark in study.benchmarks.items():
        if benchmark.file not in have:
            yield f"{file}: benchmarks.{name}.file is '{benchmark.file}', {expected(benchmark.file, have)}"
    for name, other in study.other_models.items():
        model, where = other.model or study.model, f"{file}: other_models.{name}"
        if (model.source == "random") != bool(other.base_corpus or (other.model and study.base_corpus)):
            yield f"{where} has source {model.source}, expected a corpus, its own or the study's, with random alone"
        if model.alphabet != study.model.alphabet:
            yield f"{where}.model has another alphabet, expected the study's: both answer the same prompts"
    for name, task in study.tasks.items():
        if task.source == "hub":
            yield from _hub_task(study, f"{file}: tasks.{name}", task)
    for name, benchmark in study.benchmarks.items():
        yield from _benchmark(study, f"{file}: benchmarks.{name}", benchmark)
    yield from _sources(study, file)
    # Other expert sets and corpora than the study's own are counted where an arm to be built reads them.
    read = {one for arm in built for one in (*started_from(arm), *([arm.recipe.traces] if arm.recipe else []))}
    found = [line for name, task in study.tasks.items() for line in _task(study, task, f"{file}: tasks.{name}")]
    yield from found or _too_many(study, file, read)


def misnamed(claims: Claims, arms: Mapping[str, Arm], root: Path) -> Iterator[str]:
    """Arms, studies and columns of claims that do not exist, one line each."""
    studies = sorted(path.stem for path in (root / "config" / "studies").glob("*.yaml"))
    for claim in claims.claims:
        where, rule = f"config/claims.yaml: {claim.id}", claim.rule
        if not isinstance(rule, Elsewhere):
            yield from _names([rule.arm], arms, f"{where}.rule.arm")
            yield from _names(rule.against if isinstance(rule, Against) else (), arms, f"{where}.rule.against")
        if isinstance(rule, Cells):
            yield from _names(rule.columns, COLUMNS, f"{where}.rule.columns")
        yield from _names(claim.studies or (), studies, f"{where}.studies")


def unplanned(planning: Planning, arms: Mapping[str, Arm], studies: Sequence[str]) -> Iterator[str]:
    """Arms, studies and models of planning.yaml that do not exist, one line each."""
    file = "config/planning.yaml"
    known = sorted({*STUDIES, *studies})
    for name, lengths in planning.lengths.items():
        yield from _names([name], known, f"{file}: lengths")
        yield from _names(list(lengths.arms), arms, f"{file}: lengths.{name}.arms")
    for name, one in planning.unbuilt.items():
        yield from _names([one.study], known, f"{file}: unbuilt.{name}.study")
        yield from _names(one.arms, arms, f"{file}: unbuilt.{name}.arms")
        yield from _names(list(one.lengths.arms), arms, f"{file}: unbuilt.{name}.lengths.arms")
        yield from _names([one.model], planning.models, f"{file}: unbuilt.{name}.model")
        if one.judge:
            yield from _names([one.judge.model], planning.models, f"{file}: unbuilt.{name}.judge.model")


def _sources(study: Study, file: str) -> Iterator[str]:
    """Sets and traces that cannot come from where the study says."""
    parts = {name: study.tasks[getattr(study.data, name).task] for name in ("train", "validation", "expert")}
    sources = {name: task.source for name, task in parts.items()}
    if "package" in sources.values():
        name = next(name for name, source in sources.items() if source == "package")
        yield f"{file}: data.{name} has a task of source package, expected it in benchmarks alone: it is a test set"
        return
    if len(set(sources.values())) > 1:
        yield f"{file}: data has tasks of sources {sources}, expected one source: else sets could share a prompt"
        return
    fitting = {"scripted": "generator", "published": "hub"}.get(study.expert.source)
    if fitting and fitting != sources["expert"]:
        found = f"{study.expert.source} and the problems are of source {sources['expert']}"
        yield f"{file}: expert.source is {found}, expected problems of source {fitting}"
    elif fitting == "hub":
        answered = ["expert", *(["train"] if study.data.aligned_traces else [])]
        for task in dict.fromkeys(getattr(study.data, name).task for name in answered):
            filters = study.tasks[task].filters
            if not (filters and filters.generations):
                why = "with expert.source published each of its problems must have a trace"
                yield f"{file}: tasks.{task}.filters.generations is not given, expected at least 1: {why}"


def _benchmark(study: Study, place: str, benchmark: Benchmark) -> Iterator[str]:
    """BFCL's items have answers that no other grader reads, and its grader reads no other answers."""
    grader = (benchmark.grading or study.grading.form).grader
    source = study.tasks[benchmark.problems.task].source
    if (grader == "bfcl") != (source == "package"):
        wanted = "grading.grader bfcl" if source == "package" else "problems of source package with it"
        yield f"{place} has problems of source {source} and grader {grader}, expected {wanted}"
    task = study.tasks[benchmark.problems.task]
    columns = study.datasets[task.dataset].columns if task.source == "hub" and task.dataset in study.datasets else None
    if columns is not None and benchmark.categories and benchmark.categories not in columns:
        yield f"{place}.categories is '{benchmark.categories}', {expected(benchmark.categories, columns)}"


def _hub_task(study: Study, place: str, task: Task) -> Iterator[str]:
    if task.dataset not in study.datasets:
        yield f"{place}.dataset is '{task.dataset}', {expected(task.dataset, study.datasets)}"
        return
    lacking = [name for name in OF_GENERATIONS if name not in study.datasets[task.dataset].columns]
    if task.filters and task.filters.generations and lacking:
        found = f"asks for verified ones and datasets.{task.dataset}.columns has no `{lacking[0]}`"
        yield f"{place}.filters.generations {found}, expected the columns of {' and '.join(OF_GENERATIONS)}"


def _arm(name: str, arm: Arm, arms: Mapping[str, Arm]) -> Iterator[str]:
    file = "config/arms.yaml"
    trained = [key for key, other in arms.items() if other.recipe]
    if arm.choose:
        yield from _names(arm.choose, trained, f"{file}: {name}.choose")
        for key in arm.choose:
            recipe = arms[key].recipe if key in arms else None
            if recipe and recipe.keep != "every":
                want = "expected an arm that keeps the weights of `every` validation"
                yield f"{file}: {name}.choose names '{key}', which keeps {recipe.keep}, {want}"
    start = arm.recipe.init if arm.recipe else "base"
    if arm.recipe and start.partition("-")[0] != "base" and start not in (k for k in arms if not arms[k].same_as):
        known = ["base", *(key for key in arms if key != name and not arms[key].same_as)]
        yield f"{file}: {name}.recipe.init is '{arm.recipe.init}', {expected(arm.recipe.init, known)}"
    if circle := _circle(name, arms):
        key = "recipe.init" if arm.recipe else "choose"
        yield f"{file}: {name}.{key} starts from itself ({' -> '.join(circle)}), expected a chain that ends at base"


def _circle(start: str, arms: Mapping[str, Arm]) -> list[str] | None:
    """The chain of starting models that leads from `start` back to it, if there is one."""
    chains, seen = [[start]], set[str]()
    while chains:
        chain = chains.pop()
        arm = arms.get(chain[-1])
        for following in (arm.choose or (arm.recipe and [arm.recipe.init]) or ()) if arm else ():
            if following == start:
                return [*chain, following]
            if following not in seen:
                chains.append([*chain, following])
                seen.add(following)
    return None


def _data(study: Study, used: Mapping[str, Arm]) -> Iterator[str]:
    """What the arms to be built need of the study and do not get."""
    file = f"config/studies/{study.name}.yaml"
    groups = [name for name, arm in used.items() if arm.recipe and arm.recipe.needs_rollouts]
    if groups and study.rollouts.per_prompt < 2:
        why = f"the rollouts of one prompt are compared with each other by {', '.join(groups)}"
        yield f"{file}: rollouts.per_prompt is {study.rollouts.per_prompt}, expected at least 2: {why}"
    aligned = [name for name, arm in used.items() if arm.recipe and arm.recipe.traces == "aligned"]
    if aligned and not study.data.aligned_traces:
        why = f"{', '.join(aligned)} need expert traces of the training prompts themselves"
        yield f"{file}: data.aligned_traces is false, expected true: {why}"


def _artefact(key: str, artefact: Artefact, study: Study, arms: Mapping[str, Arm]) -> Iterator[str]:
    file = f"config/experiments/{key}.yaml"
    if not re.fullmatch(r"[a-z][a-z0-9]*", key):
        yield f"{file}: found a file of this name, expected small letters and digits: it is what is typed to build it"
    if key in ("all", "claims"):
        yield f"{file}: found a file of this name, expected another: `snakemake {key}` builds something else"
    yield from _names(artefact.arms, arms, f"{file}: arms")
    if isinstance(artefact, Figure):
        for name in artefact.arms:
            if name in arms and arms[name].same_as:
                yield f"{file}: arms names '{name}', expected arms that are trained: only those have curves"
    if isinstance(artefact, Table | Lengths):
        yield from _names(artefact.benchmarks or (), (*COLUMNS, *study.benchmarks), f"{file}: benchmarks")
    # An arm without a row is none of the paper's: whoever adds one of their own has nothing to say of the paper.
    for row, cells in artefact.paper.rows.items() if isinstance(artefact, Tabled) else ():
        near = difflib.get_close_matches(row, arms, n=1, cutoff=0.8)
        if row not in arms and near:
            yield f"{file}: paper.cells has a row '{row}', expected `{near[0]}` (nearest) or another arm"
        if isinstance(cells, dict):
            yield from _lacks(cells, artefact.paper.columns, f"{file}: paper.cells.{row}")
    if isinstance(artefact, Lengths):
        yield from _lacks(artefact.expert, artefact.paper.columns, f"{file}: expert")


def _lacks(cells: Mapping[str, object], wanted: Sequence[str], where: str) -> Iterator[str]:
    for key in wanted:
        if key not in cells:
            yield f"{where} has no '{key}', expected the paper's number or `{NOT_PUBLISHED}`"


def _names(names: Sequence[object], known: Collection[object], where: str) -> Iterator[str]:
    """Those that are not known, and those that stand there more than once."""
    for name in dict.fromkeys(names):
        if name not in known:
            yield f"{where} names '{name}', {expected(str(name), known)}"
        if names.count(name) > 1:
            yield f"{where} has '{name}' {names.count(name)} times, expected once"
