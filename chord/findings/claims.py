"""The paper's claims and a verdict on each, out of scores and metrics, by the rules of config/claims.yaml.

`chord judge --show FILE` says again what such a file holds: how many claims hold, fail, are undecided, were
not run; and each of those that were run. `chord judge --digest` prints what belongs into config/claims.yaml.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from chord.config.paper import Cells, Curves, Elsewhere, PaperClaim, Rise, Turn
from chord.config.project import Needs, Project, judged_files, load, needs
from chord.findings import rendering, verbs
from chord.findings.reading import Array, Curve, curve_of, read_alike, runs_of, window
from chord.findings.rendering import FAILS, HOLDS, NOT_RUN, UNDECIDED
from chord.findings.statistics import LEVEL, Estimate, holm, one_way, seeds_needed, two_way
from chord.steps import of_claims

FILES = ("json", "markdown", "html")


def main(arguments: Sequence[str] | None = None) -> None:
    """Write or show the verdicts of the study named on the command line."""
    parser = verbs.parser_of("judge", __doc__, *FILES)
    parser.add_argument("--show", type=Path, metavar="FILE", help="print a claims.json neatly, and write nothing")
    parser.add_argument("--digest", action="store_true", help="print the hash of the rules in config/claims.yaml")
    parser.add_argument("--artefacts", nargs="+", help="tables and figures (default: those of config/config.yaml)")
    given = parser.parse_args(arguments)
    if given.digest:
        return print(load(given.root).claims.rules_digest)
    if given.show:
        return rendering.show_verdicts(rendering.read_claims(given.show))
    verbs.refuse_lacking(given, "study", "results", *FILES)
    chosen = {"artefacts": given.artefacts} if given.artefacts else {}
    project = load(given.root, given.study, tuple(given.seeds or ()), chosen)
    data = as_data(project, given.results, verbs.versions(given.root, project.study))
    contents = {
        "json": verbs.as_json(data),
        "markdown": rendering.verdicts_markdown(data, project.study.title),
        "html": rendering.verdicts_page(data, project.study.title),
    }
    inputs = {name: given.results / name for name in judged_files(project)}
    return verbs.write(given, project, of_claims(project, given.root), inputs, contents)


# --- verdicts: found, not forced -----------------------------------------------------------------


def as_data(project: Project, results: Path, versions: Mapping[str, str] | None = None) -> dict[str, Any]:
    """claims.json: every claim of config/claims.yaml with its verdict, by what lies in results/STUDY.

    All p of a study are corrected together (Holm). One seed decides nothing: how much training runs differ is then
    unknown. `versions` are those of the benchmarks as they are defined today, where older scores are to be refused.
    Raises UserError for these, and for results that are missing or damaged.
    """
    said = project.claims
    rows: list[tuple[PaperClaim, Needs, Judged | str]] = []
    for claim in said.claims:
        one = needs(project, claim)
        rows.append((claim, one, one.lacking or judged_by(project, results, versions, claim.rule, one)))
    p_values = [judged.p for *_, judged in rows if isinstance(judged, Judged) and judged.p is not None]
    corrected = iter(holm(p_values))
    found: list[dict[str, Any]] = []
    for claim, one, judged in rows:
        after = next(corrected) if isinstance(judged, Judged) and judged.p is not None else None
        found.append(_row(claim, one) | _verdict(claim, judged, after, len(p_values)))
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


def _row(claim: PaperClaim, one: Needs) -> dict[str, Any]:
    """What is known of a claim before it is judged."""
    numbers = ("difference", "se", "interval", "margin", "p", "p_corrected", "n_seeds", "n_problems", "seeds_needed")
    return {
        "id": claim.id,
        "sentence": claim.sentence,
        "evidence": f"{claim.paper.place}: {claim.paper.says}",
        "artefact": one.artefact,
        "arms": list(one.arms),
        "found": "",
        "unit": "",
        **dict.fromkeys(numbers),
    }


def _verdict(claim: PaperClaim, judged: "Judged | str", corrected: float | None, count: int) -> dict[str, Any]:
    """The verdict with its reason and numbers; `corrected` is p after the correction for `count` claims."""
    if isinstance(judged, str):
        return {"verdict": NOT_RUN, "reason": judged}
    part = judged.deciding
    estimate, scale = part.estimate, scale_of(judged.measure)
    verdict, seeds = UNDECIDED, None
    if corrected is None:
        reason = "one seed: how much training runs differ is unknown, so run two or more"
    else:
        reason = f"p = {corrected:.2g} after correction for {count} claims"
        if corrected <= LEVEL:
            verdict = FAILS if judged.p_fails < judged.p_holds else HOLDS
        else:
            seeds = seeds_needed(estimate, part.effect, LEVEL / count)
            seeds = seeds and max(seeds, estimate.n_seeds + 1)
            reason += f"; {_needed(estimate, seeds)}"
    interval = estimate.interval
    return {
        "verdict": verdict,
        "reason": reason,
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


def _needed(estimate: Estimate, seeds: int | None) -> str:
    if seeds:
        return f"a difference of this size would be decided with {seeds} seeds, four times in five"
    if estimate.n_problems is not None and estimate.shared > 0:
        return "no number of seeds would decide a difference of this size on these problems"
    return "no number of seeds up to 1000 would decide a difference of this size"


def _rounded(value: float) -> float | None:
    """Six decimals, without the last bits that differ between machines; what is unknown is null."""
    return None if math.isnan(value) else round(value, 6)


# --- rules applied to scores and curves ----------------------------------------------------------

# Each rule comes down to parts: differences that must all be on the claim's side of a bar. The claim holds if each is,
# and fails if one is decidedly on the other side. p is two-sided; holding needs every part at the plain level, failing
# one part at the level of Bonferroni for their number. Scores are paired by seed and problem, curves by seed.

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
        version = versions[one.benchmark] if versions else None
        scores = read_alike(results, one.arms, project.seeds, one.benchmark, version)
        values = {arm: np.stack([each.values(rule.measure) for each in scores[arm]]) for arm in one.arms}
        benchmark = project.study.benchmarks[one.benchmark]
        where = f"{benchmark.label} (beside {benchmark.paper_column})"
        return _compared(rule, rule.measure, values, labels, where, two_way)
    assert isinstance(rule, Curves | Turn | Rise)
    points = window(rule.smooth_steps if isinstance(rule, Turn) else 1)
    runs = {arm: runs_of(project, results, arm) for arm in one.arms}
    found = {arm: curve_of(runs[arm], rule.metric, points=points) for arm in one.arms}
    if lacking := [arm for arm, curve in found.items() if curve is None]:
        return f"no step of {', '.join(lacking)} has a value of {rule.metric}"
    curves = {arm: curve for arm, curve in found.items() if curve}
    if isinstance(rule, Turn):
        return turned(rule, curves[rule.arm], labels[rule.arm])
    if isinstance(rule, Rise):
        return _risen(rule, curves[rule.arm], labels[rule.arm])
    start, end = rule.part
    values = {arm: _part(curve, start, end) for arm, curve in curves.items()}
    where = f"{rule.metric}, mean over {start:g} to {end:g} of training"
    return _compared(rule, rule.metric, values, labels, where, one_way)


def _compared(
    rule: Cells | Curves,
    measure: str,
    values: Mapping[str, Array],
    labels: Mapping[str, str],
    where: str,
    estimate: Callable[[Array], Estimate],
) -> Judged:
    """One arm against each of the others; `values` have seeds first."""
    scale = scale_of(measure)
    bar, parts = rule.margin / scale, list[Part]()
    for other in rule.against:
        difference, name = estimate(values[rule.arm] - rule.times * values[other]), labels[other]
        if rule.direction == "near":
            parts += [Part(name, difference, sign, -bar) for sign in (1, -1)]
        else:
            parts.append(Part(name, difference, 1 if rule.direction == "above" else -1, bar))
    judged = Judged(tuple(parts), "", measure)
    means = ", ".join(f"{labels[arm]} {_number(float(found.mean()), scale)}" for arm, found in values.items())
    times = "" if rule.times == 1 else f"{rule.times:g} times "
    closest = f"{labels[rule.arm]} minus {times}{judged.deciding.name}"
    found = f"{where}: {means}; {closest} {_signed(judged.deciding.estimate, scale)} {unit_of(measure)}"
    return replace(judged, found=found)


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


def _lowest(values: Array) -> int:
    """Where the mean over seeds of `values` (S, T) is lowest between its two ends."""
    return 1 + int(np.argmin(values.mean(axis=0)[1:-1]))


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


def _part(curve: Curve, start: float, end: float) -> Array:
    """The mean of each seed over a part of training, which has a point at least: the last one before its end."""
    last = curve.x[-1]
    inside = (curve.x >= start * last) & (curve.x <= end * last)
    if not inside.any():
        inside = curve.x == curve.x[curve.x <= end * last].max()
    return curve.by_seed[:, inside].mean(axis=1)


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
