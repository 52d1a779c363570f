"""A table's JSON in a terminal: within its width and character set, in colour only if it is one. Computes nothing."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from chord.findings import verdicts
from chord.findings.rendering import NONE, caption, count, notes, paper_heading, paper_value, value
from chord.plain import plain as in_ascii

STYLES = {"holds": "green", "fails": "red", "undecided": "yellow"}
NARROW_LABEL = 11


def show(table: Mapping[str, Any], claims: Mapping[str, Any] | None, files: Mapping[str, Sequence[Path]]) -> None:
    """Print the table, its caption, the verdicts if there are any, and where the other files are."""
    console = Console(highlight=False)
    plain = not console.encoding.lower().replace("-", "").startswith("utf8")

    def text(words: str, style: str = "") -> Text:
        return Text(in_ascii(words) if plain else words, style=style)

    console.print()
    console.print(text(table["title"], "bold"))
    console.print(text(table["study_title"]))
    for part in _fitting(table, console, plain):
        console.print(part)
    console.print()
    console.print(text(caption(dict(table)), "dim"))
    for note in notes(dict(table)):
        console.print(text(note, "dim"))
    if claims:
        show_verdicts(claims)
    if any(files.values()):
        console.print()
    for name, paths in files.items():
        for number, path in enumerate(paths):
            console.print(text(f"{name if number == 0 else '':<10}{path}"), soft_wrap=True)


def show_verdicts(claims: Mapping[str, Any]) -> None:
    """Print how many claims have which verdict, and each that was run."""
    console = Console(highlight=False)
    plain = not console.encoding.lower().replace("-", "").startswith("utf8")

    def text(words: str, style: str = "") -> Text:
        return Text(in_ascii(words) if plain else words, style=style)

    console.print()
    console.print(text(f"{verdicts.TITLE} (rules of {claims['rules_dated']})", "bold"))
    console.print(text(verdicts.counted(claims["claims"])))
    if not claims["rules_as_dated"]:
        console.print(text("config/claims.yaml was changed without a new date", "yellow"))
    grid = Table.grid(padding=(0, 2, 0, 0))
    for claim in verdicts.ordered(claims["claims"]):
        if claim["verdict"] != "not run":
            found = text(claim["sentence"]).append_text(text(f" ({verdicts.said(claim)})", "dim"))
            grid.add_row(text(claim["verdict"], STYLES[claim["verdict"]]), found)
    console.print(grid)


def _fitting(table: Mapping[str, Any], console: Console, plain: bool) -> list[Any]:
    """The table with wide headings, else with narrow ones, else one table a benchmark: the first that fits."""
    keys = [column["benchmark"] for column in table["columns"]]
    wide = console.options.update(max_width=10_000)
    for narrow in (False, True):
        whole = _drawn(table, keys, narrow, plain)
        if Measurement.get(console, wide, whole).maximum <= console.width:
            return [Text(_legend(table, plain)), whole] if narrow else [Text(), whole]
    return [Text(), *(_drawn(table, [key], False, plain) for key in keys)]


def _legend(table: Mapping[str, Any], plain: bool) -> str:
    """What narrow headings leave out."""
    metrics = dict.fromkeys(column["metric"] for column in table["columns"])
    words = f"\n{' | '.join(metrics)} in percent ± standard error; {paper_heading(dict(table))}"
    counts = {count(cell) for row in table["rows"] for cell in row["cells"].values()}
    words += f"\nn = {counts.pop()} (seeds × problems × samples) in every cell" if len(counts) == 1 else ""
    return in_ascii(words) if plain else words


def _drawn(table: Mapping[str, Any], keys: Sequence[str], narrow: bool, plain: bool) -> Table:
    """The columns `keys`; n stands in the heading where it is the same for the column, else in the cells."""

    def said(words: str) -> str:
        return in_ascii(words) if plain else words

    counts = {key: {count(row["cells"][key]) for row in table["rows"]} for key in keys}
    everywhere = len({n for key in keys for n in counts[key]}) == 1
    style = box.ASCII_DOUBLE_HEAD if plain else box.SIMPLE_HEAD
    drawn = Table(box=style, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    drawn.add_column("arm", no_wrap=True, vertical="bottom")
    for column in (column for column in table["columns"] if column["benchmark"] in keys):
        n = next(iter(counts[column["benchmark"]])) if len(counts[column["benchmark"]]) == 1 else ""
        if narrow:
            head = "\n".join(textwrap.wrap(column["label"], NARROW_LABEL))
            head += f"\nn {n}" if n and not everywhere else ""
            paper = f"paper:\n{column['paper_column'] or NONE}"
        else:
            head = f"{column['label']}\n{column['metric']}, %" + (f"\nn {n}" if n else "")
            paper = paper_heading(dict(table)).replace(": ", ":\n") + f"\n{column['paper_column'] or NONE}"
        drawn.add_column(said(head), justify="right", no_wrap=True, vertical="bottom")
        drawn.add_column(said(paper), justify="right", no_wrap=True, vertical="bottom", style="dim")
    for row in table["rows"]:
        cells = [row["label"]]
        for key in keys:
            cell = row["cells"][key]
            cells += [value(cell) + ("" if len(counts[key]) == 1 else f" (n {count(cell)})"), paper_value(cell)]
        drawn.add_row(*map(said, cells))
    return drawn
