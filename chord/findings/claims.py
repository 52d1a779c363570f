"""Claims of the paper: what is compared, and which verdict follows."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from chord.config.paper import Cells, Curves, Elsewhere, PaperClaim, Rise, Turn
from chord.config.project import WHERE, Needs, Project, needs
from chord.errors import UserError
from chord.findings import figures
from chord.findings.figures import Array, Curve
from chord.findings.reading import Scored, read_scores
from chord.findings.statistics import LEVEL, Estimate, difference, holm, one_way, seeds_needed

# --- comparisons ---------------------------------------------------------------------------------

# A claim's rule, applied to scores and curves: differences that it needs beyond a bar. Knows no verdicts.
#
# Each rule comes down to parts, differences that must all be on the claim's side of a bar: it holds if each is, and
# fails
# if one is decidedly on the other side. p is two-sided; holding needs every part at the plain level, failing one part
# at the level of Bonferroni for their number. Scores are paired by seed and problem, curves by seed.

SHARES = ("right", "validation.accuracy", "mu", "clip_fraction")  # shares of one, told in points
UNITS = {"response_tokens": "tokens", "validation.response_tokens": "tokens", "policy_entropy": "nats per token"}


@dataclass(frozen=True)
class Part:
    """A difference that the claim needs beyond `bar`: above it, or with `sign` -1 below -`bar`."""

    name: str
    estimate: Estimate
    sign: int
    bar: float

    @property
    def effect(self) -> float:
        """How far the difference is on the claim's side of the bar; negative on the other side."""
        return self.sign * self.estimate.mean - self.bar

    @property
    def p_holds(self) -> float:
        """Small where the difference is decidedly on the claim's side."""
        return self.estimate.p_not_above(self.bar) if self.sign > 0 else self.estimate.p_not_below(-self.bar)

    @property
    def p_fails(self) -> float:
        """Small where the difference is decidedly on the other side."""
        return self.estimate.p_not_below(self.bar) if self.sign > 0 else self.estimate.p_not_above(-self.bar)


@dataclass(frozen=True)
class Judged:
    """The parts of one claim, and what was found in words."""

    parts: tuple[Part, ...]
    found: str
    measure: str

    @property
    def p(self) -> float | None:
        """The smaller of the two p; None with one seed."""
        return None if self.parts[0].estimate.n_seeds < 2 else min(self.p_holds, self.p_fails)

    @property
    def p_holds(self) -> float:
        """Every part must hold, so the worst counts."""
        return max(part.p_holds for part in self.parts)

    @property
    def p_fails(self) -> float:
        """One part is enough, so the best counts, times their number."""
        return min(1.0, len(self.parts) * min(part.p_fails for part in self.parts))

    @property
    def deciding(self) -> Part:
        """The part on which it hangs: that which fails, else that which is least certain to hold."""
        if self.p_fails < self.p_holds:
            return min(self.parts, key=lambda part: (part.p_fails, part.effect))
        return max(self.parts, key=lambda part: (part.p_holds, -part.effect))


def judged_by(
    project: Project,
    results: Path,
    versions: Mapping[str, str] | None,
    rule: Cells | Curves | Turn | Rise | Elsewhere,
    one: Needs,
) -> Judged | str:
    """The parts of the claim with this rule; a text where the runs have no such values."""
    labels = {arm: project.arms[arm].label for arm in one.arms}
    if isinstance(rule, Cells):
        assert one.benchmark is not None
        scores = {arm: _scores(project, results, versions, arm, one.benchmark) for arm in one.arms}
        values = {arm: np.stack([_measured(each, rule.measure) for each in scores[arm]]) for arm in one.arms}
        benchmark = project.study.benchmarks[one.benchmark]
        where = f"{benchmark.label} (beside {benchmark.paper_column})"
        return _compared(rule, rule.measure, values, labels, where, difference)
    assert isinstance(rule, Curves | Turn | Rise)
    smooth = rule.smooth_steps if isinstance(rule, Turn) else 1
    found = {arm: figures.single(project, results, arm, rule.metric, smooth) for arm in one.arms}
    if lacking := [arm for arm, curve in found.items() if curve is None]:
        return f"no step of {', '.join(lacking)} has a value of {rule.metric}"
    whole = {arm: curve for arm, curve in found.items() if curve}
    if isinstance(rule, Turn):
        return turned(rule, whole[rule.arm], labels[rule.arm])
    if isinstance(rule, Rise):
        return _risen(rule, whole[rule.arm], labels[rule.arm])
    values = {arm: _part(curve, *rule.part) for arm, curve in whole.items()}
    where = f"{rule.metric}, mean over {rule.part[0]:g} to {rule.part[1]:g} of training"
    return _compared(rule, rule.metric, values, labels, where, lambda a, b: one_way(a - b))


def _compared(
    rule: Cells | Curves,
    measure: str,
    values: Mapping[str, Array],
    labels: Mapping[str, str],
    where: str,
    minus: Callable[[Array, Array], Estimate],
) -> Judged:
    """One arm against each of the others; `values` have seeds first."""
    scale = scale_of(measure)
    bar, parts = rule.margin / scale, list[Part]()
    for other in rule.against:
        estimate, name = minus(values[rule.arm], rule.times * values[other]), labels[other]
        if rule.direction == "near":
            parts += [Part(name, estimate, sign, -bar) for sign in (1, -1)]
        else:
            parts.append(Part(name, estimate, 1 if rule.direction == "above" else -1, bar))
    means = {arm: float(found.mean()) for arm, found in values.items()}
    told = ", ".join(f"{labels[arm]} {_number(mean, scale)}" for arm, mean in means.items())
    judged = Judged(tuple(parts), "", measure)
    times = "" if rule.times == 1 else f"{rule.times:g} times "
    closest = f"{labels[rule.arm]} minus {times}{judged.deciding.name}"
    found = f"{where}: {told}; {closest} {_signed(judged.deciding.estimate, scale)} {unit_of(measure)}"
    return Judged(tuple(parts), found, measure)


def turned(rule: Turn, curve: Curve, label: str) -> Judged | str:
    """A curve that goes down and then up again, or up and then down.

    The turning point of a seed is where the other seeds have theirs: the lowest of many noisy points is always low, and
    looking for it in the values it is judged by would find a dip in any noise.
    """
    if curve.by_seed.shape[1] < 3:
        return f"{label} has only {curve.by_seed.shape[1]} points, expected at least three"
    down, up = rule.shape.split("-then-")
    values = curve.by_seed if down == "falls" else -curve.by_seed  # (S, T)
    seeds, scale = len(values), scale_of(rule.metric)
    turns = [_lowest(np.delete(values, seed, axis=0) if seeds > 1 else values) for seed in range(seeds)]
    at_turn = values[range(seeds), turns]  # (S,)
    legs = {down: one_way(values[:, 0] - at_turn), up: one_way(values[:, -1] - at_turn)}
    mean, turn = curve.by_seed.mean(axis=0), _lowest(values)
    points = ", ".join(f"{_number(mean[i], scale)} at step {curve.x[i]:g}" for i in (0, turn, -1))
    told = ", ".join(f"{leg} by {_signed(size, scale).removeprefix('+')}" for leg, size in legs.items())
    parts = tuple(Part(leg, size, 1, rule.margin / scale) for leg, size in legs.items())
    return Judged(parts, f"{label}, {rule.metric}: {points}; {told} {unit_of(rule.metric)}", rule.metric)


def _risen(rule: Rise, curve: Curve, label: str) -> Judged | str:
    """A curve whose means over equal parts of training do not fall."""
    points, scale = curve.by_seed.shape[1], scale_of(rule.metric)
    if points < rule.parts:
        return f"{label} has only {points} points, expected at least {rule.parts}"
    means = np.stack([part.mean(axis=1) for part in np.array_split(curve.by_seed, rule.parts, axis=1)], axis=1)
    steps = [one_way(means[:, i + 1] - means[:, i]) for i in range(rule.parts - 1)]
    parts = tuple(Part(f"part {i + 2}", step, 1, -rule.margin / scale) for i, step in enumerate(steps))
    told = ", ".join(_number(float(mean), scale) for mean in means.mean(axis=0))
    least = min(parts, key=lambda part: part.effect)
    found = f"{label}, {rule.metric} in {rule.parts} parts of training: {told}; least rise, to {least.name}, "
    return Judged(parts, found + f"{_signed(least.estimate, scale)} {unit_of(rule.metric)}", rule.metric)


def _scores(
    project: Project, results: Path, versions: Mapping[str, str] | None, arm: str, benchmark: str
) -> list[Scored]:
    """The scores of every seed, all of one version of the benchmark."""
    places = [results / WHERE["scores"].format(arm=arm, seed=seed, benchmark=benchmark) for seed in project.seeds]
    found = [read_scores(place, benchmark) for place in places]
    version = versions[benchmark] if versions else found[0].version
    for scored in found:
        if scored.version != version or scored.problems != found[0].problems:
            raise UserError(
                f"{scored.path}: found version {scored.version} with {len(scored.problems)} problems, expected version"
                f" {version} and the problems of {found[0].path}; score again"
            )
    return found


def _measured(scored: Scored, measure: str) -> Array:
    found = scored.right if measure == "right" else scored.response_tokens
    if found is None:
        raise UserError(f"{scored.path}: found no lengths of the answers, expected those of chord score; score again")
    return found


def _part(curve: Curve, start: float, end: float) -> Array:
    """The mean of each seed over a part of training, which has a point at least: the last one before its end."""
    last = curve.x[-1]
    inside = (curve.x >= start * last) & (curve.x <= end * last)
    if not inside.any():
        inside = curve.x == curve.x[curve.x <= end * last].max()
    return curve.by_seed[:, inside].mean(axis=1)


def _lowest(values: Array) -> int:
    """Where the mean over seeds of `values` (S, T) is lowest between its two ends."""
    return 1 + int(np.argmin(values.mean(axis=0)[1:-1]))


def _signed(estimate: Estimate, scale: float) -> str:
    """Value and error with one decimal in percent, else with the decimals that show two digits of the error."""
    known = not math.isnan(estimate.se)
    digits = max(0, 1 - math.floor(math.log10(estimate.se))) if known and estimate.se > 0 else 3
    digits = 1 if scale > 1 else digits
    error = f"{scale * estimate.se:.{digits}f}" if known else "unknown (one seed)"
    return f"{scale * estimate.mean:+.{digits}f} ± {error}"


def _number(value: float, scale: float) -> str:
    return f"{100 * value:.1f} %" if scale > 1 else f"{value:.3g}"


def scale_of(measure: str) -> int:
    """What turns its values into its unit: 100 for shares of one."""
    return 100 if measure in SHARES else 1


def unit_of(measure: str) -> str:
    """The unit in which differences and margins of it are told."""
    return "points" if measure in SHARES else UNITS.get(measure, measure.replace("_", " "))


# --- claims --------------------------------------------------------------------------------------

# What the paper says and what these results say to it: holds, fails, undecided, or not run. Found, not forced.
#
# The rules are those of config/claims.yaml; chord.findings.claims makes differences of them. All p of a study are
# corrected together (Holm). One seed decides nothing: how much training runs differ is then unknown.

HOLDS, FAILS, UNDECIDED, NOT_RUN = "holds", "fails", "undecided", "not run"


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
