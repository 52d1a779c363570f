"""Which benchmarks of a study stand in which table. Knows no scores."""

from chord.config.artefacts import Categories, Lengths, Shown, Table
from chord.config.study import Study


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


def benchmark_beside(study: Study, column: str) -> str | None:
    """The first benchmark whose problems have categories and that stands beside this column of the paper's Table 1."""
    fitting = [name for name, one in study.benchmarks.items() if one.categories and column in one.paper_columns]
    return fitting[0] if fitting else None
