"""Tables and verdicts as Markdown, as HTML and on a terminal. Goes by the JSON of artefacts; computes no result."""

import math
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from chord.findings.reading import read_json
from chord.provenance.cli import plain as in_ascii

NONE, NOT_PUBLISHED = "–", "n.p."

# --- tables --------------------------------------------------------------------------------------


def read_table(path: Path) -> dict[str, Any]:
    """The table in a JSON file that `chord tabulate` wrote."""
    needed = ("title", "study_title", "columns", "rows", "paper", "seeds")
    return read_json(path, "a table that chord tabulate wrote", "build it with snakemake", needed)


def value(cell: Mapping[str, Any]) -> str:
    """Mean and standard error in percent with one decimal."""
    return f"{cell['mean']:.1f} ± {cell['se']:.1f}"


def count(cell: Mapping[str, Any]) -> str:
    """Seeds × problems × samples a problem."""
    return f"{cell['n_seeds']} × {cell['n_problems']} × {cell['samples_per_problem']}"


def paper_value(cell: Mapping[str, Any]) -> str:
    """The paper's number as it was published, or that it was not; a dash where its table has no such column."""
    number = cell["paper"]
    if number is None:
        return NOT_PUBLISHED if cell.get("not_published") else NONE
    return f"{number:.1f}" if round(number, 1) == number else f"{number:g}"


def paper_heading(table: Mapping[str, Any]) -> str:
    """What stands above the paper's numbers."""
    return f"paper: {table['paper']['model']}"


def caption(table: Mapping[str, Any]) -> str:
    """How to read the table: what is averaged over what, and what the paper's numbers are."""
    seeds = len(table["seeds"])
    shown = "Tokens of an answer" if table.get("unit") == "tokens" else "Percent of answers that are right"
    new = "new seeds and new problems together" if seeds > 1 else "new problems alone, since there is one seed"
    rough = f"; with {seeds} seeds it is a rough one" if 1 < seeds < 10 else ""
    text = (
        f"{shown}: mean ± standard error, n = training seeds × problems × samples a problem."
        f" The error is for {new}{rough}. "
    )
    others = [c for c in table["columns"] if c["paper_column"] and c["paper_column"] != c["label"]]
    if others:
        pairs = ", ".join(f"{c['paper_column']} beside {c['label']}" for c in others)
        text += (
            f"The columns headed “{paper_heading(table)}” are another model on other benchmarks ({pairs}): they are for"
            " orientation, not for comparison. "
        )
    return text + f"{NOT_PUBLISHED}: not published in any copy that we could read; {NONE}: no such cell in the paper."


def notes(table: Mapping[str, Any]) -> list[str]:
    """What must be known about single rows, and of rows that are not there."""
    found = [f"{row['label']}: {row['note']}." for row in table["rows"] if row["note"]]
    if expert := table.get("expert"):
        paper = ", ".join(f"{column} {number}" for column, number in expert["paper"].items())
        found.append(
            f"Expert ({expert['label']}): {expert['mean']:.1f} a trace, mean over {expert['traces']} traces, in"
            f" {expert['measured_in']}; the paper's: {paper}."
        )
    return found + [f"{label}: not built: {reason}." for label, reason in table.get("not_built", {}).items()]


# --- verdicts ------------------------------------------------------------------------------------

HOLDS, FAILS, NEGLIGIBLE, UNDECIDED, NOT_RUN = "holds", "fails", "negligible", "undecided", "not run"
ORDER = (HOLDS, FAILS, NEGLIGIBLE, UNDECIDED, NOT_RUN)
TITLE = "What the paper claims, and what is found here"


def read_claims(path: Path) -> dict[str, Any]:
    """The verdicts in a file that `chord judge` wrote."""
    needed = ("study", "seeds", "rules_dated", "rules_as_dated", "claims", "level", "smallest_effects")
    return read_json(path, "verdicts that chord judge wrote", "build it: snakemake claims", needed)


def counted(claims: Sequence[Mapping[str, Any]]) -> str:
    """How many claims have which verdict, in one line."""
    verdicts = [claim["verdict"] for claim in claims]
    return f"{len(claims)} claims: " + ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in ORDER)


def ordered(claims: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Primary claims first, then those that were decided, those that were not run last, else as in config/."""
    return sorted(claims, key=lambda claim: (not claim["primary"], ORDER.index(claim["verdict"])))


def summaries(data: Mapping[str, Any]) -> list[str]:
    """A sentence for each primary claim: what was found, what the paper has, the verdict."""
    return [claim["summary"] or f"{claim['sentence']} Not run." for claim in data["claims"] if claim["primary"]]


SEEDS_TITLE = "What more seeds would decide"
SEEDS_HEADS = ("seeds", "decided", "these too, four times in five, if what was found is true")
MORE_SEEDS = (20, 40, 80, 160, 1000)


def by_seeds(data: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """With how many seeds how many of the claims would be decided, and which ones more, if what was found is true."""
    run, now = [claim for claim in data["claims"] if claim["verdict"] != NOT_RUN], len(data["seeds"])
    needed = [(now if claim["verdict"] != UNDECIDED else claim["seeds_needed"], claim) for claim in run]
    rows: list[tuple[str, str, str]] = []
    before = 0
    for seeds in (now, *(more for more in MORE_SEEDS if more > now)):
        added = [plain_sentence(claim) for need, claim in needed if need and before < need <= seeds]
        decided = sum(bool(need) and need <= seeds for need, _ in needed)
        words = f"{seeds:,} (now)" if seeds == now else f"{seeds:,}"
        rows.append((words, f"{decided} of {len(run)}", "" if seeds == now else "; ".join(added) or NONE))
        before = seeds
        if decided == len(run):
            break
    never = [plain_sentence(claim) for need, claim in needed if not need]
    return [*rows, ("no number", str(len(never)), "; ".join(never))] if never else rows


SIZES_HEADS = ("of", "smallest effect of interest", "why this size")


def sizes(data: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The smallest effect of each measure, or beside a column of the paper, with its reason."""
    return [
        (name, f"{100 * one['size']:g} %" if one["relative"] else f"{one['size']:g}", one["reason"])
        for name, one in data["smallest_effects"].items()
    ]


def rule(data: Mapping[str, Any]) -> str:
    """How verdicts are made."""
    percent = f"{100 * data['level']:g} %"
    told = (
        f"The paper's claims, tried on the runs of this study by rules that were fixed on {data['rules_dated']}."
        " A claim holds, or fails, if the difference that it speaks of is decidedly on its side, or on the other;"
        " it is negligible if there is decidedly no effect as large as the smallest of interest; else it is undecided."
        f" Any wrong verdict on a primary claim has a chance of {percent} at most (Holm); of the verdicts on the"
        f" others {percent} at most are wrong on average (Benjamini-Hochberg). Differences are paired by seed, scores"
        " by problem too; ± is one standard error, for new seeds and new problems together."
    )
    if not data["rules_as_dated"]:
        told += " The rules are no longer those of that date: config/claims.yaml was changed without a new date."
    return told


def plain_sentence(claim: Mapping[str, Any]) -> str:
    """The sentence without its full stop, and without the paper's name of the benchmark."""
    return re.sub(r" \(the paper: [^)]*\)", "", claim["sentence"]).removesuffix(".")


def difference(claim: Mapping[str, Any]) -> str:
    """The difference with its standard error and unit; a dash for a claim that was not run."""
    if claim["difference"] is None:
        return NONE
    se = claim["se"]
    digits = 1 if claim["unit"] == "points" else 3 if not se else max(0, 1 - math.floor(math.log10(se)))
    error = "" if se is None else f" ± {se:.{digits}f}"
    return f"{claim['difference']:+.{digits}f}{error} {claim['unit']}"


def said(claim: Mapping[str, Any]) -> str:
    """What was found and why the verdict follows, after the sentence."""
    return "; ".join(part for part in (claim["found"], claim["reason"]) if part)


# --- Markdown ------------------------------------------------------------------------------------


def markdown(table: Mapping[str, Any]) -> str:
    """The table with its caption."""
    heads, rule = ["arm"], ["---"]
    for column in table["columns"]:
        beside = f"{paper_heading(table)}, {column['paper_column'] or NONE}"
        heads += [f"{column['label']}, {column['metric']} (n)", beside]
        rule += ["---:", "---:"]
    title, study = as_markdown(table["title"]), as_markdown(table["study_title"])
    lines = [f"# {title}", "", f"{study}.", "", _line(heads), f"| {' | '.join(rule)} |"]
    for row in table["rows"]:
        words = [row["label"]]
        for column in table["columns"]:
            cell = row["cells"][column["benchmark"]]
            words += [f"{value(cell)} ({count(cell)})", paper_value(cell)]
        lines.append(_line(words))
    lines += ["", as_markdown(caption(table)), *(f"\n{as_markdown(note)}" for note in notes(table))]
    return "\n".join(lines) + "\n"


def verdicts_markdown(data: Mapping[str, Any], study_title: str) -> str:
    """The primary claims in sentences, then all claims with verdicts as a list, and what more seeds would decide."""
    lines = [f"# {TITLE}", "", f"{as_markdown(study_title)}. {counted(data['claims'])}.", ""]
    lines += [*(f"- {as_markdown(sentence)}" for sentence in summaries(data)), "", rule(data), ""]
    for claim in ordered(data["claims"]):
        words = as_markdown(f"{claim['sentence']} ({said(claim)}) Paper: {claim['evidence']}")
        lines.append(f"- **{claim['verdict']}**: {words}")
    lines += ["", f"## {SEEDS_TITLE}", "", _line(SEEDS_HEADS), "| ---: | ---: | --- |", *map(_line, by_seeds(data))]
    return "\n".join(lines) + "\n"


def as_markdown(text: str) -> str:
    """The text as Markdown that shows it as it is, on one line: no mark-up, no new cell, no HTML."""
    line = re.sub(r"([\\`*_\[\]<>|~&$])", r"\\\1", " ".join(text.split()))
    return re.sub(r"^(\d*)([-+#=.)])(?=\s|$|[-+#=])", r"\1\\\2", line)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(as_markdown, cells)) + " |"


# --- HTML ----------------------------------------------------------------------------------------

WEB = Path(__file__).with_name("web")


def rendered(template: str, **data: Any) -> str:
    """The page that a template of web/ makes of the data. Text in it is escaped; a name that is missing raises."""
    # Here, since Snakemake and `chord audit` import this module and make no page.
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(WEB), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    files = {path.name: path.read_text(encoding="utf-8") for path in WEB.glob("*.*") if path.suffix in (".css", ".js")}
    return environment.get_template(template).render(files=files, **data) + "\n"


def table_page(table: Mapping[str, Any]) -> str:
    """One table with its caption, as a page of its own."""
    return rendered("table.html", title=table["title"], table=shown(table))


def verdicts_page(data: Mapping[str, Any], study_title: str) -> str:
    """All claims with verdicts, as a page of its own."""
    claims = [{**claim, "said": said(claim)} for claim in ordered(data["claims"])]
    return rendered(
        "claims.html",
        title=TITLE,
        study=study_title,
        counts=counted(claims),
        summaries=summaries(data),
        rule=rule(data),
        claims=claims,
        seeds=(SEEDS_TITLE, SEEDS_HEADS, by_seeds(data)),
    )


def shown(table: Mapping[str, Any]) -> dict[str, Any]:
    """A table as templates show it: `words` stand below it; each cell has n and the paper's number in words."""
    rows: list[dict[str, Any]] = []
    for row in table["rows"]:
        cells = {key: {**cell, "n": count(cell), "beside": paper_value(cell)} for key, cell in row["cells"].items()}
        rows.append({**row, "cells": cells})
    return {**table, "rows": rows, "words": " ".join([caption(table), *notes(table)])}


# --- terminal ------------------------------------------------------------------------------------

STYLES = {HOLDS: "green", FAILS: "red", NEGLIGIBLE: "blue", UNDECIDED: "yellow"}
NARROW_LABEL = 11
Said = Callable[[str], str]  # words as the terminal can show them


def _terminal() -> tuple[Console, Said]:
    console = Console(highlight=False)
    is_utf8 = console.encoding.lower().replace("-", "").startswith("utf8")
    return console, str if is_utf8 else in_ascii


def show(table: Mapping[str, Any], claims: Mapping[str, Any] | None, files: Mapping[str, Sequence[Path]]) -> None:
    """Print the table, its caption, the verdicts if there are any, and where the other files are."""
    console, said = _terminal()
    console.print()
    console.print(Text(said(table["title"]), "bold"))
    console.print(Text(said(table["study_title"])))
    for part in _fitting(table, console, said):
        console.print(part)
    console.print()
    for words in (caption(table), *notes(table)):
        console.print(Text(said(words), "dim"))
    if claims:
        show_verdicts(claims)
    if any(files.values()):
        console.print()
    for name, paths in files.items():
        for number, path in enumerate(paths):
            console.print(Text(said(f"{name if number == 0 else '':<10}{path}")), soft_wrap=True)


def show_verdicts(data: Mapping[str, Any]) -> None:
    """Print how many claims have which verdict, each that was run, what more seeds would decide, the primary claims."""
    console, text = _terminal()
    console.print()
    console.print(Text(text(f"{TITLE} (rules of {data['rules_dated']})"), "bold"))
    console.print(Text(text(counted(data["claims"]))))
    if not data["rules_as_dated"]:
        console.print(Text("config/claims.yaml was changed without a new date", "yellow"))
    grid = Table.grid(padding=(0, 2, 0, 0))
    for claim in ordered(data["claims"]):
        if claim["verdict"] != NOT_RUN:
            found = Text(text(claim["sentence"])).append(text(f" ({said(claim)})"), "dim")
            grid.add_row(Text(claim["verdict"], STYLES[claim["verdict"]]), found)
    console.print(grid)
    decided = "; ".join(f"{seeds}: {count}" for seeds, count, _ in by_seeds(data))
    console.print(Text(text(f"\n{SEEDS_TITLE}, by number of seeds: {decided}")))
    console.print(Text("\nPrimary claims", "bold"))
    for sentence in summaries(data):
        console.print(Text(text(f"- {sentence}")))


def _fitting(table: Mapping[str, Any], console: Console, said: Said) -> list[Any]:
    """The table with wide headings, else with narrow ones, else one table a benchmark: the first that fits."""
    columns = table["columns"]
    wide = console.options.update(max_width=10_000)
    for narrow in (False, True):
        whole = _drawn(table, columns, narrow, said)
        if Measurement.get(console, wide, whole).maximum <= console.width:
            return [Text(said(_legend(table))) if narrow else Text(), whole]
    return [Text(), *(_drawn(table, [column], False, said) for column in columns)]


def _legend(table: Mapping[str, Any]) -> str:
    """What narrow headings leave out."""
    metrics = dict.fromkeys(column["metric"] for column in table["columns"])
    words = f"\n{' | '.join(metrics)} in percent ± standard error; {paper_heading(table)}"
    counts = {count(cell) for row in table["rows"] for cell in row["cells"].values()}
    return words + (f"\nn = {counts.pop()} (seeds × problems × samples) in every cell" if len(counts) == 1 else "")


def _drawn(table: Mapping[str, Any], columns: Sequence[Mapping[str, Any]], narrow: bool, said: Said) -> Table:
    """These columns; n stands in the heading where it is the same for the column, else in the cells."""
    rows = table["rows"]
    counts = {key: {count(row["cells"][key]) for row in rows} for key in (column["benchmark"] for column in columns)}
    unit = ", %" if table.get("unit", "percent") == "percent" else ""
    is_one_n = len(set[str]().union(*counts.values())) == 1  # then the legend above a narrow table has it
    style = box.ASCII_DOUBLE_HEAD if said is in_ascii else box.SIMPLE_HEAD
    drawn = Table(box=style, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    drawn.add_column("arm", no_wrap=True, vertical="bottom")
    for column in columns:
        ns, beside = counts[column["benchmark"]], column["paper_column"] or NONE
        n = f"\nn {min(ns)}" if len(ns) == 1 else ""
        if narrow:
            head = "\n".join(textwrap.wrap(column["label"], NARROW_LABEL)) + ("" if is_one_n else n)
            paper = f"paper:\n{beside}"
        else:
            head = f"{column['label']}\n{column['metric']}{unit}{n}"
            paper = paper_heading(table).replace(": ", ":\n") + f"\n{beside}"
        drawn.add_column(said(head), justify="right", no_wrap=True, vertical="bottom")
        drawn.add_column(said(paper), justify="right", no_wrap=True, vertical="bottom", style="dim")
    for row in rows:
        words = [row["label"]]
        for key, ns in counts.items():
            cell = row["cells"][key]
            words += [value(cell) + ("" if len(ns) == 1 else f" (n {count(cell)})"), paper_value(cell)]
        drawn.add_row(*map(said, words))
    return drawn
