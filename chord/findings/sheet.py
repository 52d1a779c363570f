"""A table of the page: ours and the paper's number side by side, error bars, n, and what opens behind each number.

Goes by the shape of the JSON (columns, rows, cells), so that any table of a study can be shown. Computes no result.
"""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from chord.findings import rendering

BAR, HEIGHT, EDGE = 96, 10, 5  # of an error bar, in CSS pixels


def table_part(table: Mapping[str, Any], behind: frozenset[str]) -> str:
    """The table with its caption; numbers of the cells (ARM/BENCHMARK) in `behind` can be opened."""
    columns = table["columns"]
    scales = {column["benchmark"]: _scale(table, column["benchmark"]) for column in columns}
    body, about = [], []
    for row in table["rows"]:
        parts = [f'<th scope="row">{escape(row["label"])}</th>']
        for column in columns:
            key = column["benchmark"]
            cell = row["cells"].get(key)
            name = f"{row['arm']}/{key}"
            parts.append(f"<td>{_ours(table, row, column, cell, scales[key], name in behind)}</td>")
            parts.append(f'<td class="paper">{_paper(cell)}</td>')
            if name in behind:
                about.append(_about(table, row, column, cell))
        body.append(f"<tr>{''.join(parts)}</tr>")
    head = _head(table, columns)
    words = " ".join([_caption(table), *rendering.notes(dict(table))])
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{escape(table["title"])}"><table class="numbers">\n'
        f"{head}\n<tbody>\n{chr(10).join(body)}\n</tbody>\n</table></div>\n"
        f'<p class="soft">{escape(words)}</p>\n{"".join(about)}'
    )


def number(table: Mapping[str, Any], cell: Mapping[str, Any] | None) -> tuple[str, str]:
    """Mean and standard error as they are shown, apart; dashes where there is none."""
    if not cell or not isinstance(cell.get("mean"), int | float):
        return rendering.NONE, ""
    se = cell.get("se")
    known = isinstance(se, int | float) and math.isfinite(se)
    return f"{cell['mean']:.1f}", f"± {se:.1f}" if known else ""


def _head(table: Mapping[str, Any], columns: Sequence[Mapping[str, Any]]) -> str:
    unit = {"percent": "%"}.get(str(table.get("unit")), str(table.get("unit") or ""))
    top, below = ['<th rowspan="2" scope="col">arm</th>'], []
    for column in columns:
        top.append(f'<th colspan="2" scope="colgroup">{escape(column["label"])}</th>')
        said = ", ".join(filter(None, (column.get("metric"), unit)))
        below.append(f'<th scope="col">ours,<br>mean ± se<br><small>{escape(said)}</small></th>')
        paper = escape(rendering.paper_heading(dict(table))).replace(": ", ":<br>", 1)
        name = escape(column.get("paper_column") or rendering.NONE)
        below.append(f'<th scope="col" class="paper">{paper}<br><small>{name}</small></th>')
    return f"<thead>\n<tr>{''.join(top)}</tr>\n<tr>{''.join(below)}</tr>\n</thead>"


def _ours(table: Mapping[str, Any], row: Any, column: Any, cell: Any, scale: tuple[float, float], opens: bool) -> str:
    mean, se = number(table, cell)
    text = f"{mean} <i>{se}</i>" if se else mean
    if opens:
        title = f"{row['label']}, {column['label']}: {mean} {se}".strip()
        text = (
            f'<button type="button" class="cell" aria-haspopup="dialog" data-title="{escape(title)}"'
            f' data-table="{escape(table["artefact"])}" data-cell="{escape(row["arm"])}/{escape(column["benchmark"])}"'
            f' aria-label="{escape(title)}; what is behind it">{text}</button>'
        )
    if not cell or mean == rendering.NONE:
        return text
    return f"{text}{_bar(cell, scale)}<small>{_count(cell)}</small>"


def _count(cell: Mapping[str, Any]) -> str:
    """n of a cell, as far as it is known."""
    sizes = [cell.get(name) for name in ("n_seeds", "n_problems", "samples_per_problem")]
    return "n = " + " × ".join(f"{size:g}" for size in sizes if isinstance(size, int | float))


def _paper(cell: Any) -> str:
    return escape(rendering.paper_value(cell)) if cell and "paper" in cell else rendering.NONE


def _scale(table: Mapping[str, Any], benchmark: str) -> tuple[float, float]:
    """From where to where the bars of a column go: percent from 0 to 100, other units as far as their values."""
    if table.get("unit") == "percent":
        return 0.0, 100.0
    cells = [row["cells"].get(benchmark) or {} for row in table["rows"]]
    ends = [cell["mean"] + (cell.get("se") or 0) for cell in cells if isinstance(cell.get("mean"), int | float)]
    ends += [cell["paper"] for cell in cells if isinstance(cell.get("paper"), int | float)]
    return 0.0, max(ends, default=1.0) or 1.0


def _bar(cell: Mapping[str, Any], scale: tuple[float, float]) -> str:
    """Mean with one standard error to each side, and the paper's number as a diamond, on the column's scale."""
    low, high = scale

    def at(value: float) -> float:
        share = min(1.0, max(0.0, (value - low) / (high - low)))
        return round(EDGE + share * (BAR - 2 * EDGE), 1)

    middle, mean, se = HEIGHT / 2, float(cell["mean"]), cell.get("se")
    parts = [f'<path class="rail" d="M{EDGE} {middle}H{BAR - EDGE}"/>']
    if isinstance(se, int | float) and math.isfinite(se):
        parts.append(f'<path class="se" d="M{at(mean - se)} {middle}H{at(mean + se)}"/>')
    paper = cell.get("paper")
    if isinstance(paper, int | float):
        parts.append(f'<path class="published" d="M{at(paper)} 1l4 4l-4 4l-4 -4z"/>')
    parts.append(f'<circle class="mean" cx="{at(mean)}" cy="{middle}" r="2.6"/>')
    return f'<svg class="bar" viewBox="0 0 {BAR} {HEIGHT}" aria-hidden="true">{"".join(parts)}</svg>'


def _about(table: Mapping[str, Any], row: Any, column: Any, cell: Any) -> str:
    """What the dialog says first of a cell; a template, so that nothing is shown before it is opened."""
    mean, se = number(table, cell)
    seeds = list(zip(table["seeds"], (cell or {}).get("by_seed") or (), strict=False))
    parts = [f"<b>{mean}</b> {escape(se)}"]
    parts += ["by seed: " + ", ".join(f"{seed}: {value:.1f}" for seed, value in seeds)] if seeds else []
    parts += [escape(_count(cell)) + " (seeds × problems × samples)"] if cell else []
    parts += [f"paper: {_paper(cell)}"] if cell and cell.get("paper") is not None else []
    name = f"about-{table['artefact']}-{row['arm']}/{column['benchmark']}"
    return f'<template id="{escape(name)}"><p>{"; ".join(parts)}</p></template>'


def _caption(table: Mapping[str, Any]) -> str:
    """How to read the table; of tables that are not of percent only what holds for any."""
    bars = "The bar shows the mean and one standard error to each side; a diamond is the paper's number. "
    if table.get("unit") == "percent":
        return bars + rendering.caption(dict(table))
    return bars + f"Mean ± standard error, in {table.get('unit') or 'its unit'}. {rendering.NONE}: not known."
