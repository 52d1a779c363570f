"""Tables and verdicts as Markdown, HTML and text for a terminal."""

import base64
import gzip
import hashlib
import json
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from chord.errors import UserError
from chord.findings.reading import read_json
from chord.provenance.cli import plain as in_ascii

# --- rendering -----------------------------------------------------------------------------------

# A table's JSON as Markdown, and the words that stand below it wherever it is shown. Computes nothing.

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


# --- page ----------------------------------------------------------------------------------------

# Parts of the HTML pages: plain, self-contained, readable in light and dark. Knows the JSON of artefacts; no arms.

CSS = """
:root { color-scheme: light dark; --ink: #1c1c1c; --soft: #5b5b5b; --line: #d8d8d8; --back: #ffffff; --paper: #f5f5f3;
  --yes: #00654a; --no: #a33c00; --open: #5b5b5b; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e8; --soft: #a8a8a8; --line: #3c3c3c; --back: #161616;
  --paper: #202020; --yes: #4fd1a5; --no: #ff9a5c; --open: #b5b5b5; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 66rem; background: var(--back); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .3rem; } h2 { font-size: 1.25rem; margin: 2.6rem 0 .6rem; }
p, figcaption, li { max-width: 46rem; } .soft, figcaption, small { color: var(--soft); }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: .38rem .8rem; text-align: right; vertical-align: baseline; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child, .text th, .text td { text-align: left; padding-left: 0; }
thead th { vertical-align: bottom; border-bottom: 1px solid var(--soft); font-weight: 600; white-space: nowrap; }
thead th small { font-weight: 400; } tbody th { font-weight: 500; white-space: nowrap; }
.numbers td { white-space: nowrap; } .text th, .text td { padding-right: .5rem; }
.numbers thead tr:last-child th { text-align: right; padding-left: .8rem; }
.paper { color: var(--soft); } td small { display: block; font-size: .75rem; }
thead tr:first-child th[colspan] { text-align: center; border-bottom-color: var(--line); }
ul.claims { list-style: none; padding: 0; } ul.claims li { margin: .45rem 0; padding-left: 1.5rem; position: relative; }
ul.claims li > b:first-child { position: absolute; left: 0; } .yes b { color: var(--yes); } .no b { color: var(--no); }
.open b { color: var(--open); } ul.claims small { display: block; }
figure { margin: 1.6rem 0 2.4rem; } figure > div { background: #fff; border: 1px solid var(--line); border-radius: 6px;
  padding: .8rem; max-width: 34rem; } figure svg { display: block; width: 100%; height: auto; }
figcaption { font-size: .92rem; margin-top: .6rem; } code { font-size: .9em; }
details { margin: .6rem 0; } summary { cursor: pointer; }
"""
CLASSES = {"holds": "yes", "fails": "no", "undecided": "open", "not run": "open"}


def page(title: str, body: Iterable[str]) -> str:
    """A whole HTML page that needs nothing from outside."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def table_page(table: dict[str, Any]) -> str:
    """One table with its caption, as a page of its own."""
    body = [
        f"<h1>{escape(table['title'])}</h1>",
        f'<p class="soft">{escape(table["study_title"])}</p>',
        table_part(table),
    ]
    return page(table["title"], body)


def table_part(table: dict[str, Any]) -> str:
    """The table and its caption: ours and the paper's number side by side, n below ours."""
    top = ['<th rowspan="2" scope="col">arm</th>']
    below = []
    for column in table["columns"]:
        top.append(f'<th colspan="2" scope="colgroup">{escape(column["label"])}</th>')
        below.append(f'<th scope="col">ours,<br>mean ± se<br><small>{escape(column["metric"])}, %</small></th>')
        paper = escape(paper_heading(table)).replace(": ", ":<br>", 1)
        below.append(
            f'<th scope="col" class="paper">{paper}<br><small>{escape(column["paper_column"] or "–")}</small></th>'
        )
    rows = []
    for row in table["rows"]:
        cells = [f'<th scope="row">{escape(row["label"])}</th>']
        for column in table["columns"]:
            cell = row["cells"][column["benchmark"]]
            cells.append(f"<td>{value(cell)}<small>n = {count(cell)}</small></td>")
            cells.append(f'<td class="paper">{paper_value(cell)}</td>')
        rows.append(f"<tr>{''.join(cells)}</tr>")
    words = " ".join([caption(table), *notes(table)])
    head = f"<thead>\n<tr>{''.join(top)}</tr>\n<tr>{''.join(below)}</tr>\n</thead>"
    body = "<tbody>\n" + "\n".join(rows) + "\n</tbody>"
    table_itself = f'<div class="wide"><table class="numbers">\n{head}\n{body}\n</table></div>'
    return f'{table_itself}\n<p class="soft">{escape(words)}</p>'


def figure_part(figure: dict[str, Any], svg: str, judged: bool) -> str:
    """A figure drawn in place and its caption; `judged`: verdicts on what the paper says of it stand below."""
    parts = [
        f'<figure id="{escape(figure["artefact"])}">\n<div>{inline_svg(svg, figure["artefact"], figure["title"])}</div>'
    ]
    parts.append(f"<figcaption><b>{escape(figure['title'])}.</b> {escape(figure_caption(figure, judged))}</figcaption>")
    return "\n".join(parts) + "\n</figure>"


def figure_caption(figure: dict[str, Any], judged: bool) -> str:
    """What is averaged over what, and what the paper says of its own figure."""
    if figure.get("kind") == "scheme":
        return f"Drawn from the formulas; no run stands behind it. The paper: {figure['paper']['claim']}"
    seeds = ", ".join(map(str, figure["seeds"]))
    if len(figure["seeds"]) > 1:
        text = f"Lines: mean over seeds {seeds}; bands: mean ± one standard error over these seeds. "
    else:
        text = f"One seed ({seeds}), so there is no band. "
    for panel in figure["panels"]:
        if panel["smoothing"]["points"] > 1:
            text += (
                f"{panel['label'].capitalize()}: centred moving mean over {panel['smoothing']['points']} points of each"
                " seed, shorter at the ends. "
            )
        if panel["arms_without_values"]:
            text += f"No such value exists for {', '.join(panel['arms_without_values'])}. "
    if figure["paper"]["claim"]:
        text += f"The paper ({figure['paper']['model']}): {figure['paper']['claim']} "
        text += "" if judged else "Its words give no threshold to compute, so there is no verdict."
    return text.strip()


def inline_svg(svg: str, name: str, title: str) -> str:
    """The drawing as an element of the page; its ids begin with `name`, so that two figures do not mix theirs."""
    start = svg.index("<svg")
    body = re.sub(r"<metadata>.*?</metadata>", "", svg[start:], flags=re.DOTALL)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'((?:xlink:)?href="#|url\(#)', rf"\g<1>{name}-", body)
    return body.replace("<svg", f'<svg role="img" aria-label="{escape(title)}"', 1).strip()


def rows_part(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of plain text."""
    top = "".join(f'<th scope="col">{escape(head)}</th>' for head in heads)
    body = "\n".join("<tr>" + "".join(f"<td>{_kept_whole(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    table = f'<table class="text">\n<thead><tr>{top}</tr></thead>\n<tbody>\n{body}\n</tbody></table>'
    return f'<div class="wide">{table}</div>'


def _kept_whole(cell: str) -> str:
    """A cell's text; one of a few words does not break across lines."""
    return escape(cell if len(cell) > 24 else cell.replace(" ", "\u00a0"))


# --- verdicts ------------------------------------------------------------------------------------

# The words of claims.json: how verdicts are counted, ordered and told, as Markdown and HTML. Judges nothing.

ORDER = ("holds", "fails", "undecided", "not run")
SYMBOLS = {"holds": "✓", "fails": "✗", "undecided": "?", "not run": "–"}
TITLE = "What the paper claims, and what is found here"


def read_claims(path: Path) -> dict[str, Any]:
    """The verdicts in a file that `chord judge` wrote."""
    what, remedy = "verdicts that chord judge wrote", "build it: snakemake claims"
    found = read_json(path, what, remedy)
    if lacking := {"study", "rules_dated", "rules_as_dated", "claims", "level"} - found.keys():
        raise UserError(f"{path}: found no {', '.join(sorted(lacking))}, expected {what}; {remedy}")
    return found


def counted(claims: Sequence[dict[str, Any]]) -> str:
    """How many claims have which verdict, in one line."""
    counts = {verdict: sum(claim["verdict"] == verdict for claim in claims) for verdict in ORDER}
    return f"{len(claims)} claims: " + ", ".join(f"{count} {verdict}" for verdict, count in counts.items())


def ordered(claims: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those that were decided first, those that were not run last, else as in config/claims.yaml."""
    return sorted(claims, key=lambda claim: ORDER.index(claim["verdict"]))


def of_artefact(data: dict[str, Any], artefact: str) -> list[dict[str, Any]]:
    """The claims that one table or figure shows the numbers of."""
    return [claim for claim in data["claims"] if claim["artefact"] == artefact]


def rule(data: dict[str, Any]) -> str:
    """How verdicts are made."""
    told = (
        f"The paper's claims, tried on the runs of this study by rules that were fixed on {data['rules_dated']}."
        " A claim holds, or fails, if the difference that it speaks of is beyond its margin with"
        f" p ≤ {data['level']:g} after Holm's correction for the number of claims that were run; else it is undecided."
        " Differences are paired by seed and, where they are scores, by problem; ± is one standard error, for new seeds"
        " and new problems together. With few seeds only large and steady differences are decided."
    )
    if not data["rules_as_dated"]:
        told += " The rules are no longer those of that date: config/claims.yaml was changed without a new date."
    return told


def said(claim: dict[str, Any]) -> str:
    """What was found and why the verdict follows, after the sentence."""
    return "; ".join(part for part in (claim["found"], claim["reason"]) if part)


def verdicts_markdown(data: dict[str, Any], study_title: str) -> str:
    """All claims with verdicts, as a list."""
    lines = [f"# {TITLE}", "", f"{as_markdown(study_title)}. {counted(data['claims'])}.", "", rule(data), ""]
    for claim in ordered(data["claims"]):
        words = as_markdown(f"{claim['sentence']} ({said(claim)}) Paper: {claim['evidence']}")
        lines.append(f"- **{claim['verdict']}**: {words}")
    return "\n".join(lines) + "\n"


def verdicts_page(data: dict[str, Any], study_title: str) -> str:
    """All claims with verdicts, as a page of its own."""
    body = [
        f"<h1>{escape(TITLE)}</h1>",
        f'<p class="soft">{escape(study_title)}. {escape(counted(data["claims"]))}.</p>',
        f"<p>{escape(rule(data))}</p>",
        listed(ordered(data["claims"])),
    ]
    return page(TITLE, body)


def listed(claims: Sequence[dict[str, Any]]) -> str:
    """Verdicts as a list in HTML; said in words, never by colour alone."""
    items = [
        f'<li class="{CLASSES[claim["verdict"]]}"><b aria-hidden="true">{SYMBOLS[claim["verdict"]]}</b>'
        f"{escape(claim['sentence'])} <b>{escape(claim['verdict'])}</b><small>{escape(said(claim))}</small>"
        f'<small class="paper">Paper: {escape(claim["evidence"])}</small></li>'
        for claim in claims
    ]
    return f'<ul class="claims">\n{chr(10).join(items)}\n</ul>'


# --- terminal ------------------------------------------------------------------------------------

# A table's JSON in a terminal: within its width and character set, in colour only if it is one. Computes nothing.

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
    console.print(text(f"{TITLE} (rules of {claims['rules_dated']})", "bold"))
    console.print(text(counted(claims["claims"])))
    if not claims["rules_as_dated"]:
        console.print(text("config/claims.yaml was changed without a new date", "yellow"))
    grid = Table.grid(padding=(0, 2, 0, 0))
    for claim in ordered(claims["claims"]):
        if claim["verdict"] != "not run":
            found = text(claim["sentence"]).append_text(text(f" ({said(claim)})", "dim"))
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


# --- packing -------------------------------------------------------------------------------------

# What the page carries with it: its own style and script, and data in compressed form. Knows no results.

WEB = Path(__file__).with_name("web")
STYLE = "page.css"
SCRIPTS = ("data.js", "figures.js", "chain.js", "page.js")


def style() -> str:
    """The style sheet of the page."""
    return (WEB / STYLE).read_text(encoding="utf-8")


def script() -> str:
    """The whole script of the page; names that it gives are seen by nobody else."""
    parts = [(WEB / name).read_text(encoding="utf-8") for name in SCRIPTS]
    return '(() => {\n"use strict";\n' + "\n".join(parts) + "})();\n"


def digests(code: Path | None = None) -> dict[str, str]:
    """SHA-256 of style sheet and scripts, by name; `code` is the folder that holds another chord/ than this one."""
    folder = code / "chord" / "findings" / "web" if code else WEB
    files = (folder / name for name in (STYLE, *SCRIPTS))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files if path.is_file()}


def packed(name: str, value: Any) -> str:
    """The data as a script element with the id `name`: JSON, gzip, base64; so nothing in it can be taken for HTML."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    content = gzip.compress(text.encode("utf-8", errors="replace"), compresslevel=9, mtime=0)
    return f'<script type="text/plain" id="{name}">{base64.b64encode(content).decode("ascii")}</script>'
