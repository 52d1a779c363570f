"""The words of claims.json: how verdicts are counted, ordered and told, as Markdown and HTML. Judges nothing."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from chord.findings import page as parts
from chord.findings.reading import read_json
from chord.findings.rendering import as_markdown
from chord.provenance.files import UserError

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


def markdown(data: dict[str, Any], study_title: str) -> str:
    """All claims with verdicts, as a list."""
    lines = [f"# {TITLE}", "", f"{as_markdown(study_title)}. {counted(data['claims'])}.", "", rule(data), ""]
    for claim in ordered(data["claims"]):
        words = as_markdown(f"{claim['sentence']} ({said(claim)}) Paper: {claim['evidence']}")
        lines.append(f"- **{claim['verdict']}**: {words}")
    return "\n".join(lines) + "\n"


def page(data: dict[str, Any], study_title: str) -> str:
    """All claims with verdicts, as a page of its own."""
    body = [
        f"<h1>{escape(TITLE)}</h1>",
        f'<p class="soft">{escape(study_title)}. {escape(counted(data["claims"]))}.</p>',
        f"<p>{escape(rule(data))}</p>",
        listed(ordered(data["claims"])),
    ]
    return parts.page(TITLE, body)


def listed(claims: Sequence[dict[str, Any]]) -> str:
    """Verdicts as a list in HTML; said in words, never by colour alone."""
    items = [
        f'<li class="{parts.CLASSES[claim["verdict"]]}"><b aria-hidden="true">{SYMBOLS[claim["verdict"]]}</b>'
        f"{escape(claim['sentence'])} <b>{escape(claim['verdict'])}</b><small>{escape(said(claim))}</small>"
        f'<small class="paper">Paper: {escape(claim["evidence"])}</small></li>'
        for claim in claims
    ]
    return f'<ul class="claims">\n{chr(10).join(items)}\n</ul>'
