"""Figures: curves out of metrics and scores, and the schemes that are drawn from formulas."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chord.config.paper import Figure, Panel, Paper, Scheme
from chord.config.project import Project
from chord.errors import UserError
from chord.findings.reading import read_metrics, read_validation
from chord.findings.statistics import moving_mean, over_seeds

# --- curves --------------------------------------------------------------------------------------

# A figure of the paper as plain data: one curve an arm with its band. Knows arms and metrics; draws nothing.

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


# --- scheme --------------------------------------------------------------------------------------

# The scheme of CHORD as a drawing: one step on an example, every number worked out by the formulas of the paper.
#
# The example's probabilities and rewards are made up, and the drawing says so. Knows formulas; knows no run.

TOKENS = (0.02, 0.15, 0.5, 0.8, 0.95, 0.99)  # the policy's probability of each token of an expert trace
REWARDS = (1.0, 0.0, 1.0, -0.1)  # of a group of rollouts: right, wrong, right, unparsable
MU = 0.1  # CHORD-φ (arXiv:2508.11408, section 4.3)
HEIGHT_INCHES = 3.9
POINTS = 101


def scheme_data(project: Project, name: str, scheme: Scheme) -> dict[str, Any]:
    """The drawing as JSON: all that is needed to draw it again."""
    return {
        "study": project.study.name,
        "study_title": project.study.title,
        "artefact": name,
        "kind": "scheme",
        "title": scheme.title,
        "seeds": list(project.seeds),
        "paper": {"model": scheme.paper.model, "claim": scheme.paper.claim},
        "panels": [],
        "mu": MU,
        "expert_tokens": [{"p": p, "phi": phi(p), "log_p": math.log(p)} for p in TOKENS],
        "rollouts": [
            {"reward": reward, "advantage": found} for reward, found in zip(REWARDS, advantages(REWARDS), strict=True)
        ],
    }


def phi(p: float) -> float:
    """How much an expert token teaches (arXiv:2508.11408, eq. 5)."""
    return p * (1 - p)


def advantages(rewards: tuple[float, ...]) -> list[float]:
    """Rewards less their mean, over their standard deviation (arXiv:2508.11408, eq. 2; n - 1 as released)."""
    mean = sum(rewards) / len(rewards)
    spread = math.sqrt(sum((reward - mean) ** 2 for reward in rewards) / (len(rewards) - 1))
    return [(reward - mean) / spread for reward in rewards]


def compose(data: dict[str, Any], width: float, expert: str, policy: str) -> Any:
    """The drawing as a matplotlib figure that no window shows; `expert` and `policy` are colours of the branches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    figure = Canvas(figsize=(width, HEIGHT_INCHES))
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, 2, height_ratios=(1, 1.25))
    _draw_tokens(figure.add_subplot(grid[0, 0]), data, expert)
    _draw_rollouts(figure.add_subplot(grid[0, 1]), data, policy)
    _draw_sum(figure.add_subplot(grid[1, :]), data, expert, policy)
    return figure


def _draw_tokens(ax: Any, data: dict[str, Any], colour: str) -> None:
    along = [index / (POINTS - 1) for index in range(POINTS)]
    ax.plot(along, [phi(p) for p in along], color=colour)
    tokens = data["expert_tokens"]
    ax.plot([one["p"] for one in tokens], [one["phi"] for one in tokens], "o", color=colour, markeredgecolor="white")
    ax.set_title("Expert tokens", color=colour, fontsize=8)
    ax.set_xlabel("p of the token under the policy")
    ax.set_ylabel("φ = p(1-p)")
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 0.28)
    ax.grid(True)


def _draw_rollouts(ax: Any, data: dict[str, Any], colour: str) -> None:
    found = [one["advantage"] for one in data["rollouts"]]
    bars = ax.bar(range(len(found)), found, width=0.6, color=colour)
    ax.bar_label(bars, [f"{value:+.2f}" for value in found], padding=1, fontsize=6)
    ax.set_title("Rollouts", color=colour, fontsize=8)
    ax.set_xticks(range(len(found)), [f"{one['reward']:g}" for one in data["rollouts"]])
    ax.set_xlabel("reward of the rollout")
    ax.set_ylabel("advantage A")
    ax.axhline(0, color="black", linewidth=0.6)
    ax.set_xlim(-0.7, len(found) - 0.3)
    ax.margins(y=0.25)


def _draw_sum(ax: Any, data: dict[str, Any], expert: str, policy: str) -> None:
    ax.set_axis_off()
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1)
    mu = data["mu"]
    _box(ax, 0.23, 0.80, "expert branch\n-Σ φ · log p / tokens", expert)
    _box(ax, 0.77, 0.80, "RL branch\n-Σ A · log p / tokens", policy)
    _box(ax, 0.5, 0.22, "L = (1 - µ) · L_GRPO + µ · L_SFT-φ\none optimiser step", "black")
    for x, start, text, colour in (
        (0.38, 0.23, f"× µ = {mu:g}", expert),
        (0.62, 0.77, f"× (1 - µ) = {1 - mu:g}", policy),
    ):
        arrow = {"arrowstyle": "-|>", "color": colour, "shrinkA": 0, "shrinkB": 0}
        ax.annotate("", xy=(x, 0.35), xytext=(start, 0.64), arrowprops=arrow)
        side = {"ha": "right", "x": start + 0.02} if x < 0.5 else {"ha": "left", "x": start - 0.02}
        ax.text(side["x"], 0.48, text, ha=side["ha"], va="center", color=colour)
    note = "Example with made-up probabilities and rewards; φ is a constant to the gradient."
    ax.text(0.5, 0.0, note, ha="center", va="bottom", fontsize=5.5, color="#555555")


def _box(ax: Any, x: float, y: float, text: str, colour: str) -> None:
    box = {"boxstyle": "round,pad=0.5", "facecolor": "white", "edgecolor": colour, "linewidth": 1.0}
    ax.text(x, y, text, ha="center", va="center", bbox=box, linespacing=1.5)
