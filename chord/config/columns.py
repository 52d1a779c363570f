"""Which benchmarks of a study stand in which table. Knows no scores."""

from collections.abc import Mapping
from typing import NamedTuple

from chord.config.artefacts import Categories, Lengths, Shown, Table
from chord.config.study import Study


class Division(NamedTuple):
    """A key of each problem's source, and the columns of the paper for its values; if none is named, all are shown."""

    by: str
    columns: Mapping[str, str]


def benchmarks_of(study: Study, artefact: Shown) -> tuple[str, ...]:
    """The benchmarks whose scores a table is made of; none for a figure."""
    if isinstance(artefact, Categories):
        found = benchmark_beside(study, artefact.column)
        return (found,) if found else ()
    if not isinstance(artefact, Table | Lengths):
        return ()
    named = artefact.benchmarks
    beside = {name: {name, *one.paper_columns} for name, one in study.benchmarks.items()}
    return tuple(name for name in study.benchmarks if named is None or beside[name] & set(named))


def divisions(study: Study, artefact: Shown) -> dict[str, Division]:
    """By benchmark of a table: what its problems are divided by, where the table shows that."""
    if isinstance(artefact, Categories):
        return {name: Division(study.benchmarks[name].categories or "", {}) for name in benchmarks_of(study, artefact)}
    found: dict[str, Division] = {}
    for name in benchmarks_of(study, artefact) if isinstance(artefact, Table) else ():
        parts = study.benchmarks[name].parts
        shown = (
            {one: column for one, column in parts.columns.items() if column in artefact.paper.columns} if parts else {}
        )
        if parts and shown:
            found[name] = Division(parts.by, shown)
    return found


def benchmark_beside(study: Study, column: str) -> str | None:
    """The first benchmark whose problems have categories and that stands beside this column of the paper's Table 1."""
    fitting = [name for name, one in study.benchmarks.items() if one.categories and column in one.paper_columns]
    return fitting[0] if fitting else None
