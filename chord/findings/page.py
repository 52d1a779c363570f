"""Parts of the HTML pages: plain, self-contained, readable in light and dark. Knows the JSON of artefacts; no arms."""

import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from chord.findings import rendering

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
        paper = escape(rendering.paper_heading(table)).replace(": ", ":<br>", 1)
        below.append(
            f'<th scope="col" class="paper">{paper}<br><small>{escape(column["paper_column"] or "–")}</small></th>'
        )
    rows = []
    for row in table["rows"]:
        cells = [f'<th scope="row">{escape(row["label"])}</th>']
        for column in table["columns"]:
            cell = row["cells"][column["benchmark"]]
            cells.append(f"<td>{rendering.value(cell)}<small>n = {rendering.count(cell)}</small></td>")
            cells.append(f'<td class="paper">{rendering.paper_value(cell)}</td>')
        rows.append(f"<tr>{''.join(cells)}</tr>")
    words = " ".join([rendering.caption(table), *rendering.notes(table)])
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
