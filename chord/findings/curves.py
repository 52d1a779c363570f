"""A figure of the paper as plain data: one curve an arm with its band. Knows arms and metrics; draws nothing."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chord.config.paper import Figure, Panel, Paper
from chord.config.project import Project
from chord.findings.reading import read_metrics, read_validation
from chord.findings.statistics import moving_mean, over_seeds
from chord.provenance.files import UserError

Array = NDArray[np.float64]
X_KEYS = {"step": "step", "epoch": "expert_epochs"}
X_LABELS = {"step": "training step", "epoch": "epochs over the expert set"}


@dataclass(frozen=True)
class Curve:
    """One metric of one arm along training, smoothed; T points, S seeds."""

    arm: str
    label: str
    x: Array  # (T,)
    by_seed: Array  # (S, T)


def gather(project: Project, figure: Figure, results: Path) -> list[list[Curve]]:
    """The curves of each panel out of results/<study>; an arm whose metric is null at every step has none."""
    runs = {arm: _runs(project, arm, results) for arm in figure.arms}
    panels = []
    for panel in figure.panels:
        found = [_curve(project, figure, panel, arm, runs[arm]) for arm in figure.arms]
        curves = [curve for curve in found if curve is not None]
        if not curves:
            raise UserError(
                f"{results}: found no value of '{panel.metric}' in the metrics of {', '.join(figure.arms)}, expected a"
                f" metric that these arms have; name another in config/experiments"
            )
        panels.append(curves)
    return panels


def single(project: Project, results: Path, arm: str, metric: str, smooth_steps: int = 1) -> Curve | None:
    """One metric of one arm by step; None if it is null at every step."""
    panel = Panel(metric=metric, label="", smooth_steps=smooth_steps)
    figure = Figure(kind="figure", title="", arms=(arm,), x="step", panels=(panel,), paper=Paper(model=""))
    return _curve(project, figure, panel, arm, _runs(project, arm, results))


def as_data(project: Project, name: str, figure: Figure, panels: list[list[Curve]]) -> dict[str, Any]:
    """The figure as JSON: all that is needed to draw it again."""
    return {
        "study": project.study.name,
        "study_title": project.study.title,
        "artefact": name,
        "title": figure.title,
        "seeds": list(project.seeds),
        "x": {"key": X_KEYS[figure.x], "label": X_LABELS[figure.x]},
        "band": "mean ± standard error over seeds" if len(project.seeds) > 1 else "none: one seed",
        "paper": {"model": figure.paper.model, "claim": figure.paper.claim},
        "panels": [
            {
                "metric": panel.metric,
                "label": panel.label,
                "share_of_one": panel.share_of_one,
                "smoothing": {"kind": "centred moving mean, shorter at the ends", "points": window(panel)},
                "curves": [_points(project, curve) for curve in curves],
                "arms_without_values": [arm for arm in figure.arms if arm not in {curve.arm for curve in curves}],
            }
            for panel, curves in zip(figure.panels, panels, strict=True)
        ],
    }


def window(panel: Panel) -> int:
    """Points in the moving mean: `smooth_steps`, or one more where that is even and so has no centre."""
    return panel.smooth_steps // 2 * 2 + 1


def files_of(project: Project, results: Path, arm: str, seed: int) -> list[Path]:
    """The metrics of one run; for an arm whose validation was graded later also validation.json."""
    folder = results / "runs" / arm / f"seed-{seed}"
    later = project.arms[arm].only_imitates or project.arms[arm].choose
    return [folder / "metrics.jsonl", *([folder / "validation.json"] if later else [])]


def _points(project: Project, curve: Curve) -> dict[str, Any]:
    mean, se = over_seeds(curve.by_seed)
    band = np.nan_to_num(se)  # one seed: no band
    return {
        "arm": curve.arm,
        "label": curve.label,
        "x": _rounded(curve.x),
        "mean": _rounded(mean),
        "low": _rounded(mean - band),
        "high": _rounded(mean + band),
        "by_seed": {str(seed): _rounded(values) for seed, values in zip(project.seeds, curve.by_seed, strict=True)},
    }


def _runs(project: Project, arm: str, results: Path) -> dict[Path, list[dict[str, Any]]]:
    if project.arms[arm].same_as:
        raise UserError(f"config/experiments: found arm '{arm}', which is not trained, expected arms that have a curve")
    files = [files_of(project, results, arm, seed) for seed in project.seeds]
    return {metrics: _with_validation(read_metrics(metrics), *later) for metrics, *later in files}


def _with_validation(lines: list[dict[str, Any]], later: Path | None = None) -> list[dict[str, Any]]:
    """The metrics with what chord validate found of the same steps. Refuses results of other steps."""
    if later is None:
        return lines
    found = read_validation(later)
    steps = [line["step"] for line in lines if line.get("validation") is not None]
    if steps != list(found):
        raise UserError(
            f"{later}: found results after steps {list(found)}, expected the {len(steps)} steps that the metrics beside"
            " it name; delete it and validate again"
        )
    return [line | {"validation": found.get(line["step"])} for line in lines]


def _curve(
    project: Project, figure: Figure, panel: Panel, arm: str, runs: dict[Path, list[dict[str, Any]]]
) -> Curve | None:
    """One arm's curve; refuses seeds whose points do not lie at the same places."""
    series = {path: _series(path, lines, X_KEYS[figure.x], panel.metric) for path, lines in runs.items()}
    (first, (x, _)), *others = series.items()
    for path, (other_x, _) in others:
        if other_x != x:
            raise UserError(
                f"{path}: found {len(other_x)} values of '{panel.metric}' at other places than the {len(x)} of {first},"
                " expected seeds that differ in nothing but the seed; train the arm again"
            )
    if not x:
        return None
    by_seed = moving_mean(np.array([values for _, values in series.values()], dtype=float), window(panel))
    return Curve(arm, project.arms[arm].label, np.array(x, dtype=float), by_seed)


def _series(path: Path, lines: list[dict[str, Any]], x_key: str, metric: str) -> tuple[list[float], list[float]]:
    """Where the metric has a value, and the value; steps at which it is null are left out."""
    xs, ys, known = [], [], False
    for line in lines:
        value: Any = line
        for part in metric.split("."):
            known = known or (isinstance(value, dict) and part in value and part == metric.split(".")[-1])
            value = value.get(part) if isinstance(value, dict) else None
        if value is None:
            continue
        x = line.get(x_key)
        x = 0.0 if x is None and line["step"] == 0 else x
        if not _is_number(value) or not _is_number(x):
            found = f"'{metric}' {value!r} at {x_key} {x!r} in step {line['step']}"
            raise UserError(f"{path}: found {found}, expected numbers; train the arm again")
        xs.append(float(x))  # type: ignore[arg-type]  # `_is_number` has just said so
        ys.append(float(value))
    if not known and metric.split(".")[0] not in lines[-1]:
        raise UserError(f"{path}: found no metric '{metric}', expected one of: {', '.join(sorted(lines[-1]))}")
    return xs, ys


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _rounded(values: Array) -> list[float]:
    """Nine decimals: far below any curve's noise, and free of the last bits that differ between machines."""
    return [round(float(value), 9) for value in values]
