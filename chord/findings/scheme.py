"""The scheme of CHORD as a drawing: one step on an example, every number worked out by the formulas of the paper.

The example's probabilities and rewards are made up, and the drawing says so. Knows formulas; knows no run.
"""

import math
from typing import Any

from chord.config.paper import Scheme
from chord.config.project import Project

TOKENS = (0.02, 0.15, 0.5, 0.8, 0.95, 0.99)  # the policy's probability of each token of an expert trace
REWARDS = (1.0, 0.0, 1.0, -0.1)  # of a group of rollouts: right, wrong, right, unparsable
MU = 0.1  # CHORD-φ (arXiv:2508.11408, section 4.3)
HEIGHT_INCHES = 3.9
POINTS = 101


def as_data(project: Project, name: str, scheme: Scheme) -> dict[str, Any]:
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
