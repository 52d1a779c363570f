"""What the paper says and what these results say to it: holds, does not hold, or undecided. Found, not forced.

A verdict needs a difference of 1.96 standard errors or more; below that the claim is undecided. Each claim is one that
the paper makes and that this scale can compute; the others are not judged. Differences are paired by seed and, where
scores are kept problem by problem, by problem.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from chord.config import Figure, Project, Table
from chord.findings.curves import Array, Curve
from chord.findings.statistics import Estimate, difference, over_seeds
from chord.findings.table import Grid, columns

HOLDS, FAILS, UNDECIDED = "holds here", "does not hold here", "undecided"
OTHER_SKILL = "MMLU-Pro"  # the paper's monitor of what is forgotten; its column is no measure of the task

# On the task, the first arm ends above the second (arXiv:2508.11408, Table 1 and section 4.2).
ABOVE_ON_TASK = (
    ("original", "sft-light"),
    ("grpo", "original"),
    ("chord-mu", "grpo"),
    ("chord-mu", "sft-best+rl"),
    ("chord-phi", "grpo"),
    ("chord-phi", "sft-best+rl"),
)
BEST_ON_OTHER_SKILL = "chord-phi"

# Figure: (metric, the higher arm, the lower ones) at the end of training.
ENDS_ABOVE = {
    "figure5": (("policy_entropy", "mu-0.1", ("grpo",)), ("policy_entropy", "grpo", ("chord-is",))),
    "figure7": (("validation.accuracy", "chord-mu", ("mu-0.02", "mu-0.1", "mu-0.5")),),
    "figure9": (("reward", "chord-phi", ("grpo",)),),
}
# Figure: (metric, arms, +1 if the curve falls and then rises, -1 if it rises and then falls).
TURNS = {
    "figure2": ("validation.accuracy", ("sft-lr-low", "sft-lr-mid", "sft-lr-high"), 1),
    "figure4": ("reward", ("chord-mu",), 1),
    "figure6": ("response_tokens", ("chord-mu",), -1),
}


@dataclass(frozen=True)
class Claim:
    """A claim of the paper and its verdict; `found` says in words and numbers what decided it."""

    claim: str
    verdict: str
    found: str
    difference: float
    se: float | None
    unit: str

    def as_data(self) -> dict[str, Any]:
        """The claim as it stands in an artefact's JSON."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def of_table(project: Project, table: Table, grid: Grid) -> list[dict[str, Any]]:
    """Verdicts on the claims about end results whose arms are all in the table."""
    keys, benchmarks = columns(project, table), project.study.benchmarks
    tasks = [key for key in keys if benchmarks[key].paper_column != OTHER_SKILL]
    others = [key for key in keys if benchmarks[key].paper_column == OTHER_SKILL]
    claims: list[Claim] = []
    for high, low in ABOVE_ON_TASK if tasks else ():
        if high in table.arms and low in table.arms:
            pairs = {project.arms[low].label: difference(grid[high, tasks[0]].right, grid[low, tasks[0]].right)}
            names = (project.arms[high].label, "ends above", project.arms[low].label)
            names = (names[2], "ends below", names[0]) if project.arms[high].same_as else names
            text = f"{' '.join(names)} on {benchmarks[tasks[0]].label}"
            claims.append(_above_all(text, project.arms[high].label, pairs, 100, "points"))
    rivals = [arm for arm in table.arms if arm != BEST_ON_OTHER_SKILL and not project.arms[arm].same_as]
    if others and rivals and BEST_ON_OTHER_SKILL in table.arms:
        ours = grid[BEST_ON_OTHER_SKILL, others[0]].right
        pairs = {project.arms[arm].label: difference(ours, grid[arm, others[0]].right) for arm in rivals}
        best = project.arms[BEST_ON_OTHER_SKILL].label
        text = f"{best} keeps the other skill ({benchmarks[others[0]].label}) best of all trained arms"
        claims.append(_above_all(text, best, pairs, 100, "points"))
    return [claim.as_data() for claim in claims]


def of_figure(name: str, figure: Figure, panels: Sequence[Sequence[Curve]]) -> list[dict[str, Any]]:
    """Verdicts on the claims about curves; none where the paper's words give nothing to compute."""
    claims: list[Claim] = []
    for panel, curves in zip(figure.panels, panels, strict=True):
        by_arm = {curve.arm: curve for curve in curves}
        what, bracketed = _label(panel.label)
        scale, unit = (100.0, "points") if panel.share_of_one else (1.0, bracketed)
        for metric, high, low in ENDS_ABOVE.get(name, ()):
            if metric == panel.metric and high in by_arm and all(arm in by_arm for arm in low):
                pairs = {by_arm[arm].label: _end_difference(by_arm[high], by_arm[arm]) for arm in low}
                text = f"{by_arm[high].label} ends above {_listed(pairs)} in {what}"
                claims.append(_above_all(text, by_arm[high].label, pairs, scale, unit))
        metric, arms, sign = TURNS.get(name, ("", (), 1))
        if metric == panel.metric:
            claims += [_turn(by_arm[arm], what, figure.x, sign, scale, unit) for arm in arms if arm in by_arm]
    return [claim.as_data() for claim in claims]


def _above_all(text: str, high: str, pairs: dict[str, Estimate], scale: float, unit: str) -> Claim:
    """The verdict that the first is above every rival, and the rival that decides it: the one with least in favour."""
    rival, weakest = min(pairs.items(), key=lambda pair: _certainty(pair[1]))
    closest = ", the closest" if len(pairs) > 1 else ""
    found = f"{high} minus {rival}{closest}: {_signed(weakest, scale)} {unit}".rstrip()
    return _claim(text, weakest, len(pairs), found, scale, unit)


def _turn(curve: Curve, label: str, x: str, sign: int, scale: float, unit: str) -> Claim:
    """The verdict that a curve goes down and then up again (sign 1), or up and then down (sign -1).

    The turning point of a seed is where the other seeds have theirs: the lowest of many noisy points is always low, and
    looking for it in the values it is judged by would find a dip in any noise. One seed leaves the claim undecided.
    """
    first, second = ("falls", "rises") if sign > 0 else ("rises", "falls")
    text = f"{curve.label}: {label} {first}, then {second}"
    values = sign * curve.by_seed  # (S, T)
    seeds, points = values.shape
    if points < 3:
        return _claim(text, Estimate(0.0, math.nan), 2, f"only {points} points", scale, unit)
    turns = [_lowest(np.delete(values, seed, axis=0) if seeds > 1 else values) for seed in range(seeds)]
    at_turn = values[range(seeds), turns]  # (S,)
    legs = {first: _estimate(values[:, 0] - at_turn), second: _estimate(values[:, -1] - at_turn)}
    mean = curve.by_seed.mean(axis=0)
    turn = _lowest(values)
    found = (
        f"{_number(mean[0], scale)} at {x} {curve.x[0]:g}, {_number(mean[turn], scale)} at {x} {curve.x[turn]:g},"
        f" {_number(mean[-1], scale)} at {x} {curve.x[-1]:g}; "
    )
    found += ", ".join(f"{leg} by {_signed(size, scale).removeprefix('+')}" for leg, size in legs.items())
    found = f"{found} {unit}".rstrip()
    return _claim(text, min(legs.values(), key=_certainty), 2, found, scale, unit)


def _lowest(values: Array) -> int:
    """Where the mean over seeds of `values` (S, T) is lowest between its two ends."""
    return 1 + int(np.argmin(values.mean(axis=0)[1:-1]))


def _end_difference(high: Curve, low: Curve) -> Estimate:
    return _estimate(high.by_seed[:, -1] - low.by_seed[:, -1])


def _estimate(by_seed: Array) -> Estimate:
    mean, se = over_seeds(by_seed)
    return Estimate(float(mean), float(se))


def _certainty(estimate: Estimate) -> float:
    """Standard errors above zero."""
    if math.isnan(estimate.se) or estimate.mean == 0:
        return 0.0
    return estimate.mean / estimate.se if estimate.se else math.copysign(math.inf, estimate.mean)


def _claim(text: str, estimate: Estimate, parts: int, found: str, scale: float, unit: str) -> Claim:
    """The verdict by the difference that is least in favour among `parts`, all of which the claim needs.

    One of many differences is easily below zero by chance, so a failure must pass the bar of Bonferroni for their
    number. To hold, every difference must pass the plain bar, which needs no such care.
    """
    bar = NormalDist().inv_cdf(1 - 0.025 / parts)
    verdict = UNDECIDED if estimate.undecided or -bar < _certainty(estimate) < 0 else HOLDS
    verdict = FAILS if verdict == HOLDS and estimate.mean < 0 else verdict
    se = None if math.isnan(estimate.se) else round(scale * estimate.se, 6)
    return Claim(text, verdict, found, round(scale * estimate.mean, 6), se, unit)


def _signed(estimate: Estimate, scale: float) -> str:
    """Value and error with one decimal in percent, else with the decimals that show two digits of the error."""
    known = not math.isnan(estimate.se)
    digits = max(0, 1 - math.floor(math.log10(estimate.se))) if known and estimate.se > 0 else 3
    digits = 1 if scale > 1 else digits
    error = f"{scale * estimate.se:.{digits}f}" if known else "unknown (one seed)"
    return f"{scale * estimate.mean:+.{digits}f} ± {error}"


def _number(value: float, scale: float) -> str:
    return f"{100 * value:.1f} %" if scale > 1 else f"{value:.3g}"


def _label(text: str) -> tuple[str, str]:
    """A panel's label without its brackets, and what is in them: "length (tokens)" is "length", "tokens"."""
    match = re.fullmatch(r"(.*?)\s*\((.*)\)", text)
    return (match[1], match[2]) if match else (text, "")


def _listed(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
