"""A forest plot of the claims: every effect with its interval, in units of the claim's smallest effect of interest."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from chord.findings.figures import BLUE, GREEN, VERMILION, saved
from chord.findings.rendering import FAILS, HOLDS, NEGLIGIBLE, NOT_RUN, UNDECIDED, difference, plain_sentence

TITLE = "Claims: what was found, in units of the smallest effect of interest"
CAPTION = (
    "Each effect with its 95 % interval, in units of its claim's smallest effect of interest; to the right is what the"
    " paper claims. Intervals are not corrected for their number; verdicts are. Effects inside the gray band are less"
    " than the smallest of interest; claims that something is near (≈) hold there. An arrow: the interval goes on."
)
GRAY, PALE = "#6b6b66", "#ecebe4"
LOOKS = {HOLDS: (GREEN, "o"), FAILS: (VERMILION, "s"), NEGLIGIBLE: (BLUE, "D"), UNDECIDED: (GRAY, "o")}
WIDTH_INCHES, ROW_INCHES, MARGIN_INCHES = 7.2, 0.27, 0.75
MOST = 6.0  # where the axis ends: what is beyond is decided by far, and gets an arrow
LABEL_CHARACTERS = 64


def draw(data: Mapping[str, Any]) -> tuple[bytes, bytes]:
    """The plot of a claims.json as SVG and PNG, byte for byte the same for the same verdicts."""
    return saved(lambda: compose(data), f"{data['study']} claims", TITLE)


def compose(data: Mapping[str, Any]) -> Any:
    """The plot as a matplotlib figure that no window shows: primary claims above, the others below."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [claim for claim in data["claims"] if claim["verdict"] != NOT_RUN and claim["in_smallest"]]
    groups = {"Primary claims": [claim for claim in shown if claim["primary"]]}
    groups["Other claims"] = [claim for claim in shown if not claim["primary"]]
    rows: list[str | Mapping[str, Any]] = [
        row for name, claims in groups.items() if claims for row in (name, *claims)
    ] or ["No claim was run with two seeds or more"]
    figure = Figure(figsize=(WIDTH_INCHES, MARGIN_INCHES + ROW_INCHES * len(rows)))
    FigureCanvasAgg(figure)
    _draw(figure.subplots(), rows)
    return figure


def _draw(ax: Any, rows: Sequence[str | Mapping[str, Any]]) -> None:
    ax.set(xlim=(-MOST, MOST), ylim=(len(rows) - 0.4, -0.6))
    ax.axvspan(-1, 1, color=PALE, linewidth=0, zorder=0)
    ax.axvline(0, color="black", linewidth=0.6, zorder=1)
    for y, row in enumerate(rows):
        if not isinstance(row, str):
            _draw_claim(ax, y, row)
    labels = [row if isinstance(row, str) else _label(row) for row in rows]
    sizes = ["" if isinstance(row, str) else f"{difference(row)}\n{row['verdict']}" for row in rows]
    right = ax.twinx()
    for side, words in ((ax, labels), (right, sizes)):
        side.set_ylim(ax.get_ylim())
        side.set_yticks(range(len(rows)), words, fontsize=6.3, linespacing=1.05)
        side.tick_params(axis="y", length=0, pad=6)
        for spine in ("left", "right", "top"):
            side.spines[spine].set_visible(False)
    for row, left_label, right_label in zip(rows, ax.get_yticklabels(), right.get_yticklabels(), strict=True):
        if isinstance(row, str):
            left_label.set(fontweight="bold", fontsize=7.5)
        else:
            right_label.set_color(LOOKS[row["verdict"]][0])
    ax.tick_params(axis="x", top=True, labeltop=True)
    words = "effect, in units of the smallest effect of interest\n← against the paper · as the paper claims →"
    ax.set_xlabel(words, fontsize=6.8)
    ax.set_axisbelow(True)
    ax.grid(True, axis="x")


def _draw_claim(ax: Any, y: int, claim: Mapping[str, Any]) -> None:
    """Interval and effect; an arrow where it goes on beyond the axis, and no marker where the effect itself does."""
    low, effect, high = claim["in_smallest"]
    color, marker = LOOKS[claim["verdict"]]
    is_open = claim["verdict"] == UNDECIDED
    ends = max(low, -MOST), min(high, MOST)
    if ends[0] < ends[1]:
        ax.plot(ends, (y, y), color=color, linewidth=1.4, solid_capstyle="butt", zorder=2)
    for beyond, x, arrow in ((low < -MOST, -MOST, "<"), (high > MOST, MOST, ">")):
        if beyond:
            ax.plot(x, y, marker=arrow, color=color, markersize=4.5, markeredgewidth=0, clip_on=False, zorder=3)
    if abs(effect) <= MOST:
        ax.plot(effect, y, marker=marker, color=color, markersize=4.6, zorder=4,
                markerfacecolor="white" if is_open else color, markeredgewidth=1.1 if is_open else 0)  # fmt: skip


def _label(claim: Mapping[str, Any]) -> str:
    """The sentence on two lines at most."""
    mark = " ≈" if claim["side"] == "near" else ""
    words = plain_sentence(claim) + mark
    width = LABEL_CHARACTERS if len(words) <= LABEL_CHARACTERS else max(len(words) // 2 + 6, LABEL_CHARACTERS - 16)
    return "\n".join(textwrap.wrap(words, width, break_on_hyphens=False))
