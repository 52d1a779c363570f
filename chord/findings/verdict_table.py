"""The paper's claims with verdicts as a table of the page, out of claims.json. Judges nothing."""

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from chord.findings.rendering import NONE
from chord.findings.verdicts import ORDER, SYMBOLS

CLASSES = {"holds": "yes", "fails": "no"}


def counted(claims: Sequence[Mapping[str, Any]]) -> str:
    """How many claims have which verdict."""
    found = Counter(str(claim["verdict"]) for claim in claims)
    return ", ".join(f"{found[verdict]} {verdict}" for verdict in dict.fromkeys([*ORDER, *found]) if found[verdict])


def part(claims: Sequence[Mapping[str, Any]]) -> str:
    """Each claim with its verdict, what was found, how sure that is; claims that were not run stand last, folded."""
    run = [claim for claim in claims if claim["verdict"] != "not run"]
    rest = [claim for claim in claims if claim["verdict"] == "not run"]
    parts = [_table(run)] if run else ["<p>None of the claims was run in this study.</p>"]
    if rest:
        parts.append(f"<details><summary>{len(rest)} claims that were not run here</summary>{_table(rest)}</details>")
    return "\n".join(parts)


def _table(claims: Sequence[Mapping[str, Any]]) -> str:
    heads = ("verdict", "claim of the paper", "difference ± se", "p, corrected", "n")
    top = "".join(f'<th scope="col">{head}</th>' for head in heads)
    rows = "\n".join(f"<tr>{_row(claim)}</tr>" for claim in claims)
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="Claims"><table class="text verdicts">'
        f"<thead><tr>{top}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>"
    )


def _row(claim: Mapping[str, Any]) -> str:
    verdict = str(claim["verdict"])
    chip = f'<span class="chip {CLASSES.get(verdict, "open")}">{SYMBOLS.get(verdict, "")} {escape(verdict)}</span>'
    said = [str(claim[key]) for key in ("found", "reason") if claim.get(key)]
    below = "".join(f"<small>{escape(words)}</small>" for words in said)
    evidence = f"<small>Paper: {escape(str(claim['evidence']))}</small>" if claim.get("evidence") else ""
    sentence = escape(str(claim.get("sentence") or claim.get("claim")))
    return (
        f"<td>{chip}</td><td>{sentence}{below}{evidence}</td><td>{escape(_difference(claim))}</td>"
        f"<td>{escape(_p(claim))}</td><td>{escape(_n(claim))}</td>"
    )


def _difference(claim: Mapping[str, Any]) -> str:
    found, se = claim.get("difference"), claim.get("se")
    if not isinstance(found, int | float):
        return NONE
    error = f" ± {se:.3g}" if isinstance(se, int | float) else ""
    return f"{found:+.3g}{error} {claim.get('unit') or ''}".strip()


def _p(claim: Mapping[str, Any]) -> str:
    found = claim.get("p_corrected")
    return NONE if not isinstance(found, int | float) else "< 0.001" if found < 0.001 else f"{found:.3f}"


def _n(claim: Mapping[str, Any]) -> str:
    """Seeds and problems, and the seeds that would decide it."""
    sizes = (("n_seeds", "seeds"), ("n_problems", "problems"))
    parts = [f"{claim[key]} {name}" for key, name in sizes if claim.get(key)]
    parts += [f"{claim['seeds_needed']} seeds to decide"] if claim.get("seeds_needed") else []
    return ", ".join(parts) or NONE
