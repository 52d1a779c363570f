"""What the paper says and what these results say to it: holds, fails, undecided, or not run. Found, not forced.

The rules are those of config/claims.yaml; chord.findings.comparisons makes differences of them. All p of a study are
corrected together (Holm). One seed decides nothing: how much training runs differ is then unknown.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chord.config.paper import PaperClaim
from chord.config.project import Project
from chord.findings.comparisons import Judged, judged_by, scale_of, unit_of
from chord.findings.needs import Needs, needs
from chord.findings.statistics import LEVEL, Estimate, holm, seeds_needed

HOLDS, FAILS, UNDECIDED, NOT_RUN = "holds", "fails", "undecided", "not run"
VERDICTS = (HOLDS, FAILS, UNDECIDED, NOT_RUN)


def as_data(project: Project, results: Path, versions: Mapping[str, str] | None = None) -> dict[str, Any]:
    """claims.json: every claim of config/claims.yaml with its verdict, by what lies in results/STUDY.

    `versions` are those of the benchmarks as they are defined today, where older scores are to be refused. Raises
    UserError for these, and for results that are missing or damaged.
    """
    said = project.claims
    rows: list[tuple[PaperClaim, Needs, Judged | str]] = []
    for claim in said.claims:
        one = needs(project, claim)
        rows.append((claim, one, one.lacking or judged_by(project, results, versions, claim.rule, one)))
    p_values = [judged.p for *_, judged in rows if isinstance(judged, Judged) and judged.p is not None]
    corrected = iter(holm(p_values))
    found = []
    for claim, one, judged in rows:
        if isinstance(judged, str):
            found.append(_not_run(claim, one, judged))
        else:
            after = next(corrected) if judged.p is not None else None
            found.append(_verdict(claim, one, judged, after, len(p_values)))
    return {
        "study": project.study.name,
        "seeds": list(project.seeds),
        "artefacts": list(project.choice.artefacts),
        "rules_dated": said.dated,
        "rules_as_dated": said.as_dated,
        "correction": "holm",
        "level": LEVEL,
        "claims": found,
    }


# --- verdicts ----------------------------------------------------------------------------------


def _verdict(claim: PaperClaim, one: Needs, judged: Judged, corrected: float | None, count: int) -> dict[str, Any]:
    part = judged.deciding
    estimate, scale = part.estimate, scale_of(judged.measure)
    verdict, seeds = UNDECIDED, None
    if corrected is None:
        reason = "one seed: how much training runs differ is unknown, so run two or more"
    elif corrected <= LEVEL:
        verdict = FAILS if judged.p_fails < judged.p_holds else HOLDS
        reason = f"p = {corrected:.2g} after correction for {count} claims"
    else:
        seeds = seeds_needed(estimate, part.effect, LEVEL / count)
        seeds = seeds and max(seeds, estimate.n_seeds + 1)
        reason = f"p = {corrected:.2g} after correction for {count} claims; {_needed(estimate, seeds)}"
    interval = estimate.interval
    return _told(claim, one, verdict, reason) | {
        "found": judged.found,
        "difference": _rounded(scale * estimate.mean),
        "se": _rounded(scale * estimate.se),
        "interval": interval and [_rounded(scale * end) for end in interval],
        "margin": getattr(claim.rule, "margin", 0.0),
        "p": judged.p and _rounded(judged.p),
        "p_corrected": corrected and _rounded(corrected),
        "n_seeds": estimate.n_seeds,
        "n_problems": estimate.n_problems,
        "seeds_needed": seeds,
        "unit": unit_of(judged.measure),
    }


def _not_run(claim: PaperClaim, one: Needs, reason: str) -> dict[str, Any]:
    numbers = ("difference", "se", "interval", "margin", "p", "p_corrected", "n_seeds", "n_problems", "seeds_needed")
    return _told(claim, one, NOT_RUN, reason) | {"found": "", **dict.fromkeys(numbers), "unit": ""}


def _told(claim: PaperClaim, one: Needs, verdict: str, reason: str) -> dict[str, Any]:
    return {
        "id": claim.id,
        "sentence": claim.sentence,
        "evidence": f"{claim.paper.place}: {claim.paper.says}",
        "verdict": verdict,
        "reason": reason,
        "artefact": one.artefact,
        "arms": list(one.arms),
    }


def _needed(estimate: Estimate, seeds: int | None) -> str:
    if seeds:
        return f"a difference of this size would be decided with {seeds} seeds, four times in five"
    if estimate.n_problems is not None and estimate.shared > 0:
        return "no number of seeds would decide a difference of this size on these problems"
    return "no number of seeds up to 1000 would decide a difference of this size"


def _rounded(value: float) -> float | None:
    """Six decimals, without the last bits that differ between machines; what is unknown is null."""
    return None if math.isnan(value) else round(value, 6)
