"""Problems of a study out of a dataset of a hub: which rows become problems, and why others do not.

As in arXiv:2508.11408, A.2, and the authors' data script (examples/mix_chord/get_openr1_data.py of Trinity-RFT), but
with a seed, without benchmark questions, and with traces kept only if the study's own grader finds them right.
Of the rows that fit, those are drawn whose seeded hash is lowest; so a larger set contains the smaller one.
"""

import heapq
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from string import Formatter
from typing import Any

from chord.config.study import NEEDED, OF_GENERATIONS, Filters, Study, Task
from chord.records import Outcome, Problem, derive
from chord.settings import ConfigError
from chord.tasks.graders import Grader
from chord.tasks.overlap import Overlap, question_key
from chord.tasks.problems import problem_id
from chord.tasks.rows import Row
from chord.tasks.tool_calls import read_calls

INTEGER = re.compile(r"-?[0-9]{1,64}")  # as many digits as the graders read
CJK = re.compile("[\u3400-\u4dbf\u4e00-\u9fff]")
CHARACTERS_A_TOKEN = 64  # text with more of them for each allowed token is too long without being counted

UNUSABLE = "a row without a usable question, answer or column of its prompt"
FLAGS = "as many verdicts as generations are not there"
CHINESE = "a question with Chinese characters (filters.script)"
NOT_INTEGER = "an answer that is no integer (filters.answers)"
NOT_CALLS = "an answer that is no list of tool calls (filters.answers)"
ELSEWHERE = "a question of another set"
REPEATED = "a question already in this set"
OVERLAP = "words in a row shared with a benchmark (filters.overlap_words)"
FEW = "too few generations that are verified and fit (filters.generations)"
LONG = "prompt over rollouts.max_prompt_tokens"
SPARE = "fits, but the set is full"


@dataclass
class Selection:
    """The problems of one set in the order of their dataset; how many rows were dropped, and generations, and why."""

    problems: list[Problem] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    generations: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Lengths:
    """Tokens by the tokenizer of the study's model: of prompts as they are asked, of generations as they are."""

    prompt: Callable[[str], int]
    generations: Callable[[Sequence[str]], list[int]]


@dataclass(frozen=True)
class Rules:
    """What decides whether a row becomes a problem. `lengths` is None for benchmarks, which are asked as they are."""

    study: Study
    name: str
    commit: str
    apart: frozenset[str]  # problems of other sets, by the hash of their question
    overlap: Overlap | None
    lengths: Lengths | None
    has_generations: bool = True  # False where the files lack them, as datasets.NAME.may_lack allows

    @property
    def task(self) -> Task:
        """The task called `name`."""
        return self.study.tasks[self.name]

    @property
    def filters(self) -> Filters:
        """Its filters, or those that drop nothing; without generations those that need none."""
        filters = self.task.filters or Filters()
        without = {"generations": 0, "generation_tokens": None}
        return filters if self.has_generations else filters.model_copy(update=without)


def select(rows: Iterable[Row], rules: Rules, wanted: tuple[str, int]) -> Selection:
    """The set `wanted`: its name, and how many problems it has at most. Reads all rows and keeps only problems."""
    purpose, size = wanted
    chosen: list[tuple[int, int, Problem]] = []
    found, seen = Selection(), set[str]()
    with Grader(rules.study.grading.form) as grader:
        for place, row in enumerate(rows):
            made = _problem(row, rules, seen, grader, found.generations)
            if isinstance(made, str):
                found.dropped[made] += 1
                continue
            # The lowest hashes win; heapq keeps the lowest first, so the one to give up is the lowest negated hash.
            entry = (-derive(rules.study.data.seed, "rows", purpose, made.id), place, made)
            if len(chosen) < size:
                heapq.heappush(chosen, entry)
            else:
                heapq.heappushpop(chosen, entry)
                found.dropped[SPARE] += 1
    found.problems = [problem for _, _, problem in sorted(chosen, key=lambda entry: entry[1])]
    return found


def _problem(row: Row, rules: Rules, seen: set[str], grader: Grader, generations: Counter[str]) -> Problem | str:
    """The row as a problem, or why it is none: the cheapest reasons first."""
    facts = _facts(row.values, rules.task, rules.study.name)
    if facts is None:
        return UNUSABLE
    question, answer = facts["question"], facts["answer"]
    key = question_key(question)
    reason = _unfit(question, answer, key, rules, seen)
    if reason:
        return reason
    prompt = rules.task.prompt.format_map(facts)
    lengths, limit = rules.lengths, rules.study.rollouts.max_prompt_tokens
    if lengths and (len(prompt) > CHARACTERS_A_TOKEN * limit or lengths.prompt(prompt) > limit):
        return LONG
    source: dict[str, Any] = {"repository": rules.study.datasets[rules.task.dataset].repository}
    source |= {"commit": rules.commit, "file": row.file, "row": row.number, "question": question}
    source |= {name: facts[name] for name in _told(row.values, rules.task)}
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
        return CHINESE
    if filters.answers == "integer" and not INTEGER.fullmatch(answer):
        return NOT_INTEGER
    if filters.answers == "calls" and read_calls(answer) is None:
        return NOT_CALLS
    if key in rules.apart:
        return ELSEWHERE
    if key in seen:
        return REPEATED
    return OVERLAP if rules.overlap and question in rules.overlap else None


def _kept(
    values: Mapping[str, Any], answer: str, rules: Rules, grader: Grader, counts: Counter[str]
) -> list[int] | str:
    """Which generations of a row are traces: verified, not too long, right to the grader; or why too few are."""
    texts, verified = values.get("generations"), values.get("verified")
    if not isinstance(texts, list) or not isinstance(verified, list) or len(texts) != len(verified):
        return FLAGS
    told = [place for place, right in enumerate(verified) if right is True and _is_text(texts[place])]
    counts["not verified"] += len(texts) - len(told)
    short = _within(told, texts, rules)
    counts["over filters.generation_tokens"] += len(told) - len(short)
    outcomes = grader.grade_all([(texts[place], "stop", answer) for place in short])
    kept = [place for place, outcome in zip(short, outcomes, strict=True) if outcome is Outcome.RIGHT]
    counts["not right to the grader of the study"] += len(short) - len(kept)
    counts["kept"] += len(kept)
    return kept if len(kept) >= rules.filters.generations else FEW


def _within(places: list[int], texts: Sequence[str], rules: Rules) -> list[int]:
    """Those of the texts in `places` that have at most `generation_tokens` tokens."""
    limit = rules.filters.generation_tokens
    if limit is None or rules.lengths is None:
        return places
    near = [place for place in places if len(texts[place]) <= CHARACTERS_A_TOKEN * limit]
    lengths = rules.lengths.generations([texts[place] for place in near]) if near else []
    return [place for place, length in zip(near, lengths, strict=True) if length <= limit]


def _facts(values: Mapping[str, Any], task: Task, study: str) -> dict[str, str] | None:
    """The texts that the prompt may name, and the answer; None if one of them cannot be told."""
    needed = {*NEEDED, *_named(task.prompt), *_told(values, task)}
    unknown = sorted(needed - values.keys())
    if unknown:
        raise ConfigError(
            f"config/studies/{study}.yaml: found '{unknown[0]}' in braces in the prompt of a task of"
            f" datasets.{task.dataset}, expected one of its columns: {', '.join(values)}"
        )
    facts = {name: shown for name in needed if (shown := _shown(values[name])) is not None}
    return facts if len(facts) == len(needed) and all(facts.values()) else None


def _told(values: Mapping[str, Any], task: Task) -> list[str]:
    """Columns that no prompt shows and no filter reads: what a problem is, such as its subject."""
    return sorted(values.keys() - {*NEEDED, *OF_GENERATIONS, *_named(task.prompt)})


def _named(prompt: str) -> Iterator[str]:
    """What stands in braces in a prompt."""
    return (name for _, name, _, _ in Formatter().parse(prompt) if name)


def _shown(value: Any) -> str | None:
    """A value as a prompt shows it: a number without a needless point, a list of texts as lines numbered from 0."""
    if isinstance(value, list):
        lines = [_shown(item) for item in value]
        texts = [f"{number}. {line}" for number, line in enumerate(lines) if line is not None]
        return "\n".join(texts) if texts and len(texts) == len(value) else None
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else str(value) if math.isfinite(value) else None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value.strip() if isinstance(value, str) and _is_text(value) else None


def _is_text(value: Any) -> bool:
    """Whether the value is a text that can be written as UTF-8."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
