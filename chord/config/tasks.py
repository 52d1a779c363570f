"""What a task of a generator or a package can be: names, settings, words in braces, and how many problems there are."""

import difflib
from collections.abc import Collection, Iterator, Mapping
from string import Formatter
from typing import Any

from chord.config.datasets import Task
from chord.config.known import known
from chord.config.messages import KINDS, expected, shown
from chord.config.sets import BENCHMARK, SIXTEENTHS, place, problem_sets, purpose, sizes, source_of
from chord.config.study import Study

OF_KIND: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "str": (str,),
    "list": (list,),
}
WORDED = {"int": KINDS["int"], "float": KINDS["float"], "bool": KINDS["bool"], "str": KINDS["str"]}
OF_PACKAGE = ("question", "tools")  # what an item of BFCL tells of itself
PLENTY = 10**12  # more problems than any set asks for: nobody needs to count further
# Facts of which an item has no more than it has questions; a prompt with others could differ where questions do not.
COUNTED = {"question", "expression", "word", "word_len", "numbers", "result", "num_terms", "num_digits"}
DEVIATIONS = 4  # standard deviations by which the hashes of prompts may favour a purpose; beyond, a set is too large


def misfits(study: Study, file: str, read: Collection[str]) -> Iterator[str]:
    """Names, settings and words in braces that do not exist; sets of more problems than there are. One line each.

    Other expert sets and corpora than the study's own are counted where an arm to be built reads them: `read`, by name.
    """
    found: list[str] = []
    for name, task in study.tasks.items():
        found += _task(study, task, f"{file}: tasks.{name}")
    yield from found
    if not found:
        yield from _too_many(study, file, read)


def _task(study: Study, task: Task, where: str) -> Iterator[str]:
    facts: list[str] = list(OF_PACKAGE)
    if task.source == "generator":
        generators: Mapping[str, Any] = known("generators")
        if task.dataset not in generators:
            near = difflib.get_close_matches(task.dataset, generators, n=1)
            hint = f" (nearest: `{near[0]}`)" if near else ""
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
        if kind and (type(value) not in OF_KIND[kind]):
            yield f"{where}.{key} is {shown(value)}, expected {WORDED.get(kind, 'a list of texts')}"
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
        if given.count(one) > 1:
            yield f"{where}.settings.categories: found '{one}' {given.count(one)} times, expected once"


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
    for problems in (name for name in problem_sets(study) if "-" not in name.partition(":")[0] or name in read):
        source = source_of(study, problems)
        for name, size in sizes(study, problems).items():
            task, key = study.tasks[name], _key(problems)
            benchmark = study.benchmarks.get(problems.removeprefix(BENCHMARK))
            if source == "package" and benchmark is not None and not benchmark.problems.or_fewer:
                items = known("bfcl")
                given = task.settings.get("categories", list(items))
                there = sum(items[one] for one in given) if isinstance(given, list) else 0
                if size > there:
                    yield f"{file}: tasks.{name}: found {there} items, {key}.size asks for {size}; expected no more"
            elif source == "generator" and task.source == "generator":
                yield from _share(study, problems, name, size, f"{file}: {key}")


def _share(study: Study, problems: str, name: str, size: int, where: str) -> Iterator[str]:
    """A set of more problems than its purpose's share of all prompts; the base corpus may ask each again and again."""
    there = distinct(study.tasks[name])
    if there is None:
        return
    share = SIXTEENTHS[purpose(problems)] / 16
    share = share / 2 ** (place(study, problems) + 1) if purpose(problems) == "benchmark" else share
    mine = there * share
    most = mine + DEVIATIONS * (mine * (1 - share)) ** 0.5
    if size > most and (purpose(problems) != "base" or there == 0):
        yield (
            f"{where} asks for {size} problems of '{name}', found {there} of which about {mine:.0f} are for it,"
            " expected a smaller size or a larger task"
        )


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
    lengths: Mapping[str, int] = known("words")
    return sum(
        count for length, count in lengths.items() if given["min_word_len"] <= int(length) <= given["max_word_len"]
    )
