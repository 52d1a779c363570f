"""A figure of the paper from the metrics of its runs: the JSON of its points, drawn as SVG and PNG.

Sized for one column of a paper; colours are those of Okabe and Ito, told apart by colour-blind readers, and every arm
has its own dashes and markers too. An arm looks the same in every figure.
"""

import argparse
import io
import json
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from chord.config.paper import Figure, Scheme
from chord.config.project import Project, load
from chord.errors import UserError
from chord.findings import figures
from chord.provenance.cli import Number
from chord.provenance.files import write_atomically
from chord.provenance.manifest import Manifest
from chord.steps import of_artefact

WIDTH_INCHES, PANEL_INCHES, LEGEND_LINE_INCHES, PNG_DPI = 3.5, 2.1, 0.17, 200
LEGEND_MARGIN_INCHES = 0.06  # left and right: what matplotlib leaves there
MARKED_POINTS = 11  # markers a curve

BLACK, ORANGE, SKY, GREEN, BLUE, VERMILION, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
Style = tuple[str, Any, str]  # colour, dashes, marker
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


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the figure named on the command line."""
    parser = argparse.ArgumentParser(prog="chord plot", description=__doc__)
    parser.add_argument("--study", required=True)
    parser.add_argument("--artefact", required=True, help="a file of config/experiments, without .yaml")
    parser.add_argument("--results", required=True, type=Path, help="the study's folder: the one that holds runs/")
    parser.add_argument("--seeds", action=Number, least=0, nargs="+", help="training seeds (default: those of config/)")
    parser.add_argument("--root", default=Path("."), type=Path, help="the folder that holds config/ (default: here)")
    for name in ("json", "svg", "png"):
        parser.add_argument(f"--{name}", required=True, type=Path)
    parser.add_argument("--manifest", type=Path, help="default: beside --json, ending in .manifest.json")
    given = parser.parse_args(arguments)
    project = load(given.root, given.study, tuple(given.seeds or ()))
    figure = project.artefacts.get(given.artefact)
    if not isinstance(figure, Figure | Scheme):
        known = ", ".join(name for name, other in project.artefacts.items() if isinstance(other, Figure | Scheme))
        raise UserError(f"--artefact: found '{given.artefact}', expected a figure, one of: {known}")
    if reason := project.why_not(given.artefact):
        raise UserError(f"{given.artefact} is not built in study {project.study.name}: {reason}")
    data = pictured(project, given.artefact, figure, given.results)
    svg, png = draw(data)
    text = json.dumps(data, ensure_ascii=False, sort_keys=True, indent=1) + "\n"
    outputs: dict[Path, str | bytes] = {given.json: text, given.svg: svg, given.png: png}
    with Manifest.recording(
        given.manifest or given.json.with_suffix(".manifest.json"),
        of_artefact(project, given.artefact, given.root),
        inputs=_inputs(project, figure, given.results),
        outputs={path.name: path for path in outputs},
        extra={"study": project.study.name, "artefact": given.artefact, "training_seeds": list(project.seeds)},
    ):
        for path, content in outputs.items():
            write_atomically(path, content)


def pictured(project: Project, name: str, figure: Figure | Scheme, results: Path) -> dict[str, Any]:
    """The figure as JSON: all that is needed to draw it again."""
    if isinstance(figure, Scheme):
        return figures.scheme_data(project, name, figure)
    return figures.as_data(project, name, figure, figures.gather(project, figure, results))


def _inputs(project: Project, figure: Figure | Scheme, results: Path) -> dict[str, Path]:
    """What the figure is made of; titles, labels and what the paper says are in its JSON."""
    runs = [(arm, seed) for arm in figure.arms for seed in project.seeds]
    files = {f"{arm}/seed-{seed}": figures.files_of(project, results, arm, seed) for arm, seed in runs}
    return {f"{run}/{path.name}": path for run, paths in files.items() for path in paths}


def draw(data: dict[str, Any]) -> tuple[bytes, bytes]:
    """The figure as SVG and PNG, byte for byte the same for the same points."""
    import matplotlib

    with matplotlib.rc_context({**RC, "svg.hashsalt": f"{data['study']} {data['artefact']}"}):
        colours = (WIDTH_INCHES, BLUE, VERMILION)
        figure = figures.compose(data, *colours) if data.get("kind") == "scheme" else compose(data)
        svg, png = io.BytesIO(), io.BytesIO()
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None, "Title": data["title"]})
        figure.savefig(png, format="png", dpi=PNG_DPI, metadata={"Software": None, "Title": data["title"]})
    return svg.getvalue(), png.getvalue()


def compose(data: dict[str, Any]) -> Any:
    """The figure as a matplotlib figure that no window shows: panels one above the other, one legend over them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    styles = looks(data)
    figure = Canvas(figsize=(WIDTH_INCHES, PANEL_INCHES * len(data["panels"])))
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(data["panels"]), sharex=True, squeeze=False)[:, 0]
    for panel, ax in zip(data["panels"], axes, strict=True):
        _draw_panel(panel, ax, styles)
    axes[-1].set_xlabel(data["x"]["label"])
    _add_legend(figure, list(axes))
    return figure


def _draw_panel(panel: dict[str, Any], ax: Any, styles: dict[str, Style]) -> None:
    arms = list(styles)
    for curve in panel["curves"]:
        colour, dashes, marker = styles[curve["arm"]]
        if curve["low"] != curve["high"]:
            ax.fill_between(curve["x"], curve["low"], curve["high"], color=colour, alpha=0.18, linewidth=0)
        every = max(1, round(len(curve["x"]) / MARKED_POINTS))
        offset = arms.index(curve["arm"]) * every // len(arms) if every > 1 else 0
        ax.plot(
            curve["x"], curve["mean"], label=curve["label"], color=colour, linestyle=dashes, marker=marker,
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
            break
        legend.remove()
    lines = -(-len(handles) // columns)
    figure.set_size_inches(WIDTH_INCHES, PANEL_INCHES * len(axes) + LEGEND_LINE_INCHES * lines)


def looks(data: dict[str, Any]) -> dict[str, Style]:
    """Colour, dashes and marker of every arm in the figure; arms without a look of their own take free ones."""
    arms = list(dict.fromkeys(curve["arm"] for panel in data["panels"] for curve in panel["curves"]))
    taken = {STYLES[arm][0] for arm in arms if arm in STYLES}
    free = _free(taken)
    return {arm: STYLES[arm] if arm in STYLES else next(free) for arm in arms}


def _free(taken: set[str]) -> Iterator[Style]:
    """Looks whose colours are not taken, then all of them again with other dashes."""
    looks = dict.fromkeys(STYLES.values())
    yield from {look[0]: look for look in looks if look[0] not in taken}.values()
    for dashes in ((0, (4, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (2, 2))):
        yield from ((colour, dashes, marker) for colour, _, marker in looks)
