"""Rows of datasets on a hub -> problems, without those that a benchmark holds too; and published traces."""

import hashlib
import heapq
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard, cast

from chord.config.sets import BENCHMARK, Lock, drawn_as, split_of, wanted_dataset
from chord.config.study import NEEDED, OF_GENERATIONS, Filters, Study, Task
from chord.data.fetch import checked_files
from chord.data.problems import SPARE, Draw, names_in, problem_id
from chord.errors import ConfigError, UserError
from chord.grading.graders import Grader
from chord.grading.tool_calls import read_calls
from chord.records import Outcome, Problem, Trace, read_lines
from chord.settings import Raw, derive

# --- rows ----------------------------------------------------------------------------------------

# One at a time: a file of any size needs the memory of a few rows. Whatever stands in a row is hostile until it was
# looked at: values may be missing, of another type, or huge.
#
# Read by pyarrow and json, not by `datasets`, whose JSON reader changes values: it makes times of texts such as
# "2024-01-01", the number 1 of "1" where other rows have numbers, and floats of integers of more than 64 bits.

BATCH = 32  # rows of a Parquet file that are in memory at one time, as Python objects


class Row(NamedTuple):
    """One row: its place in the dataset, and its values under the names of this project."""

    file: str
    number: int
    values: dict[str, Any]


def read_rows(files: list[tuple[str, Path]], columns: Mapping[str, str]) -> Iterator[Row]:
    """Every row of the files in their order, of each the `columns` (name: column in the file).

    Raises UserError for a file that cannot be read or has no such column at all; a value that only a row lacks is None.
    """
    wanted = set(columns.values())
    for name, path in files:
        rows = _parquet(path, wanted) if path.suffix == ".parquet" else _json_lines(path)
        row, unseen = {}, wanted
        for number, row in enumerate(rows):
            unseen = unseen - row.keys() if unseen else unseen
            yield Row(name, number, {one: row.get(column) for one, column in columns.items()})
        if row and unseen:
            raise UserError(_no_column(path, unseen, sorted(row)))


def lacking(files: list[tuple[str, Path]], columns: Mapping[str, str]) -> list[str]:
    """Which of the `columns` (name: column in the file) some file has not at all. Raises UserError as `read_rows`."""
    there = [_columns(path) for _, path in files] if columns else []
    return sorted(name for name, column in columns.items() if any(column not in one for one in there))


def _columns(path: Path) -> set[str]:
    if path.suffix != ".parquet":
        return {key for row in _json_lines(path) for key in row}
    with _opened(path) as file:
        return set(file.schema_arrow.names)


def _parquet(path: Path, columns: set[str]) -> Iterator[dict[str, Any]]:
    with _opened(path) as file:
        if missing := columns - set(file.schema_arrow.names):
            raise UserError(_no_column(path, missing, file.schema_arrow.names))
        for batch in file.iter_batches(batch_size=BATCH, columns=sorted(columns)):
            yield from batch.to_pylist()


@contextmanager
def _opened(path: Path) -> Generator[Any]:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            yield file
    except (cast(Any, pyarrow).ArrowException, UnicodeDecodeError) as error:
        found = " ".join(str(error).split())
        raise UserError(f"{path}: found no Parquet that can be read ({found:.200})") from None


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{path}, line {number}: found text that is not JSON ({error!s:.200})") from None
            if not isinstance(row, dict):
                raise UserError(f"{path}, line {number}: found no JSON object, expected one a line")
            yield row


def _no_column(path: Path, missing: set[str], found: list[str]) -> str:
    there = ", ".join(found)
    return f"{path}: found columns {there}, expected '{min(missing)}' among them; change `columns` of the dataset"


# --- published -----------------------------------------------------------------------------------


def published(problems: Sequence[Problem], rows: Iterable[Row], seed: int, expert: str, file: Path) -> Iterator[Trace]:
    """One trace for each problem, in the order of `rows`: one of its kept generations, drawn by a seed of its own.

    `file` is where the problems were read from. Raises UserError if they were drawn without traces, or not from `rows`.
    """
    if not any(one.source.get("kept") for one in problems):
        raise UserError(
            f"{file}: found no problem that was drawn with a trace, expected columns of generations and verdicts in"
            " their dataset: they are among `may_lack` and not there. Only arms that read these traces need them"
            " (aligned ones: luffy). Name the right columns in `columns` of the dataset and draw again, or take those"
            " arms out of `arms` in config/experiments; all others are built without"
        )
    waiting = {(str(one.source.get("file")), one.source.get("row")): one for one in problems}
    for row in rows:
        if problem := waiting.pop((row.file, row.number), None):
            texts: list[str] | None = row.values["generations"]
            kept: list[int] | None = problem.source.get("kept")
            same = str(row.values["question"]).strip() == problem.source.get("question")
            if not same or not kept or not isinstance(texts, list) or max(kept) >= len(texts):
                raise UserError(
                    f"{file}: found problem '{problem.id}' not to be row {row.number} of {row.file}, expected it drawn"
                    " from there with the generations that were kept; run chord prepare again"
                )
            place = kept[derive(seed, "published trace", problem.id) % len(kept)]
            yield Trace(f"{problem.id}.{place}", problem.id, problem.prompt, texts[place], expert)
        if not waiting:
            return
    first = min(problem.id for problem in waiting.values())
    raise UserError(
        f"{file}: found {len(waiting)} problems without a row in the dataset, '{first}' first, expected each to be"
        " drawn from it; run chord prepare again"
    )


# --- overlap -------------------------------------------------------------------------------------

WORD = re.compile(r"\w+")
WORDS = 8  # in a row, where no filter of the task names a number; as in open-r1's decontamination


class Shared(NamedTuple):
    """The problems of a set that stand in another: as they are, and those that share words in a row with one there."""

    same: list[Problem]
    words: list[Problem]

    @property
    def all(self) -> list[Problem]:
        """Those of either kind, once each."""
        return list({problem.id: problem for problem in [*self.same, *self.words]}.values())


def shared(problems: Sequence[Problem], others: Sequence[Problem], words: int) -> Shared:
    """Which of `problems` stand among `others`, of any source; white space does not count.

    Words in a row are compared where neither is made by a generator, whose prompts share their wording by design.
    """
    keys = {key for other in others for key in _keys(other)}
    grams = Overlap((question_of(other) for other in others if "generator" not in other.source), words)
    written = (problem for problem in problems if "generator" not in problem.source)
    same = [problem for problem in problems if keys & _keys(problem)]
    return Shared(same, [problem for problem in written if question_of(problem) in grams])


def question_of(problem: Problem) -> str:
    """What overlap is looked for in: the question without the text around it that all prompts of a task share."""
    return str(problem.source.get("question", problem.prompt))


def question_key(question: str) -> str:
    """The same for questions that differ in white space alone."""
    return problem_id("question", " ".join(question.split()))


def _keys(problem: Problem) -> set[str]:
    return {question_key(problem.prompt), question_key(question_of(problem))}


class Overlap:
    """The n-grams of words of some questions. Case, punctuation and layout do not count.

    A question of fewer than n words is one n-gram: it is found where it is the whole other question.
    """

    def __init__(self, questions: Iterable[str], words: int) -> None:
        self.words = words
        self._grams = {gram for question in questions for gram in self._of(question)}

    def __contains__(self, question: str) -> bool:
        return not self._grams.isdisjoint(self._of(question))

    def _of(self, question: str) -> set[int]:
        found = WORD.findall(question.casefold())
        starts = range(max(1, len(found) - self.words + 1))
        return {_hash(" ".join(found[start : start + self.words])) for start in starts} if found else set()


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), "big")


# --- which rows become problems ------------------------------------------------------------------

# As in arXiv:2508.11408, A.2, and the authors' data script (examples/mix_chord/get_openr1_data.py of Trinity-RFT), but
# with a seed, without benchmark questions, and with traces kept only if the study's own grader finds them right.
# Of the rows that fit, those are drawn whose seeded hash is lowest; so a larger set contains the smaller one.

INTEGER = re.compile(r"-?[0-9]{1,64}")  # as many digits as the graders read
CJK = re.compile("[\u3400-\u4dbf\u4e00-\u9fff]")
CHARACTERS_A_TOKEN = 64  # text with more of them for each allowed token is too long without being counted


@dataclass(frozen=True)
class Lengths:
    """Tokens by the tokenizer of the study's model: of prompts as they are asked, of generations as they are."""

    prompt: Callable[[str], int]
    generations: Callable[[Sequence[str]], list[int]]


@dataclass(frozen=True)
class Rules:
    """What decides whether a row becomes a problem. `lengths` is None for benchmarks, which are asked as they are."""

    study: Study
    name: str  # of the task
    commit: str
    apart: frozenset[str]  # problems of other sets, by the hash of their question
    overlap: Overlap | None
    lengths: Lengths | None
    has_generations: bool = True  # False where the files lack them, as datasets.NAME.may_lack allows

    @cached_property
    def task(self) -> Task:
        """The task called `name`."""
        return self.study.tasks[self.name]

    @cached_property
    def filters(self) -> Filters:
        """Its filters, or those that drop nothing; without generations those that need none."""
        filters = self.task.filters or Filters()
        without = {"generations": 0, "generation_tokens": None}
        return filters if self.has_generations else filters.model_copy(update=without)


def select(rows: Iterable[Row], rules: Rules, purpose: str, size: int) -> Draw:
    """At most `size` problems for a purpose, in the order of the rows. Reads all rows and keeps only problems."""
    dropped, generations, seen = Counter[str](), Counter[str](), set[str]()

    def fitting(grader: Grader) -> Iterator[tuple[int, int, Problem]]:
        for place, row in enumerate(rows):
            made = _problem(row, rules, seen, grader, generations)
            dropped[made if isinstance(made, str) else SPARE] += 1
            if isinstance(made, Problem):
                yield derive(rules.study.data.seed, "rows", purpose, made.id), place, made

    with Grader(rules.study.grading.form) as grader:
        lowest = heapq.nsmallest(size, fitting(grader))
    dropped[SPARE] -= len(lowest)
    problems = [problem for _, _, problem in sorted(lowest, key=lambda one: one[1])]
    return Draw(problems, +dropped, details={"generations": dict(sorted(generations.items()))})


def _problem(row: Row, rules: Rules, seen: set[str], grader: Grader, generations: Counter[str]) -> Problem | str:
    """The row as a problem, or why it is none: the cheapest reasons first."""
    study, task = rules.study, rules.task
    named = {name for name in names_in(task.prompt, f"config/studies/{study.name}.yaml: tasks.{rules.name}") if name}
    # What no prompt shows and no filter reads says what a problem is, such as its subject.
    about = sorted(row.values.keys() - {*NEEDED, *OF_GENERATIONS, *named})
    if unknown := {*NEEDED, *named} - row.values.keys():
        raise ConfigError(
            f"config/studies/{study.name}.yaml: found '{min(unknown)}' in braces in the prompt of a task of"
            f" datasets.{task.dataset}, expected one of its columns: {', '.join(row.values)}"
        )
    facts = {name: _shown(row.values[name]) or "" for name in {*NEEDED, *named, *about}}
    if not all(facts.values()):
        return "a row without a usable question, answer or column of its prompt"
    question, answer = facts["question"], facts["answer"]
    key = question_key(question)
    if reason := _unfit(question, answer, key, rules, seen):
        return reason
    prompt = task.prompt.format_map(facts)
    lengths, limit = rules.lengths, study.rollouts.max_prompt_tokens
    if lengths and (len(prompt) > CHARACTERS_A_TOKEN * limit or lengths.prompt(prompt) > limit):
        return "prompt over rollouts.max_prompt_tokens"
    source: dict[str, Any] = {"repository": study.datasets[task.dataset].repository, "commit": rules.commit}
    source |= {"file": row.file, "row": row.number, "question": question} | {name: facts[name] for name in about}
    if rules.filters.generations:
        kept = _kept(row.values, answer, rules, grader, generations)
        if isinstance(kept, str):
            return kept
        source["kept"] = kept
    seen.add(key)
    return Problem(problem_id(rules.name, prompt), rules.name, prompt, answer, source)


def _unfit(question: str, answer: str, key: str, rules: Rules, seen: set[str]) -> str | None:
    """Why the study cannot use this question, whatever was generated for it."""
    filters = rules.filters
    if filters.script == "no-cjk" and CJK.search(question):
        return "a question with Chinese characters (filters.script)"
    if filters.answers == "integer" and not INTEGER.fullmatch(answer):
        return "an answer that is no integer (filters.answers)"
    if filters.answers == "calls" and read_calls(answer) is None:
        return "an answer that is no list of tool calls (filters.answers)"
    if key in rules.apart:
        return "a question of another set"
    if key in seen:
        return "a question already in this set"
    if rules.overlap and question in rules.overlap:
        return "words in a row shared with a benchmark (filters.overlap_words)"
    return None


def _kept(
    values: Mapping[str, Any], answer: str, rules: Rules, grader: Grader, counts: Counter[str]
) -> list[int] | str:
    """Which generations of a row are traces: verified, not too long, right to the grader; or why too few are."""
    texts: list[str] | None = values.get("generations")
    verified: list[bool] | None = values.get("verified")
    if not isinstance(texts, list) or not isinstance(verified, list) or len(texts) != len(verified):
        return "as many verdicts as generations are not there"
    told = [place for place, right in enumerate(verified) if right is True and _is_text(texts[place])]
    counts["not verified"] += len(texts) - len(told)
    short, limit = told, rules.filters.generation_tokens
    if rules.lengths and limit is not None:
        near = [place for place in told if len(texts[place]) <= CHARACTERS_A_TOKEN * limit]
        lengths = rules.lengths.generations([texts[place] for place in near]) if near else []
        short = [place for place, length in zip(near, lengths, strict=True) if length <= limit]
    counts["over filters.generation_tokens"] += len(told) - len(short)
    outcomes = grader.grade_all([(texts[place], "stop", answer) for place in short])
    kept = [place for place, outcome in zip(short, outcomes, strict=True) if outcome is Outcome.RIGHT]
    counts["not right to the grader of the study"] += len(short) - len(kept)
    counts["kept"] += len(kept)
    few = "too few generations that are verified and fit (filters.generations)"
    return kept if len(kept) >= rules.filters.generations else few


def _shown(value: Raw) -> str | None:
    """A value as a prompt shows it: a number without a needless point, a list of texts as lines numbered from 0."""
    if isinstance(value, list):
        lines = [_shown(item) for item in value]
        is_told = bool(lines) and None not in lines
        return "\n".join(f"{number}. {line}" for number, line in enumerate(lines)) if is_told else None
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else str(value) if math.isfinite(value) else None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value.strip() if _is_text(value) else None


def _is_text(value: Any) -> TypeGuard[str]:
    """Whether the value is a text that can be written as UTF-8: without half surrogates."""
    return isinstance(value, str) and value.encode("utf-8", "ignore").decode() == value


# --- one set of a dataset ------------------------------------------------------------------------


@dataclass(frozen=True)
class Beside:
    """The files beside which a set is drawn: sets to be apart from, benchmarks not to overlap, the model's folder."""

    apart_from: Sequence[Path]
    benchmarks: Sequence[Path]
    tokenizer: Path | None


def hub_set(study: Study, name: str, root: Path, lock: Lock | None, beside: Beside) -> Draw:
    """The problems of the set called `name`. Raises ConfigError if there are too few."""
    split = split_of(study, name)
    dataset = study.tasks[split.task].dataset
    wanted, columns = wanted_dataset(study, dataset), study.datasets[dataset].columns
    files = checked_files(root, study.name, lock, wanted)
    locked = lock.find(wanted) if lock else None
    assert locked is not None, "its files were checked"
    absent = lacking(files, {one: columns[one] for one in study.datasets[dataset].may_lack})
    rules = _rules(study, name, split.task, locked.commit, beside, has_generations=not absent)
    rows = read_rows(files, {one: column for one, column in columns.items() if one not in absent})
    found = select(rows, rules, drawn_as(name), split.size)
    size = len(found.problems)
    if not size or (size < split.size and not split.or_fewer):
        why = ", ".join(f"{reason}: {count}" for reason, count in found.dropped.most_common()) or "nothing"
        key = f"benchmarks.{name.removeprefix(BENCHMARK)}.problems" if name.startswith(BENCHMARK) else f"data.{name}"
        key = f"other_experts.{name.removeprefix('expert-')}" if name.startswith("expert-") else key
        raise ConfigError(
            f"config/studies/{study.name}.yaml: {key} asks for {split.size} problems of '{split.task}', found {size}"
            f" that fit (dropped: {why}); expected a smaller size, `or_fewer: true` or other filters"
        )
    details = {
        **found.details,
        "apart_from": sorted(path.stem for path in beside.apart_from),
        "no_overlap_with": sorted(path.stem for path in beside.benchmarks),
    }
    groups = {"columns_lacking": [columns[one] for one in absent]} if absent else {}
    return Draw(found.problems, found.dropped, {"source": f"{wanted.name} at {locked.commit}"}, details, groups)


def _rules(study: Study, name: str, task: str, commit: str, beside: Beside, has_generations: bool) -> Rules:
    """The rules for a set; a benchmark has no lengths and overlaps nothing, since it is asked as it is."""
    lengths, overlap = None, None
    if not name.startswith(BENCHMARK):
        if beside.tokenizer is None:
            raise UserError(
                f"--tokenizer: found nothing, expected the folder of the study's model to measure {name} with"
            )
        if {path.stem for path in beside.benchmarks} != set(study.benchmarks):
            found = ", ".join(path.stem for path in beside.benchmarks) or "none"
            raise UserError(f"--benchmarks: found {found}, expected all of them: {', '.join(study.benchmarks)}")
        lengths = _token_lengths(beside.tokenizer, study.prompt_date)
        filters = study.tasks[task].filters
        if filters and filters.overlap_words:
            overlap = Overlap(map(question_of, _problems(beside.benchmarks)), filters.overlap_words)
    keys = frozenset(question_key(question_of(one)) for one in _problems(beside.apart_from))
    return Rules(study, task, commit, keys, overlap, lengths, has_generations)


def _problems(files: Iterable[Path]) -> Iterator[Problem]:
    return (problem for path in files for problem in read_lines(path, Problem))


def _token_lengths(folder: Path, date: str | None) -> Lengths:
    """Lengths by the tokenizer in `folder`, of prompts that show `date`.

    Text that looks like a special token is counted as the text that it is.
    """
    from chord.data.prompts import load_tokenizer, prompt_ids

    tokenizer = load_tokenizer(folder)

    def generations(texts: Sequence[str]) -> list[int]:
        encoded = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True)
        return [len(ids) for ids in encoded["input_ids"]]

    return Lengths(lambda prompt: len(prompt_ids(tokenizer, prompt, date=date)), generations)
