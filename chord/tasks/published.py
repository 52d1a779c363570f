"""Expert traces that stand in a dataset: for each problem one of its kept generations, drawn by a seed of its own."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from chord.provenance.files import UserError
from chord.records import Problem, Trace, derive
from chord.tasks.rows import Row


def published(problems: Sequence[Problem], rows: Iterable[Row], seed: int, expert: str, file: Path) -> Iterator[Trace]:
    """One trace for each problem, in the order of `rows`. `file` is where the problems were read from.

    Raises UserError if the problems were drawn without traces, or the rows are not those that they were drawn from.
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
        problem = waiting.pop((row.file, row.number), None)
        if problem is not None:
            yield _trace(problem, row, seed, expert, file)
        if not waiting:
            return
    if waiting:
        first = min(problem.id for problem in waiting.values())
        raise UserError(
            f"{file}: found {len(waiting)} problems without a row in the dataset, '{first}' first, expected each to be"
            " drawn from it; run chord prepare again"
        )


def _trace(problem: Problem, row: Row, seed: int, expert: str, file: Path) -> Trace:
    texts, kept = row.values["generations"], problem.source.get("kept")
    same = str(row.values["question"]).strip() == problem.source.get("question")
    if not same or not kept or not isinstance(texts, list) or max(kept) >= len(texts):
        raise UserError(
            f"{file}: found problem '{problem.id}' not to be row {row.number} of {row.file}, expected it drawn from"
            " there with the generations that were kept; run chord prepare again"
        )
    place = kept[derive(seed, "published trace", problem.id) % len(kept)]
    return Trace(f"{problem.id}.{place}", problem.id, problem.prompt, texts[place], expert)
