"""What tables of lengths and of categories need beside scores: how long traces are, of which category problems are.

A category is a fact that stands in a problem's source, or one that is worked out of it. Knows no scores.
"""

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chord.findings.reading import read_json
from chord.provenance.files import UserError
from chord.records import Problem, read_lines

FEWEST = 2  # problems of a category: one alone has no standard error


def divided(file: Path, categories: str) -> dict[str, list[str]]:
    """The ids of the problems in the file by category, categories in their natural order.

    `categories` is `carries`, `letters`, or a key of `Problem.source`. Categories of fewer than two problems stand
    together as `others`, and are left out if there is one such problem. Raises UserError for problems without the fact.
    """
    problems = read_lines(file, Problem)
    found = {problem.id: _of(problem, categories, file) for problem in problems}
    sizes = Counter(found.values())
    kept = sorted((name for name in sizes if sizes[name] >= FEWEST), key=_natural)
    rest = [problem for problem, name in found.items() if name not in kept]
    ids = {name: [problem for problem, other in found.items() if other == name] for name in kept}
    return ids | ({"others": rest} if len(rest) >= FEWEST else {})


def expert_length(counts: Path) -> dict[str, Any]:
    """How long the expert's traces are, out of the counts that `chord demonstrate` wrote."""
    what, remedy = "counts that chord demonstrate wrote", "build it with snakemake"
    found = read_json(counts, what, remedy)
    if lacking := {"writer", "kept", "response_tokens", "length_measured_in"} - found.keys():
        raise UserError(f"{counts}: found no {', '.join(sorted(lacking))}, expected {what}; {remedy}")
    told = {"label": found["writer"], "mean": found["response_tokens"]["mean"], "traces": found["kept"]}
    return told | {"measured_in": found["length_measured_in"]}


def carries(problem: Problem) -> str | None:
    """How often something is carried when the terms of a sum are added, place by place, from the right."""
    expression = str(problem.source.get("expression", ""))
    if not re.fullmatch(r"[0-9]+(\+[0-9]+)+", expression):
        return None
    terms = [term[::-1] for term in expression.split("+")]
    count = carry = 0
    for place in range(max(map(len, terms))):
        carry = (sum(int(term[place]) for term in terms if place < len(term)) + carry) // 10
        count += carry > 0
    return f"{count} {'carry' if count == 1 else 'carries'}"


def letters(problem: Problem) -> str | None:
    """How many letters the word has."""
    word = problem.source.get("word")
    return f"{len(word)} letters" if isinstance(word, str) else None


WORKED_OUT: dict[str, Callable[[Problem], str | None]] = {"carries": carries, "letters": letters}


def _of(problem: Problem, categories: str, file: Path) -> str:
    named = problem.source.get(categories)
    found = WORKED_OUT[categories](problem) if categories in WORKED_OUT else (None if named is None else str(named))
    if found is None:
        expected = f"expected problems that have `{categories}`; change benchmarks.NAME.categories of the study"
        raise UserError(f"{file}: found problem '{problem.id}' without it, {expected}")
    return found


def _natural(name: str) -> tuple[int, str]:
    """Numbers in front by their size."""
    number = re.match(r"[0-9]+", name)
    return (int(number[0]) if number else 0, name)
