"""A figure of the paper from the metrics of its runs: the JSON of its points, drawn as SVG and PNG.

Sized for one column of a paper; colors are those of Okabe and Ito, told apart by color-blind readers, and every arm
has its own dashes and markers too. An arm looks the same in every figure.
"""

import io
import math
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from chord.config.paper import Figure, Scheme
from chord.config.project import Project, load
from chord.errors import UserError
from chord.findings import verbs
from chord.findings.reading import Array, Curve, curve_of, files_of, runs_of, window
from chord.findings.statistics import over_seeds
from chord.steps import of_artefact

X_KEYS = {"step": "step", "epoch": "expert_epochs"}
X_LABELS = {"step": "training step", "epoch": "epochs over the expert set"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the figure named on the command line."""
    parser = verbs.parser_of("plot", __doc__, "json", "svg", "png")
    parser.add_argument("--artefact", help="a file of config/experiments, without .yaml")
    given = parser.parse_args(arguments)
    verbs.refuse_lacking(given, "study", "artefact", "results", "json", "svg", "png")
    project = load(given.root, given.study, tuple(given.seeds or ()))
    figure: Figure | Scheme = verbs.chosen(project, given.artefact, Figure | Scheme, "figure")
    if isinstance(figure, Scheme):
        data = scheme_data(project, given.artefact, figure)
    else:
        data = as_data(project, given.artefact, figure, given.results)
    svg, png = draw(data)
    contents = {"json": verbs.as_json(data), "svg": svg, "png": png}
    job = of_artefact(project, given.artefact, given.root)
    verbs.write(given, project, job, _inputs(project, figure, given.results), contents, artefact=given.artefact)


def _inputs(project: Project, figure: Figure | Scheme, results: Path) -> dict[str, Path]:
    runs = [(arm, seed) for arm in figure.arms for seed in project.seeds]
    files = {(arm, seed): files_of(project, results, arm, seed) for arm, seed in runs}
    return {f"{arm}/seed-{seed}/{path.name}": path for (arm, seed), paths in files.items() for path in paths}


# --- points --------------------------------------------------------------------------------------


def as_data(project: Project, name: str, figure: Figure, results: Path) -> dict[str, Any]:
    """The figure as JSON: all that is needed to draw it again. An arm whose metric is null at every step has no curve.

    Raises UserError for metrics that are missing or damaged, and for a panel without any value.
    """
    runs = {arm: runs_of(project, results, arm) for arm in figure.arms}
    panels: list[dict[str, Any]] = []
    for panel in figure.panels:
        points = window(panel.smooth_steps)
        curves = {arm: curve_of(runs[arm], panel.metric, X_KEYS[figure.x], points) for arm in figure.arms}
        drawn = [_points(project, arm, found) for arm, found in curves.items() if found]
        if not drawn:
            raise UserError(
                f"{results}: found no value of '{panel.metric}' in the metrics of {', '.join(figure.arms)}, expected a"
                f" metric that these arms have; name another in config/experiments"
            )
        panels.append(
            {
                "metric": panel.metric,
                "label": panel.label,
                "share_of_one": panel.share_of_one,
                "smoothing": {"kind": "centered moving mean, shorter at the ends", "points": points},
                "curves": drawn,
                "arms_without_values": [arm for arm, found in curves.items() if not found],
            }
        )
    return _heading(project, name, figure) | {
        "x": {"key": X_KEYS[figure.x], "label": X_LABELS[figure.x]},
        "band": "mean ± standard error over seeds" if len(project.seeds) > 1 else "none: one seed",
        "panels": panels,
    }


def _heading(project: Project, name: str, shown: Figure | Scheme) -> dict[str, Any]:
    return {
        "study": project.study.name,
        "study_title": project.study.title,
        "artefact": name,
        "title": shown.title,
        "seeds": list(project.seeds),
        "paper": {"model": shown.paper.model, "claim": shown.paper.claim},
    }


def _points(project: Project, arm: str, curve: Curve) -> dict[str, Any]:
    mean, se = over_seeds(curve.by_seed)
    band = np.nan_to_num(se)  # one seed: no band
    return {
        "arm": arm,
        "label": project.arms[arm].label,
        "x": _rounded(curve.x),
        "mean": _rounded(mean),
        "low": _rounded(mean - band),
        "high": _rounded(mean + band),
        "by_seed": {str(seed): _rounded(values) for seed, values in zip(project.seeds, curve.by_seed, strict=True)},
    }


def _rounded(values: Array) -> list[float]:
    """Nine decimals: far below any curve's noise, and free of the last bits that differ between machines."""
    return [round(float(value), 9) for value in values]


# --- the scheme of CHORD: one step on an example, every number worked out by the formulas --------

TOKENS = (0.02, 0.15, 0.5, 0.8, 0.95, 0.99)  # made up: the policy's probability of each token of an expert trace
REWARDS = (1.0, 0.0, 1.0, -0.1)  # made up, of a group of rollouts: right, wrong, right, unparsable
MU = 0.1  # CHORD-φ (arXiv:2508.11408, section 4.3)


def scheme_data(project: Project, name: str, scheme: Scheme) -> dict[str, Any]:
    """The drawing as JSON: all that is needed to draw it again."""
    rollouts = zip(REWARDS, advantages(REWARDS), strict=True)
    return _heading(project, name, scheme) | {
        "kind": "scheme",
        "panels": [],
        "mu": MU,
        "expert_tokens": [{"p": p, "phi": phi(p), "log_p": math.log(p)} for p in TOKENS],
        "rollouts": [{"reward": reward, "advantage": advantage} for reward, advantage in rollouts],
    }


def phi(p: float) -> float:
    """How much an expert token teaches (arXiv:2508.11408, eq. 5)."""
    return p * (1 - p)


def advantages(rewards: tuple[float, ...]) -> list[float]:
    """Rewards less their mean, over their standard deviation (arXiv:2508.11408, eq. 2; n - 1 as released)."""
    mean = sum(rewards) / len(rewards)
    spread = math.sqrt(sum((reward - mean) ** 2 for reward in rewards) / (len(rewards) - 1))
    return [(reward - mean) / spread for reward in rewards]


# --- drawing -------------------------------------------------------------------------------------

WIDTH_INCHES, PANEL_INCHES, LEGEND_LINE_INCHES, SCHEME_INCHES, PNG_DPI = 3.5, 2.1, 0.17, 3.9, 200
LEGEND_MARGIN_INCHES = 0.06  # left and right: what matplotlib leaves there
MARKED_POINTS = 11  # markers a curve

BLACK, ORANGE, SKY, GREEN, BLUE, VERMILION, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
Style = tuple[str, Any, str]  # color, dashes, marker
STYLES: dict[str, Style] = {
    "grpo": (BLACK, "solid", "o"),
    "chord-mu": (VERMILION, "solid", "s"),
    "chord-phi": (BLUE, "solid", "^"),
    "mu-0.02": (SKY, (0, (5, 1.5)), "v"),
    "mu-0.1": (ORANGE, (0, (5, 1.5, 1, 1.5)), "D"),
    "mu-0.5": (PURPLE, (0, (1, 1)), ">"),
    "chord-is": (GREEN, (0, (3, 1.2)), "<"),
    "sft-light+rl": (PURPLE, (0, (5, 1.5)), "D"),
    "sft-best+rl": (GREEN, (0, (5, 1.5, 1, 1.5)), "v"),
    "sft-lr-low": (SKY, (0, (1, 1)), "v"),
    "sft-lr-mid": (BLUE, "solid", "o"),
    "sft-lr-high": (ORANGE, (0, (5, 1.5)), "D"),
}
RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so every machine draws the same letters
    "font.size": 7.5,
    "axes.labelsize": 7.5,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.linewidth": 0.4,
    "grid.color": "#dddddd",
    "lines.linewidth": 1.3,
    "lines.markersize": 3.6,
    "figure.constrained_layout.use": True,
}


def draw(data: dict[str, Any]) -> tuple[bytes, bytes]:
    """The figure as SVG and PNG, byte for byte the same for the same points."""
    return saved(lambda: compose(data), f"{data['study']} {data['artefact']}", data["title"])


def saved(make: Callable[[], Any], salt: str, title: str) -> tuple[bytes, bytes]:
    """What `make` composes in the style of all figures, as SVG and PNG; `salt` goes into the ids of the SVG."""
    import matplotlib

    with matplotlib.rc_context({**RC, "svg.hashsalt": salt}):
        figure = make()
        svg, png = io.BytesIO(), io.BytesIO()
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None, "Title": title})
        figure.savefig(png, format="png", dpi=PNG_DPI, metadata={"Software": None, "Title": title})
    return svg.getvalue(), png.getvalue()


def compose(data: dict[str, Any]) -> Any:
    """The figure as a matplotlib figure that no window shows."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    is_scheme = data.get("kind") == "scheme"
    figure = Canvas(figsize=(WIDTH_INCHES, SCHEME_INCHES if is_scheme else PANEL_INCHES * len(data["panels"])))
    FigureCanvasAgg(figure)
    if is_scheme:
        _draw_scheme(figure, data)
    else:
        _draw_curves(figure, data)
    return figure


def _draw_curves(figure: Any, data: dict[str, Any]) -> None:
    """Panels one above the other, one legend over them."""
    styles = looks(data)
    axes = figure.subplots(len(data["panels"]), sharex=True, squeeze=False)[:, 0]
    for panel, ax in zip(data["panels"], axes, strict=True):
        _draw_panel(panel, ax, styles)
    axes[-1].set_xlabel(data["x"]["label"])
    _add_legend(figure, list(axes))


def _draw_panel(panel: dict[str, Any], ax: Any, styles: dict[str, Style]) -> None:
    arms = list(styles)
    for curve in panel["curves"]:
        color, dashes, marker = styles[curve["arm"]]
        if curve["low"] != curve["high"]:
            ax.fill_between(curve["x"], curve["low"], curve["high"], color=color, alpha=0.18, linewidth=0)
        every = max(1, round(len(curve["x"]) / MARKED_POINTS))
        offset = arms.index(curve["arm"]) * every // len(arms) if every > 1 else 0
        ax.plot(
            curve["x"], curve["mean"], label=curve["label"], color=color, linestyle=dashes, marker=marker,
            markevery=(offset, every), markeredgecolor="white", markeredgewidth=0.4, clip_on=False, zorder=3,
        )  # fmt: skip
    _, top = ax.get_ylim()
    lowest = min(min(curve["low"]) for curve in panel["curves"])
    ax.set_ylim((0, 1) if panel["share_of_one"] else (0 if lowest >= 0 else None, top))
    ax.set_xlim(0, 1.01 * max(curve["x"][-1] for curve in panel["curves"]))
    ax.set_ylabel("\n".join(textwrap.wrap(panel["label"], 32)))
    ax.grid(True)
    ax.set_axisbelow(True)


def _add_legend(figure: Any, axes: Sequence[Any]) -> None:
    """A legend above the axes, where it hides no point, in as many columns as fit; the figure grows by its lines."""
    handles = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    room = figure.get_window_extent().width - 2 * LEGEND_MARGIN_INCHES * figure.dpi
    for columns in range(min(3, len(handles)), 0, -1):
        legend = figure.legend(
            handles.values(), handles.keys(), loc="outside upper left", ncols=columns, frameon=False,
            handlelength=3.2, columnspacing=1.2, borderpad=0.1, labelspacing=0.35,
        )  # fmt: skip
        if columns == 1 or legend.get_window_extent(figure.canvas.get_renderer()).width <= room:
            lines = -(-len(handles) // columns)
            return figure.set_size_inches(WIDTH_INCHES, PANEL_INCHES * len(axes) + LEGEND_LINE_INCHES * lines)
        legend.remove()


def looks(data: dict[str, Any]) -> dict[str, Style]:
    """Color, dashes and marker of every arm in the figure; arms without a look of their own take free ones."""
    arms = list(dict.fromkeys(curve["arm"] for panel in data["panels"] for curve in panel["curves"]))
    taken = {STYLES[arm][0] for arm in arms if arm in STYLES}
    free = _free(taken)
    return {arm: STYLES[arm] if arm in STYLES else next(free) for arm in arms}


def _free(taken: set[str]) -> Iterator[Style]:
    """Looks whose colors are not taken, then all of them again with other dashes."""
    looks = dict.fromkeys(STYLES.values())
    yield from {look[0]: look for look in looks if look[0] not in taken}.values()
    for dashes in ((0, (4, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (2, 2))):
        yield from ((color, dashes, marker) for color, _, marker in looks)


def _draw_scheme(figure: Any, data: dict[str, Any]) -> None:
    """Both branches with their numbers, and below them the loss that they are added up to."""
    grid = figure.add_gridspec(2, 2, height_ratios=(1, 1.25))
    tokens, rollouts = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[0, 1])
    expert, policy, mu = BLUE, VERMILION, data["mu"]

    along = [index / 100 for index in range(101)]
    tokens.plot(along, [phi(p) for p in along], color=expert)
    shown = [[one[key] for one in data["expert_tokens"]] for key in ("p", "phi")]
    tokens.plot(*shown, "o", color=expert, markeredgecolor="white")
    tokens.set_title("Expert tokens", color=expert, fontsize=8)
    tokens.set(xlabel="p of the token under the policy", ylabel="φ = p(1-p)", xlim=(0, 1), ylim=(0, 0.28))
    tokens.grid(True)

    found = [one["advantage"] for one in data["rollouts"]]
    bars = rollouts.bar(range(len(found)), found, width=0.6, color=policy)
    rollouts.bar_label(bars, [f"{value:+.2f}" for value in found], padding=1, fontsize=6)
    rollouts.set_title("Rollouts", color=policy, fontsize=8)
    rollouts.set_xticks(range(len(found)), [f"{one['reward']:g}" for one in data["rollouts"]])
    rollouts.axhline(0, color="black", linewidth=0.6)
    rollouts.set(xlabel="reward of the rollout", ylabel="advantage A", xlim=(-0.7, len(found) - 0.3))
    rollouts.margins(y=0.25)

    ax = figure.add_subplot(grid[1, :])
    ax.set_axis_off()
    ax.set(xlim=(0, 1), ylim=(0, 1))
    _box(ax, 0.23, 0.80, "expert branch\n-Σ φ · log p / tokens", expert)
    _box(ax, 0.77, 0.80, "RL branch\n-Σ A · log p / tokens", policy)
    _box(ax, 0.5, 0.22, "L = (1 - µ) · L_GRPO + µ · L_SFT-φ\none optimiser step", "black")
    for x, start, beside, side, text, color in (
        (0.38, 0.23, 0.25, "right", f"× µ = {mu:g}", expert),
        (0.62, 0.77, 0.75, "left", f"× (1 - µ) = {1 - mu:g}", policy),
    ):
        arrow = {"arrowstyle": "-|>", "color": color, "shrinkA": 0, "shrinkB": 0}
        ax.annotate("", xy=(x, 0.35), xytext=(start, 0.64), arrowprops=arrow)
        ax.text(beside, 0.48, text, ha=side, va="center", color=color)
    note = "Example with made-up probabilities and rewards; φ is a constant to the gradient."
    ax.text(0.5, 0.0, note, ha="center", va="bottom", fontsize=5.5, color="#555555")


def _box(ax: Any, x: float, y: float, text: str, color: str) -> None:
    box = {"boxstyle": "round,pad=0.5", "facecolor": "white", "edgecolor": color, "linewidth": 1.0}
    ax.text(x, y, text, ha="center", va="center", bbox=box, linespacing=1.5)
