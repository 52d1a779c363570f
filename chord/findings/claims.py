"""The paper's claims and a verdict on each, out of scores and metrics, by the rules of config/claims.yaml.

`chord judge --show FILE` says again what such a file holds: how many claims hold, fail, are undecided, were
not run; and each of those that were run. `chord judge --digest` prints what belongs into config/claims.yaml.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chord.config.paper import Against, Cells, Elsewhere, ExpertLength, PaperClaim, Rise, Smallest, Turn
from chord.config.project import Needs, Project, judged_files, load, needs
from chord.errors import UserError
from chord.findings import forest, rendering, verbs
from chord.findings.reading import Array, Curve, curve_of, files_of, read_alike, read_metrics, runs_of, window
from chord.findings.rendering import FAILS, HOLDS, NEGLIGIBLE, NOT_RUN, UNDECIDED
from chord.findings.statistics import LEVEL, Estimate, one_way, two_way
from chord.findings.verdicts import Decision, Judged, decisions, part
from chord.steps import of_claims

FILES = ("json", "markdown", "html", "svg", "png")


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
    svg, png = forest.draw(data)
    contents = {
        "json": verbs.as_json(data),
        "markdown": rendering.verdicts_markdown(data, project.study.title),
        "html": rendering.verdicts_page(data, project.study.title),
        "svg": svg,
        "png": png,
    }
    inputs = {name: given.results / name for name in judged_files(project)}
    return verbs.write(given, project, of_claims(project, given.root), inputs, contents)


# --- verdicts: found, not forced -----------------------------------------------------------------


def as_data(project: Project, results: Path, versions: Mapping[str, str] | None = None) -> dict[str, Any]:
    """claims.json: every claim of config/claims.yaml with its verdict, by what lies in results/STUDY.

    What holds back wrong verdicts is in chord/findings/verdicts.py. One seed decides nothing: how much replications
    differ is then unknown. `versions` are those of the benchmarks as they are defined today, where older scores are to
    be refused. Raises UserError for these, and for results that are missing or damaged.
    """
    said = project.claims
    rows: list[tuple[PaperClaim, Needs, Judged | str]] = []
    for claim in said.claims:
        one = needs(project, claim)
        rows.append((claim, one, one.lacking or judged_by(project, results, versions, claim, one)))
    run = [(claim, judged) for claim, _, judged in rows if isinstance(judged, Judged)]
    decided = iter(decisions([judged for _, judged in run], [claim.primary for claim, _ in run]))
    found = [
        _row(project, claim, one)
        | (_verdict(claim, judged, next(decided)) if isinstance(judged, Judged) else _not_run(judged))
        for claim, one, judged in rows
    ]
    return {
        "study": project.study.name,
        "seeds": list(project.seeds),
        "artefacts": list(project.choice.artefacts),
        "rules_dated": said.dated,
        "rules_as_dated": said.as_dated,
        "correction": {"primary": "holm", "others": "benjamini-hochberg"},
        "level": LEVEL,
        "smallest_effects": {name: one.model_dump(mode="json") for name, one in said.smallest_effects.items()},
        "claims": found,
    }


def _row(project: Project, claim: PaperClaim, one: Needs) -> dict[str, Any]:
    """What is known of a claim before it is judged."""
    numbers = ("difference", "se", "interval", "smallest", "in_smallest", "p", "p_corrected", "n_seeds", "n_problems")
    return {
        "id": claim.id,
        "sentence": claim.sentence.replace("{benchmark}", _benchmark(project, claim, one)),
        "primary": claim.primary,
        "evidence": f"{claim.paper.place}: {claim.paper.says}",
        "artefact": one.artefact,
        "arms": list(one.arms),
        "found": "",
        "summary": "",
        "side": None,
        "unit": "",
        **dict.fromkeys((*numbers, "seeds_needed")),
    }


def _benchmark(project: Project, claim: PaperClaim, one: Needs) -> str:
    """The study's name of the benchmark, with the paper's if it is another; the paper's alone where it has none."""
    if not isinstance(claim.rule, Cells | ExpertLength):
        return ""
    here = project.study.benchmarks.get(one.benchmark or "")
    beside = here and here.paper_column
    return claim.rule.columns[0] if here is None else _beside(here.label, beside)


def _beside(label: str, column: str | None) -> str:
    return label if column in (None, label) else f"{label} (the paper: {column})"


def _not_run(reason: str) -> dict[str, Any]:
    return {"verdict": NOT_RUN, "reason": reason}


def _verdict(claim: PaperClaim, judged: Judged, decision: Decision) -> dict[str, Any]:
    """The verdict with its reason, its numbers, and a sentence about it for who reads nothing else."""
    part, scale = judged.deciding, scale_of(judged.measure)
    estimate, unit = part.estimate, unit_of(judged.measure)
    smallest = f"{scale * part.smallest:.3g} {unit}"
    low, high = estimate.interval or (math.nan, math.nan)
    seeds = None
    if decision.corrected is None:
        reason = "one seed: how much replications differ is unknown, so run two or more"
    else:
        among = f"{decision.among} {'primary' if claim.primary else 'other'} claim{'s' * (decision.among != 1)}"
        reason = f"p = {decision.corrected:.2g} after correction for {among}"
        if decision.verdict == NEGLIGIBLE:
            reason = f"no effect as large as {smallest}; {reason}"
        elif decision.verdict == UNDECIDED:
            seeds = judged.seeds_needed(decision.level)
            reason += f"; {_needed(estimate, seeds)}"
        elif not judged.has_bar_at_smallest and -part.smallest < low and high < part.smallest:
            reason += f"; its interval is within the smallest effect of interest, {smallest}"
    said = _said(judged, decision.verdict, smallest, seeds)
    effect = sorted(part.sign * end / part.smallest for end in (low, estimate.mean, high))
    return {
        "verdict": decision.verdict,
        "reason": reason,
        "found": judged.found,
        "summary": f"At this scale {judged.summary}; {_in_paper(claim)}. {said}.",
        "side": part.side,
        "difference": _rounded(scale * estimate.mean),
        "se": _rounded(scale * estimate.se),
        "interval": estimate.interval and [_rounded(scale * end) for end in estimate.interval],
        "smallest": _rounded(scale * part.smallest),
        "in_smallest": estimate.interval and [_rounded(end) for end in effect],
        "p": decision.p and _rounded(decision.p),
        "p_corrected": decision.corrected and _rounded(decision.corrected),
        "n_seeds": estimate.n_seeds,
        "n_problems": estimate.n_problems,
        "seeds_needed": seeds,
        "unit": unit,
    }


def _needed(estimate: Estimate, seeds: int | None) -> str:
    if seeds:
        return f"a difference of this size would be decided with {seeds} seeds, four times in five"
    if estimate.n_problems is not None and estimate.shared > 0:
        return "no number of seeds would decide a difference of this size on these problems"
    return "no number of seeds up to 1000 would decide a difference of this size"


def _in_paper(claim: PaperClaim) -> str:
    """What the paper has, after what was found here: a difference where it gives one, else its words."""
    size = claim.paper.difference
    if size is None or not isinstance(claim.rule, Cells):
        return f"in the paper {claim.paper.says}"
    return f"the paper has it {abs(size):.1f} {'above' if size > 0 else 'below'} on {claim.rule.columns[0]}"


def _said(judged: Judged, verdict: str, smallest: str, seeds: int | None) -> str:
    """The verdict as a sentence."""
    ordered = len(judged.parts) == 1 and judged.parts[0].side in ("above", "below")
    words = {
        HOLDS: "Holds",
        FAILS: "Fails: the paper's order is the reverse" if ordered else "Fails",
        NEGLIGIBLE: f"No effect as large as {smallest}",
        UNDECIDED: f"Undecided: {seeds} seeds would decide it" if seeds else "Undecided",
    }
    return words[verdict]


def _rounded(value: float) -> float | None:
    """Six decimals, without the last bits that differ between machines; what is unknown is null."""
    return None if math.isnan(value) else round(value, 6)


# --- rules applied to scores and curves ----------------------------------------------------------

# Each rule comes down to parts (chord/findings/verdicts.py). Scores are paired by seed and problem, curves by seed.

SHARES = ("right", "validation.accuracy", "mu", "clip_fraction")  # shares of one, told in points
UNITS = {"response_tokens": "tokens", "validation.response_tokens": "tokens", "policy_entropy": "nats per token"}


def judged_by(
    project: Project, results: Path, versions: Mapping[str, str] | None, claim: PaperClaim, one: Needs
) -> Judged | str:
    """The parts of the claim; a text where the runs have no such values."""
    rule, labels = claim.rule, {arm: project.arms[arm].label for arm in one.arms}
    assert not isinstance(rule, Elsewhere)
    if isinstance(rule, Cells | ExpertLength):
        assert one.benchmark is not None
        version = versions[one.benchmark] if versions else None
        scores = read_alike(results, one.arms, project.seeds, one.benchmark, version)
        values = {arm: np.stack([each.values(rule.measure) for each in scores[arm]]) for arm in one.arms}
        benchmark = project.study.benchmarks[one.benchmark]
        smallest = project.claims.smallest(rule.measure, benchmark.paper_column)
        where = _beside(benchmark.label, benchmark.paper_column)
        if isinstance(rule, ExpertLength):
            values[EXPERT] = np.broadcast_to(_expert_lengths(project, results, rule.arm), values[rule.arm].shape)
            labels[EXPERT] = "the expert's traces"
            against = Against(arm=rule.arm, against=(EXPERT,), direction=rule.direction)
            return _compared(against, rule.measure, smallest, values, labels, where, two_way)
        return _compared(rule, rule.measure, smallest, values, labels, where, two_way)
    smallest = project.claims.smallest(rule.metric, None)
    points = window(rule.smooth_steps if isinstance(rule, Turn) else 1)
    runs = {arm: runs_of(project, results, arm) for arm in one.arms}
    found = {arm: curve_of(runs[arm], rule.metric, points=points) for arm in one.arms}
    if lacking := [arm for arm, curve in found.items() if curve is None]:
        return f"no step of {', '.join(lacking)} has a value of {rule.metric}"
    curves = {arm: curve for arm, curve in found.items() if curve}
    if isinstance(rule, Turn):
        return turned(rule, smallest, curves[rule.arm], labels[rule.arm])
    if isinstance(rule, Rise):
        return _risen(rule, smallest, curves[rule.arm], labels[rule.arm])
    start, end = rule.part
    inside = _inside(curves[rule.arm], start, end)
    values = {arm: curve.by_seed[:, _inside(curve, start, end)].mean(axis=1) for arm, curve in curves.items()}
    steps = curves[rule.arm].x[inside]
    of = f"the point at step {steps[0]:g}" if len(steps) == 1 else f"mean of {len(steps)} points"
    where = f"{rule.metric}, {start:g} to {end:g} of training ({of})"
    return _compared(rule, rule.metric, smallest, values, labels, where, one_way)


EXPERT = "expert"  # in the place of an arm


def _expert_lengths(project: Project, results: Path, arm: str) -> Array:
    """Mean tokens of the traces that each seed of the arm learned from: (S, 1). Raises UserError for other metrics."""
    rows, means = project.study.expert_rows_per_step, list[list[float]]()
    for seed in project.seeds:
        path = files_of(project, results, arm, seed)[0]
        tokens = [line["expert_tokens"] for line in read_metrics(path) if line.get("expert_tokens")]
        if not tokens:
            raise UserError(f"{path}: found no expert_tokens, expected a run that learned from traces; train it again")
        means.append([sum(tokens) / len(tokens) / rows])
    return np.array(means)


def _size(smallest: Smallest, measure: str, reference: Array) -> float | Array:
    """The smallest effect in what is measured: a number, or a share of `reference`."""
    return smallest.size * np.abs(reference) if smallest.relative else smallest.size / scale_of(measure)


def _compared(
    rule: Against,
    measure: str,
    smallest: Smallest,
    values: Mapping[str, Array],
    labels: Mapping[str, str],
    where: str,
    estimate: Callable[[Array], Estimate],
) -> Judged:
    """One arm against each of the others; `values` have seeds first."""
    scale, own = scale_of(measure), values[rule.arm]
    others = {labels[other]: rule.times * values[other] for other in rule.against}
    parts = tuple(
        part(name, rule.direction, own - other, _size(smallest, measure, other), estimate)
        for name, other in others.items()
    )
    deciding = Judged(parts, measure).deciding
    means = ", ".join(f"{labels[arm]} {_number(float(found.mean()), scale)}" for arm, found in values.items())
    rival = deciding.name if rule.times == 1 else f"{rule.times:g} times {deciding.name}"
    size = f"{_signed(deciding.estimate, scale)} {unit_of(measure)}"
    found = f"{where}: {means}; {labels[rule.arm]} minus {rival} {size}"
    side = "above" if deciding.estimate.mean >= 0 else "below"
    place = f"on {where.partition(' (')[0]}" if measure == "right" else f"in {_named(measure)}"
    summary = f"{labels[rule.arm]} ends {size[1:]} {side} {rival} {place}"
    return Judged(parts, measure, found, summary)


def turned(rule: Turn, smallest: Smallest, curve: Curve, label: str) -> Judged | str:
    """A curve that goes down and then up again, or up and then down.

    The turning point of a seed is where the other seeds have theirs: the lowest of many noisy points is always low, and
    looking for it in the values it is judged by would find a dip in any noise. Back past the start is farther than past
    the turn, so of these two only one is a part of the claim.
    """
    if curve.by_seed.shape[1] < 3:
        return f"{label} has only {curve.by_seed.shape[1]} points, expected at least three"
    down, up = rule.shape.split("-then-")
    values = curve.by_seed if down == "falls" else -curve.by_seed  # (S, T)
    seeds, scale = len(values), scale_of(rule.metric)
    turns = [_lowest(np.delete(values, seed, axis=0) if seeds > 1 else values) for seed in range(seeds)]
    start, at_turn, end = values[:, 0], values[range(seeds), turns], values[:, -1]  # (S,)
    legs = [("fall" if down == "falls" else "rise", start - at_turn)]
    legs.append(("way back", end - at_turn) if rule.end == "past-turn" else ("end against the start", end - start))
    size = _size(smallest, rule.metric, start)
    parts = tuple(part(name, "above", leg, size, one_way) for name, leg in legs)
    mean, turn = curve.by_seed.mean(axis=0), _lowest(values)
    points = ", ".join(f"{_number(mean[i], scale)} at step {curve.x[i]:g}" for i in (0, turn, -1))
    there, back = (one.estimate for one in parts)
    told = f"{down if there.mean >= 0 else up} by {_signed(there, scale)[1:]}"
    if rule.end == "past-turn":
        told += f" and {up} back by" if back.mean >= 0 else f" and {down} on by"
        told += f" {_signed(back, scale)[1:]}"
    else:
        side = "above" if (back.mean >= 0) == (up == "rises") else "below"
        told += f" and ends {_signed(back, scale)[1:]} {side} its start"
    unit = unit_of(rule.metric)
    found = f"{label}, {rule.metric}: {points}; {told}, in {unit}"
    name = re.sub(r", (.*)$", r" (\1)", label)
    summary = f"the {_named(rule.metric)} of {name} {told}{f', in {unit}' if unit != _named(rule.metric) else ''}"
    return Judged(parts, rule.metric, found, summary)


def _lowest(values: Array) -> int:
    """Where the mean over seeds of `values` (S, T) is lowest between its two ends."""
    return 1 + int(np.argmin(values.mean(axis=0)[1:-1]))


def _risen(rule: Rise, smallest: Smallest, curve: Curve, label: str) -> Judged | str:
    """A curve whose means over equal parts of training do not fall."""
    points, scale = curve.by_seed.shape[1], scale_of(rule.metric)
    if points < rule.parts:
        return f"{label} has only {points} points, expected at least {rule.parts}"
    means = np.stack([part.mean(axis=1) for part in np.array_split(curve.by_seed, rule.parts, axis=1)], axis=1)
    parts = tuple(
        part(f"part {number}", "no fall", after - before, _size(smallest, rule.metric, before), one_way)
        for number, (before, after) in enumerate(pairwise(means.T), start=2)
    )
    told = ", ".join(_number(float(mean), scale) for mean in means.mean(axis=0))
    least = min(parts, key=lambda part: part.estimate.mean)
    size = f"{_signed(least.estimate, scale)} {unit_of(rule.metric)}"
    found = f"{label}, {rule.metric} in {rule.parts} parts of training: {told}; least rise, to {least.name}, {size}"
    return Judged(parts, rule.metric, found, f"the least rise in {rule.metric} of {label} is {size}")


def _inside(curve: Curve, start: float, end: float) -> NDArray[np.bool_]:
    """Which points lie in a part of training: one at least, the last before its end."""
    last = curve.x[-1]
    inside = (curve.x >= start * last) & (curve.x <= end * last)
    return inside if inside.any() else curve.x == curve.x[curve.x <= end * last].max()


def _signed(estimate: Estimate, scale: float) -> str:
    """Value and error with one decimal in percent, else with the decimals that show two digits of the error."""
    known = not math.isnan(estimate.se)
    digits = max(0, 1 - math.floor(math.log10(estimate.se))) if known and estimate.se > 0 else 3
    digits = 1 if scale > 1 else digits
    error = f"{scale * estimate.se:.{digits}f}" if known else "unknown (one seed)"
    return f"{scale * estimate.mean:+.{digits}f} ± {error}"


def _number(value: float, scale: float) -> str:
    return f"{100 * value:.1f} %" if scale > 1 else f"{value:.3g}"


def _named(measure: str) -> str:
    return {"response_tokens": "length", "policy_entropy": "entropy"}.get(measure, re.sub(r"[._]", " ", measure))


def scale_of(measure: str) -> int:
    """What turns its values into its unit: 100 for shares of one."""
    return 100 if measure in SHARES else 1


def unit_of(measure: str) -> str:
    """The unit in which differences and margins of it are told."""
    return "points" if measure in SHARES else UNITS.get(measure, measure.replace("_", " "))
