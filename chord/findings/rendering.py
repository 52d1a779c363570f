"""A table's JSON as Markdown, and the words that stand below it wherever it is shown. Computes nothing."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chord.findings.reading import read_json
from chord.provenance.files import UserError

NONE, NOT_PUBLISHED = "–", "n.p."


def read_table(path: Path) -> dict[str, Any]:
    """The table in a JSON file that `chord tabulate` wrote."""
    remedy = "build it with snakemake"
    table = read_json(path, "a table that chord tabulate wrote", remedy)
    if lacking := {"title", "study_title", "columns", "rows", "paper", "seeds"} - table.keys():
        raise UserError(
            f"{path}: found no {', '.join(sorted(lacking))}, expected a table that chord tabulate wrote; {remedy}"
        )
    return table


def value(cell: dict[str, Any]) -> str:
    """Mean and standard error in percent with one decimal."""
    return f"{cell['mean']:.1f} ± {cell['se']:.1f}"


def count(cell: dict[str, Any]) -> str:
    """Seeds × problems × samples a problem."""
    return f"{cell['n_seeds']} × {cell['n_problems']} × {cell['samples_per_problem']}"


def paper_value(cell: dict[str, Any]) -> str:
    """The paper's number as it was published, or that it was not; a dash where its table has no such column."""
    number = cell["paper"]
    if number is None:
        return NOT_PUBLISHED if cell.get("not_published") else NONE
    return f"{number:.1f}" if round(number, 1) == number else f"{number:g}"


def paper_heading(table: dict[str, Any]) -> str:
    """What stands above the paper's numbers."""
    return f"paper: {table['paper']['model']}"


def caption(table: dict[str, Any]) -> str:
    """How to read the table: what is averaged over what, and what the paper's numbers are."""
    seeds = len(table["seeds"])
    shown = "Tokens of an answer" if table.get("unit") == "tokens" else "Percent of answers that are right"
    text = (
        f"{shown}: mean ± standard error, n = training seeds × problems × samples a problem. "
        "The error is for new seeds and new problems together"
    )
    text += f"; with {seeds} seeds it is a rough one. " if 1 < seeds < 10 else ". "
    if seeds == 1:
        text = text.replace("new seeds and new problems together", "new problems alone, since there is one seed")
    others = [c for c in table["columns"] if c["paper_column"] and c["paper_column"] != c["label"]]
    if others:
        pairs = ", ".join(f"{c['paper_column']} beside {c['label']}" for c in others)
        text += (
            f"The columns headed “{paper_heading(table)}” are another model on other benchmarks ({pairs}): they are for"
            " orientation, not for comparison. "
        )
    return text + f"{NOT_PUBLISHED}: not published in any copy that we could read; {NONE}: no such cell in the paper."


def notes(table: dict[str, Any]) -> list[str]:
    """What must be known about single rows, and of rows that are not there."""
    found = [f"{row['label']}: {row['note']}." for row in table["rows"] if row["note"]]
    if expert := table.get("expert"):
        paper = ", ".join(f"{column} {number}" for column, number in expert["paper"].items())
        found.append(
            f"Expert ({expert['label']}): {expert['mean']:.1f} a trace, mean over {expert['traces']} traces, in"
            f" {expert['measured_in']}; the paper's: {paper}."
        )
    return found + [f"{label}: not built: {reason}." for label, reason in table.get("not_built", {}).items()]


def markdown(table: dict[str, Any]) -> str:
    """The table with its caption."""
    heads, rule = ["arm"], ["---"]
    for column in table["columns"]:
        heads += [
            f"{column['label']}, {column['metric']} (n)",
            f"{paper_heading(table)}, {column['paper_column'] or NONE}",
        ]
        rule += ["---:", "---:"]
    title, study = as_markdown(table["title"]), as_markdown(table["study_title"])
    lines = [f"# {title}", "", f"{study}.", "", _line(heads), f"| {' | '.join(rule)} |"]
    for row in table["rows"]:
        cells = [row["label"]]
        for column in table["columns"]:
            cell = row["cells"][column["benchmark"]]
            cells += [f"{value(cell)} ({count(cell)})", paper_value(cell)]
        lines.append(_line(cells))
    lines += ["", as_markdown(caption(table)), *(f"\n{as_markdown(note)}" for note in notes(table))]
    return "\n".join(lines) + "\n"


def as_markdown(text: str) -> str:
    """The text as Markdown that shows it as it is, on one line: no mark-up, no new cell, no HTML."""
    line = re.sub(r"([\\`*_\[\]<>|~&$])", r"\\\1", " ".join(text.split()))
    return re.sub(r"^(\d*)([-+#=.)])(?=\s|$|[-+#=])", r"\1\\\2", line)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(as_markdown, cells)) + " |"
