"""Checks that need more than one record of config/: names that must exist, sizes that must fit.

Each yields one message per problem: key, found, expected. `of_study` and `of_needs` leave out the name of the file.
"""

import difflib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from string import Formatter
from typing import Any

from chord.config import paper, sets
from chord.config.benchmarks import BenchmarkTask, known
from chord.config.reading import shown
from chord.config.study import OF_GENERATIONS, Arm, Planning, Study, Task
from chord.errors import expected

ARMS = "config/arms.yaml"
STUDIES = ("demo", "small", "math", "tools")  # those of the project; a copy of it may hold fewer
# What the paper measures: columns of its tables that a benchmark may stand beside.
COLUMNS = ("AMC", "AIME24", "AIME25", "MATH-500", "MMLU-Pro", "BFCL", "RaR-Medicine")
MOST_DECAY = 1.0  # of weights: above it one step with a learning rate of 1 would take more than there is


def _one_of(where: str, name: str | None, names: Iterable[str]) -> Iterator[str]:
    """A message where a name is given and is none of the known ones."""
    if name is not None and name not in (among := list(names)):
        yield f"{where} is '{name}', {expected(name, among)}"


def each_of(where: str, found: Iterable[object], names: Collection[object]) -> Iterator[str]:
    """A message for each unknown name, and for each name that is given more than once."""
    listed = list(found)
    for name in dict.fromkeys(listed):
        if name not in names:
            yield f"{where} names '{name}', {expected(str(name), names)}"
        if listed.count(name) > 1:
            yield f"{where} has '{name}' {listed.count(name)} times, expected once"


def _near(name: str, names: Iterable[str]) -> str:
    """The nearest of very many names, as a hint."""
    near = difflib.get_close_matches(name, list(names), n=1)
    return f" (nearest: `{near[0]}`)" if near else ""


# --- a study -------------------------------------------------------------------------------------


def of_study(
    study: Study, name: str, tasks: Mapping[str, BenchmarkTask | None], columns: Iterable[str], built: Sequence[Arm]
) -> Iterator[str]:
    """What is wrong in `name`.yaml.

    `tasks` are the files of config/benchmarks, as far as they could be read; `columns` those of the paper's tables;
    `built` the arms of what is to be built.
    """
    if study.name != name:
        yield f"name is '{study.name}', expected '{name}', the name of the file"
    if study.optimiser.weight_decay > MOST_DECAY:
        yield f"optimiser.weight_decay is {study.optimiser.weight_decay:g}, expected at most {MOST_DECAY:g}"
    for where, corpus in study.corpora.items():
        for keys, says in corpus.recipe.unreasonable():
            yield f"{where}.recipe.{keys[0]} {says}" if len(keys) == 1 else f"{where}.recipe: {says}"
    for key, other in study.other_models.items():
        model, where = other.model or study.model, f"other_models.{key}"
        if (model.source == "random") != bool(other.base_corpus or (other.model and study.base_corpus)):
            yield f"{where} has source {model.source}, expected a corpus, its own or the study's, with random alone"
        if model.alphabet != study.model.alphabet:
            yield f"{where}.model has another alphabet, expected the study's: both answer the same prompts"
    forms = {f"benchmarks.{key}.grading": one.grading for key, one in study.benchmarks.items() if one.grading}
    for where, form in {"grading": study.grading, **forms}.items():
        yield from _unreadable(study, f"{where}.mark", form.mark or "")
    yield from _benchmarks(study, tasks, list(dict.fromkeys([*COLUMNS, *columns])))
    yield from _lengths(study, tasks)
    yield from _options(study)
    yield from _sources(study)
    found = [line for key, task in study.tasks.items() for line in _task(study, task, f"tasks.{key}")]
    # Other expert sets and corpora than the study's own are counted where an arm to be built reads them.
    read = {one for arm in built for one in (*sets.started_from(arm), *([arm.recipe.traces] if arm.recipe else []))}
    yield from found or _too_many(study, read)


def _unreadable(study: Study, where: str, text: str) -> Iterator[str]:
    alphabet = study.model.alphabet
    if alphabet is not None and (outside := sorted(set(text) - set(alphabet))):
        yield f"{where} has {shown(outside[0])}, expected characters of model.alphabet: others are no tokens"


def _benchmarks(study: Study, tasks: Collection[str], of_paper: Sequence[str]) -> Iterator[str]:
    for name, benchmark in study.benchmarks.items():
        where, task = f"benchmarks.{name}", study.tasks[benchmark.problems.task]
        yield from _one_of(f"{where}.file", benchmark.file, sorted(tasks))
        beside = {"paper_column": benchmark.paper_columns[:1]} if benchmark.paper_column is not None else {}
        beside |= {"other_paper_columns": benchmark.other_paper_columns}
        beside |= {"parts.columns": tuple(benchmark.parts.columns.values())} if benchmark.parts else {}
        for key, found in beside.items():
            for column in found:
                yield from _one_of(f"{where}.{key}", column, of_paper)
        grader = study.form_of(name).grader
        if (grader == "bfcl") != (task.source == "package"):  # its items have answers that no other grader reads
            wanted = "grading.grader bfcl" if task.source == "package" else "problems of source package with it"
            yield f"{where} has problems of source {task.source} and grader {grader}, expected {wanted}"
        if task.source == "hub" and task.dataset in study.datasets:
            yield from _one_of(
                f"{where}.categories", benchmark.categories or None, study.datasets[task.dataset].columns
            )


def _lengths(study: Study, tasks: Mapping[str, BenchmarkTask | None]) -> Iterator[str]:
    """Prompts and answers that are longer together than a model of the study's own, or its engine, can read."""
    prompt, response, vllm = study.rollouts.max_prompt_tokens, study.rollouts.max_response_tokens, study.execution.vllm
    names = "rollouts.max_prompt_tokens and max_response_tokens"
    if vllm and vllm.context_tokens is not None and prompt + response > vllm.context_tokens:
        want = f"expected at least {prompt + response}: {names} together"
        yield f"execution.vllm.context_tokens is {vllm.context_tokens}, {want}"
    if not study.model.architecture:
        return
    most = study.model.architecture.max_position_embeddings
    if prompt + response > most:
        want = f"expected together at most {most}: model.architecture.max_position_embeddings"
        yield f"{names} are {prompt} and {response}, {want}"
    for name, benchmark in study.benchmarks.items():
        asked = tasks.get(benchmark.file)
        answer = asked.generation_kwargs.max_gen_toks if asked else 0
        if prompt + answer > most:
            found = f"config/benchmarks/{benchmark.file}: generation_kwargs.max_gen_toks of {answer}"
            want = f"expected at most {most - prompt}: the model reads {most} tokens, prompt and answer"
            yield f"benchmarks.{name} has in {found}, {want}"


def _options(study: Study) -> Iterator[str]:
    """Options of vLLM's engine that it does not have; whether they fit is asked where it is started."""
    experts = {f"other_experts.{key}.expert": one.expert for key, one in study.other_experts.items() if one.expert}
    experts |= {"expert": study.expert}
    places = {f"{where}.options": one.options for where, one in experts.items() if one.source == "served"}
    places["execution.answers_options"] = study.execution.answers_options
    places["execution.vllm.options"] = study.execution.vllm.options if study.execution.vllm else {}
    version, names = known("vllm")["version"], known("vllm")["options"]
    for where, options in places.items():
        for name in options:
            if name not in names:
                want = f"expected a field of its EngineArgs{_near(name.replace('-', '_'), names)}"
                yield f"{where}.{name}: found an option that vLLM {version} lacks, {want}"


def _sources(study: Study) -> Iterator[str]:
    """Sets and traces that cannot come from where the study says."""
    sources = {name: study.tasks[sets.split_of(study, name).task].source for name in sets.SPLITS}
    if of_package := [name for name, source in sources.items() if source == "package"]:
        yield f"data.{of_package[0]} has a task of source package, expected it in benchmarks alone: it is a test set"
        return
    if len(set(sources.values())) > 1:
        yield f"data has tasks of sources {sources}, expected one source: else sets could share a prompt"
        return
    if study.data.by_seed:
        wanted = "expected problems of generators alone: they do not run out"
        outside = [key for key, one in study.benchmarks.items() if study.tasks[one.problems.task].source != "generator"]
        if sources["expert"] != "generator":
            yield f"data.by_seed is true and the problems are of source {sources['expert']}, {wanted}"
        if outside:
            yield f"data.by_seed is true and benchmark {outside[0]} is not of a generator, {wanted}"
    fitting = {"scripted": "generator", "published": "hub"}.get(study.expert.source)
    if fitting and fitting != sources["expert"]:
        found = f"{study.expert.source} and the problems are of source {sources['expert']}"
        yield f"expert.source is {found}, expected problems of source {fitting}"
    elif fitting == "hub":
        answered = ["expert", *(["train"] if study.data.aligned_traces else [])]
        for task in dict.fromkeys(sets.split_of(study, name).task for name in answered):
            filters = study.tasks[task].filters
            if not (filters and filters.generations):
                why = "with expert.source published each of its problems must have a trace"
                yield f"tasks.{task}.filters.generations is not given, expected at least 1: {why}"


# --- tasks ---------------------------------------------------------------------------------------

# By kind of a setting: types of its values, and what they are called.
OF_KIND: dict[str, tuple[tuple[type, ...], str]] = {
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "bool": ((bool,), "true or false"),
    "str": ((str,), "text"),
    "list": ((list,), "a list of texts"),
}
OF_PACKAGE = ["question", "tools"]  # what an item of BFCL tells of itself
PLENTY = 10**12  # more problems than any set asks for: nobody needs to count further
# Facts of which an item has no more than it has questions; a prompt with others could differ where questions do not.
COUNTED = {"question", "expression", "word", "word_len", "numbers", "result", "num_terms", "num_digits"}
DEVIATIONS = 4  # standard deviations by which the hashes of prompts may favor a purpose; beyond, a set is too large


def _task(study: Study, task: Task, where: str) -> Iterator[str]:
    """Names, settings and words in braces that do not exist."""
    facts = OF_PACKAGE
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
        yield from _categories(task, f"{where}.settings")
    else:
        yield from _one_of(f"{where}.dataset", task.dataset, study.datasets)
        if task.dataset not in study.datasets:
            return
        facts = list(study.datasets[task.dataset].columns)
        lacking = [name for name in OF_GENERATIONS if name not in facts]
        if task.filters and task.filters.generations and lacking:
            found = f"asks for verified ones and datasets.{task.dataset}.columns has no `{lacking[0]}`"
            yield f"{where}.filters.generations {found}, expected the columns of {' and '.join(OF_GENERATIONS)}"
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
    values = {key: task.settings.get(key, default) for key, (_, default, _) in settings.items()}
    for key, low in values.items():
        other = f"max_{key.removeprefix('min_')}"
        high = values.get(other)
        if key.startswith("min_") and isinstance(low, int | float) and isinstance(high, int | float) and low > high:
            yield f"{where}: found {key} {low} above {other} {high}, expected at most that"


def _categories(task: Task, where: str) -> Iterator[str]:
    items = known("bfcl")
    for key in task.settings:
        if key != "categories":
            yield f"{where}.{key} is not a setting of bfcl, expected `categories`"
    given = task.settings.get("categories", list(items))
    if isinstance(given, list) and given:
        yield from each_of(f"{where}.categories", given, items)
    else:
        yield f"{where}.categories is {shown(given)}, expected a list of BFCL's"


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
    yield from _unreadable(study, where, "".join(literal for literal, *_ in parts))


def _too_many(study: Study, read: Collection[str]) -> Iterator[str]:
    """A set of more problems than there are, or than its purpose has; a base corpus may ask each again and again."""
    for problems in sets.problem_sets(study):
        if "-" in problems.partition(":")[0] and problems not in read:
            continue
        key, kind = _key(problems), sets.purpose(problems)
        for name, size in sets.sizes(study, problems).items():
            task = study.tasks[name]
            if task.source == "package" and kind == "benchmark" and not sets.split_of(study, problems).or_fewer:
                items = known("bfcl")
                given = task.settings.get("categories", list(items))
                there = sum(items[one] for one in given) if isinstance(given, list) else 0
                if size > there:
                    yield f"tasks.{name}: found {there} items, {key}.size asks for {size}; expected no more"
            if task.source != "generator" or (there := distinct(task)) is None:
                continue
            halvings = sets.place(study, problems) + 1 if kind == "benchmark" else 0
            share = sets.SIXTEENTHS[kind] / 16 / 2**halvings
            mine = there * share
            most = mine + DEVIATIONS * (mine * (1 - share)) ** 0.5
            if size > most and (kind != "base" or there == 0):
                found = f"found {there} of which about {mine:.0f} are for it, expected a smaller size or a larger task"
                yield f"{key} asks for {size} problems of '{name}', {found}"


def _key(problems: str) -> str:
    """Where the size of a set stands in the study's file."""
    kind, _, name = problems.replace(":", "-", 1).partition("-")
    if not name:
        return "base_corpus" if kind == "base" else f"data.{kind}"
    keys = {"benchmark": f"benchmarks.{name}.problems", "expert": f"other_experts.{name}.problems"}
    return keys.get(kind, f"other_models.{name}.base_corpus")


def distinct(task: Task) -> int | None:
    """An upper bound of the different prompts of a task; None where nobody has counted, or for more than PLENTY."""
    count = {"chain_sum": _sums, "lcm": _tuples, "spell_backward": _words}.get(task.dataset)
    names = {name for _, name, _, _ in Formatter().parse(task.prompt) if name is not None}
    if count is None or not names <= COUNTED:
        return None
    settings = known("generators")[task.dataset]["settings"]
    found = count(task, {key: task.settings.get(key, default) for key, (_, default, _) in settings.items()})
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


# --- arms ----------------------------------------------------------------------------------------


def of_recipes(arms: Mapping[str, Arm], used: Collection[str], budgets: Mapping[str, str]) -> Iterator[str]:
    """Values of recipes that no training can have; how long things last is asked of the arms that are `used` alone.

    `budgets` says, by dotted key of arms.yaml, which key of which study's `budget` a value comes from.
    """
    for name, arm in arms.items():
        for keys, says in arm.recipe.unreasonable() if arm.recipe else ():
            if len(keys) > 1 and name not in used:
                continue
            own = f"{ARMS}: {name}.recipe" + (f".{keys[0]}" if len(keys) == 1 else "")
            first, *others = [budgets[key] for one in keys if (key := f"{name}.recipe.{one}") in budgets] or [own]
            where = ", ".join([first, *(one.partition(": ")[2] for one in others)]) + (":" if len(keys) > 1 else "")
            yield f"{where} {says}" + (f"; asked for in {own}" if first != own else "")


def of_arms(arms: Mapping[str, Arm]) -> Iterator[str]:
    """Arms that start from, or choose between, what cannot be."""
    trained = [name for name, arm in arms.items() if arm.recipe]
    for name, arm in arms.items():
        yield from each_of(f"{ARMS}: {name}.choose", arm.choose or (), trained)
        for key in arm.choose or ():
            recipe = arms[key].recipe if key in arms else None
            if recipe and recipe.keep != "every":
                want = "expected an arm that keeps the weights of `every` validation"
                yield f"{ARMS}: {name}.choose names '{key}', which keeps {recipe.keep}, {want}"
        if arm.recipe and arm.recipe.init.partition("-")[0] != "base" and arm.recipe.init != name:
            others = ["base", *(key for key in arms if key != name and not arms[key].same_as)]
            yield from _one_of(f"{ARMS}: {name}.recipe.init", arm.recipe.init, others)
    try:
        TopologicalSorter({name: sets.started_from(arm) for name, arm in arms.items()}).prepare()
    except CycleError as error:
        circle: list[str] = error.args[1][::-1]
        key = "recipe.init" if arms[circle[0]].recipe else "choose"
        found = f"starts from itself ({' -> '.join(circle)})"
        yield f"{ARMS}: {circle[0]}.{key} {found}, expected a chain that ends at base"


def of_needs(study: Study, used: Mapping[str, Arm]) -> Iterator[str]:
    """What the arms to be built need of the study and do not get."""
    groups = [name for name, arm in used.items() if arm.samples_rollouts]
    if groups and study.rollouts.per_prompt < 2:
        why = f"the rollouts of one prompt are compared with each other by {', '.join(groups)}"
        yield f"rollouts.per_prompt is {study.rollouts.per_prompt}, expected at least 2: {why}"
    aligned = [name for name, arm in used.items() if arm.recipe and arm.recipe.traces == "aligned"]
    if aligned and not study.data.aligned_traces:
        why = f"{', '.join(aligned)} need expert traces of the training prompts themselves"
        yield f"data.aligned_traces is false, expected true: {why}"


# --- the paper's tables, figures and claims ------------------------------------------------------


def of_artefact(
    key: str, artefact: paper.Artefact, study: Study, arms: Mapping[str, Arm], studies: Sequence[str]
) -> Iterator[str]:
    """What is wrong in config/experiments/`key`.yaml."""
    file = f"config/experiments/{key}.yaml"
    if not re.fullmatch(r"[a-z][a-z0-9]*", key):
        yield f"{file}: found a file of this name, expected small letters and digits: it is what is typed to build it"
    if key in ("all", "claims"):
        yield f"{file}: found a file of this name, expected another: `snakemake {key}` builds something else"
    yield from each_of(f"{file}: arms", artefact.arms, arms)
    yield from each_of(f"{file}: not_here", artefact.not_here, sorted({*STUDIES, *studies}))
    if isinstance(artefact, paper.Figure):
        for name in artefact.arms:
            if name in arms and arms[name].same_as:
                yield f"{file}: arms names '{name}', expected arms that are trained: only those have curves"
    if isinstance(artefact, paper.Table | paper.Lengths):
        yield from each_of(f"{file}: benchmarks", artefact.benchmarks or (), (*COLUMNS, *study.benchmarks))
    # An arm without a row is none of the paper's: whoever adds one of their own has nothing to say of the paper.
    cells: dict[str, Any] = {"expert": artefact.expert} if isinstance(artefact, paper.Lengths) else {}
    for row, numbers in artefact.paper.rows.items() if isinstance(artefact, paper.Tabled) else ():
        near = difflib.get_close_matches(row, arms, n=1, cutoff=0.8)
        if row not in arms and near:
            yield f"{file}: paper.cells has a row '{row}', expected `{near[0]}` (nearest) or another arm"
        cells |= {f"paper.cells.{row}": numbers} if isinstance(numbers, dict) else {}
    for where, numbers in cells.items():
        for column in artefact.paper.columns:
            if column not in numbers:
                yield f"{file}: {where} has no '{column}', expected the paper's number or `{paper.NOT_PUBLISHED}`"


def of_claims(claims: paper.Claims, arms: Mapping[str, Arm], studies: Sequence[str]) -> Iterator[str]:
    """Arms, studies and columns of claims that do not exist."""
    measures = [*paper.METRICS, "right", *COLUMNS]
    yield from each_of("config/claims.yaml: smallest_effects", claims.smallest_effects, measures)
    for claim in claims.claims:
        where, rule = f"config/claims.yaml: {claim.id}", claim.rule
        if not isinstance(rule, paper.Elsewhere):
            yield from _one_of(f"{where}.rule.arm", rule.arm, arms)
        yield from each_of(f"{where}.rule.against", rule.against if isinstance(rule, paper.Against) else (), arms)
        columns = rule.columns if isinstance(rule, paper.Cells | paper.ExpertLength) else ()
        yield from each_of(f"{where}.rule.columns", columns, COLUMNS)
        yield from each_of(f"{where}.studies", claim.studies or (), studies)


def of_planning(planning: Planning, arms: Mapping[str, Arm], studies: Sequence[str]) -> Iterator[str]:
    """Arms, studies and models of planning.yaml that do not exist."""
    file, among = "config/planning.yaml: ", sorted({*STUDIES, *studies})
    yield from each_of(f"{file}lengths", planning.lengths, among)
    lengths = {f"lengths.{name}": one for name, one in planning.lengths.items()}
    for name, one in planning.unbuilt.items():
        yield from _one_of(f"{file}unbuilt.{name}.study", one.study, among)
        yield from each_of(f"{file}unbuilt.{name}.arms", one.arms, arms)
        yield from _one_of(f"{file}unbuilt.{name}.model", one.model, planning.models)
        yield from _one_of(f"{file}unbuilt.{name}.judge.model", one.judge and one.judge.model, planning.models)
        lengths[f"unbuilt.{name}.lengths"] = one.lengths
    for where, one in lengths.items():
        yield from each_of(f"{file}{where}.arms", one.arms, arms)
