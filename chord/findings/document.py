"""The page of a study, section by section, as one HTML file. Puts together what others found; computes nothing."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import Any

from chord.config.load import Ours
from chord.config.project import Project
from chord.findings import history, packing, page, ran, sheet, values, verdict_table, verdicts
from chord.provenance.manifest import Manifest

SECTIONS = {
    "tables": "Tables",
    "claims": "Claims",
    "figures": "Figures",
    "ran": "What was run",
    "values": "Values",
    "not-run": "Not run",
}


@dataclass(frozen=True)
class Shown:
    """All that the page shows. `chain`, `answers`: see chord.findings.links and samples; `drawings`: SVG by figure."""

    project: Project
    artefacts: dict[str, dict[str, Any]]
    drawings: dict[str, str]
    claims: dict[str, Any] | None
    trainings: dict[str, list[history.Training]]
    jobs: list[Manifest]
    chain: dict[str, Any]
    answers: dict[str, Any]
    ours: list[Ours]
    not_run: list[str]


def document(shown: Shown) -> str:
    """The whole page, self-contained: style, script and data are in it."""
    title = escape(f"CHORD: {shown.project.study.title}")
    figures = [_plotted(data) for data in shown.artefacts.values() if data.get("panels")]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>\n{packing.style()}</style>\n</head>\n<body>\n"
        + "\n".join(_body(shown))
        + "\n"
        + "\n".join(
            packed
            for packed in (
                packing.packed("figure-data", figures),
                packing.packed("chain-data", shown.chain),
                packing.packed("answer-data", shown.answers),
            )
        )
        + f"\n<script>\n{packing.script()}</script>\n</body>\n</html>\n"
    )


def _body(shown: Shown) -> Iterator[str]:
    """The parts of the page, in reading order."""
    study = shown.project.study
    yield '<a class="skip" href="#main">To the tables</a>'
    yield '<header class="top">\n<button type="button" id="theme" hidden></button>\n<h1>CHORD, reproduced</h1>'
    yield (
        f'<p class="soft">{escape(study.title)}. Study <code>{escape(study.name)}</code>, training seeds'
        f" {', '.join(map(str, shown.project.seeds))}. The method: <em>On-Policy RL Meets Off-Policy Experts</em>,"
        " arXiv:2508.11408.</p>"
    )
    present = [name for name in SECTIONS if name != "claims" or shown.claims]
    items = "".join(f'<li><a href="#{name}">{SECTIONS[name]}</a></li>' for name in present)
    yield f'<nav aria-label="Sections"><ul>{items}</ul></nav>\n{_glance(shown)}\n</header>\n<main id="main">'
    yield from _tables(shown)
    if shown.claims:
        yield f'<h2 id="claims">{SECTIONS["claims"]}</h2>\n<p>{escape(verdicts.rule(shown.claims))}</p>'
        yield verdict_table.part(verdicts.ordered(shown.claims["claims"]))
    yield from _figures(shown)
    yield f'<h2 id="ran">{SECTIONS["ran"]}</h2>'
    yield from ran.trainings(shown.trainings)
    yield from ran.kinds_of_jobs(shown.jobs) if shown.jobs else ()
    yield f'<h2 id="values">{SECTIONS["values"]}</h2>'
    yield from values.values(shown.project)
    yield '<h3 id="ours">Values that are ours</h3>\n<p>The paper does not give them, or gives others.</p>'
    yield values.ours(shown.ours)
    yield f'<h2 id="not-run">{SECTIONS["not-run"]}</h2>'
    yield "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in shown.not_run) + "</ul>\n</main>"
    yield "<footer>Made by <code>chord report</code>; the manifest beside this file says from what.</footer>"
    yield (
        '<dialog id="inspector" aria-labelledby="inspector-title"><header><h2 id="inspector-title"></h2>'
        '<button type="button" class="close" aria-label="Close">Close</button></header>'
        '<div class="body"></div></dialog>'
    )


def _glance(shown: Shown) -> str:
    """The whole study in a few numbers."""
    runs = [one for group in shown.trainings.values() for one in group if one.manifest]
    nodes, bad = shown.chain["nodes"], set(shown.chain["bad"])
    broken = sum(node["status"] in bad for node in nodes)
    count = Counter(node["status"] for node in nodes)
    held = ", ".join(f"{number:,} {status}" for status, number in count.most_common())
    spent = sum(one.seconds for one in shown.jobs)
    tiles = [
        ("Tables and figures", str(len(shown.artefacts)), f"seeds {', '.join(map(str, shown.project.seeds))}"),
        ("Training runs", str(len(runs)), f"{history.duration(sum(one.seconds for one in runs))} of training"),
        ("Jobs", f"{len(shown.jobs)}", f"{history.duration(spent)} in all"),
        ("Links behind the numbers", f"{broken} of {len(nodes)} broken" if broken else f"{len(nodes)}, all hold", held),
    ]
    if shown.claims:
        claims = shown.claims["claims"]
        tiles.append(("Claims of the paper", str(len(claims)), verdict_table.counted(claims)))
    parts = (f"<div><dt>{escape(a)}</dt><dd>{escape(b)}<small>{escape(c)}</small></dd></div>" for a, b, c in tiles if b)
    return f'<dl class="glance">{"".join(parts)}</dl>'


def _tables(shown: Shown) -> Iterator[str]:
    yield f'<h2 id="tables">{SECTIONS["tables"]}</h2>'
    yield '<p class="soft ask">Click a number to see what it was made of and what the models answered.</p>'
    behind = frozenset(shown.chain["cells"]) | frozenset(shown.answers["cells"])
    for name, data in shown.artefacts.items():
        if "rows" not in data or "columns" not in data:
            continue
        yield f'<section id="{escape(name)}">\n<h3>{escape(data["title"])} {_ask(shown, name, data["title"])}</h3>'
        yield sheet.table_part(data, behind)
        yield "</section>"


def _figures(shown: Shown) -> Iterator[str]:
    yield f'<h2 id="figures">{SECTIONS["figures"]}</h2>'
    for name, svg in shown.drawings.items():
        data = shown.artefacts[name]
        still = page.inline_svg(svg, name, data["title"])
        yield f'<figure id="{escape(name)}">\n<h3>{escape(data["title"])} {_ask(shown, name, data["title"])}</h3>'
        if data.get("panels"):
            yield f'<div class="plot" data-figure="{escape(name)}"></div>'
        yield f'<div class="still{" drawn" if data.get("panels") else ""}">{still}</div>'
        judged = bool(shown.claims and verdicts.of_artefact(shown.claims, name))
        yield f"<figcaption>{escape(page.figure_caption(data, judged))}</figcaption>"
        yield "</figure>"


def _ask(shown: Shown, name: str, title: str) -> str:
    """The button that opens the chain of a whole table or figure."""
    file = f"{name}.json"
    if file not in shown.chain["files"]:
        return ""
    return (
        f'<button type="button" class="chip ask" aria-haspopup="dialog" data-title="{escape(title)}"'
        f' data-file="{escape(file)}">chain</button>'
    )


def _plotted(data: dict[str, Any]) -> dict[str, Any]:
    """What the script draws of a figure, with as many digits as can be seen."""
    panels = []
    for panel in data["panels"]:
        curves = [_curve(curve) for curve in panel["curves"]]
        panels.append({"label": panel["label"], "share_of_one": bool(panel.get("share_of_one")), "curves": curves})
    return {"artefact": data["artefact"], "x": {"label": data["x"]["label"]}, "panels": panels}


def _curve(curve: dict[str, Any]) -> dict[str, Any]:
    lines = {key: _short(curve[key]) for key in ("x", "mean")}
    lines |= {key: _short(curve.get(key) or curve["mean"]) for key in ("low", "high")}
    by_seed = {seed: _short(points) for seed, points in (curve.get("by_seed") or {}).items()}
    return {"arm": curve["arm"], "label": curve["label"], **lines, "by_seed": by_seed}


def _short(numbers: list[float]) -> list[float]:
    return [float(f"{number:.6g}") for number in numbers]
