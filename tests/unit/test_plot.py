"""Figures: the points, what is refused, and the drawing."""

import io
import json
import re
import shutil
from itertools import product
from pathlib import Path

import pytest
from PIL import Image

from chord.config.project import load
from chord.errors import UserError
from chord.findings import figures, reading
from tests.unit.results_tree import write_metrics

ROOT = Path(__file__).parents[2]
PROJECT = load(ROOT, "demo", (1, 2, 3))
FIGURES = [
    name for name, artefact in PROJECT.artefacts.items() if artefact.kind == "figure" and not PROJECT.why_not(name)
]
SVG_DATE = re.compile(rb"20\d\d-\d\d-\d\dT")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    results = tmp_path_factory.mktemp("results") / "demo"
    write_metrics(results, PROJECT)
    return results


@pytest.fixture
def results(made, tmp_path):
    return shutil.copytree(made, tmp_path / "demo")


def plotted(results, name, out=None, seeds=(1, 2, 3)):
    files = {ending: (out or results) / f"{name}.{ending}" for ending in ("json", "svg", "png")}
    given = ["--study=demo", f"--artefact={name}", f"--results={results}", f"--root={ROOT}"]
    figures.main([*given, "--seeds", *map(str, seeds), *(f"--{ending}={file}" for ending, file in files.items())])
    return json.loads(files["json"].read_text())


@pytest.fixture(scope="module")
def drawn(made, tmp_path_factory):
    """The JSON of every figure, from metrics that nothing happened to."""
    out = tmp_path_factory.mktemp("drawn")
    return {name: plotted(made, name, out) for name in FIGURES}


def metrics(results, arm, seed=1):
    return results / "runs" / arm / f"seed-{seed}" / "metrics.jsonl"


def write_lines(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def rewrite(path, change):
    """The metrics in the file, each line put through `change`; lines that become None are left out."""
    lines = [change(json.loads(line)) for line in path.read_text().splitlines()]
    write_lines(path, [line for line in lines if line is not None])


def rewarded(results, rewards):
    """Metrics of figure 9's arms: by seed the reward at each step, and none at step 0."""
    for arm, (seed, course) in product(("grpo", "chord-phi"), rewards.items()):
        steps = [None, *course]
        write_lines(metrics(results, arm, seed), [{"step": step, "reward": one} for step, one in enumerate(steps)])


# --- points ------------------------------------------------------------------------------------


def test_points_are_the_mean_over_seeds_and_one_standard_error_to_both_sides(results):
    rewarded(results, {1: [0.1] * 3, 2: [0.2] * 3, 3: [0.3] * 3})
    curve = plotted(results, "figure9")["panels"][0]["curves"][0]
    assert curve["x"] == [1, 2, 3]  # step 0 has no reward
    assert curve["mean"] == pytest.approx([0.2] * 3)
    # values 0.1, 0.2, 0.3: standard deviation 0.1, over the root of three seeds 0.057735
    assert curve["low"] == pytest.approx([0.2 - 0.057735] * 3, abs=1e-6)
    assert curve["high"] == pytest.approx([0.2 + 0.057735] * 3, abs=1e-6)
    assert curve["by_seed"]["3"] == pytest.approx([0.3] * 3)


def test_smoothing_is_a_centered_moving_mean_and_is_named(results):
    rewarded(results, {seed: [0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0] for seed in PROJECT.seeds})
    panel = plotted(results, "figure9")["panels"][0]
    assert panel["smoothing"]["points"] == 5
    # the only 1 is at step 4: windows of 4 at step 2, of 5 at steps 3 to 5, of 4 at step 6 reach it
    assert panel["curves"][0]["mean"] == pytest.approx([0, 0.25, 0.2, 0.2, 0.2, 0.25, 0])


def test_validation_is_drawn_where_it_was_measured_against_passes_over_the_expert_set(results):
    data = plotted(results, "figure2")
    curve = data["panels"][0]["curves"][0]
    assert data["x"] == {"key": "expert_epochs", "label": "epochs over the expert set"}
    assert curve["x"] == pytest.approx([1.25 * i for i in range(11)])  # 0.125 epochs a step, every 10 steps
    first = json.loads(metrics(results, "sft-lr-low").with_name("validation.json").read_text())["steps"][0]
    assert curve["by_seed"]["1"][0] == first["accuracy"]
    inputs = json.loads((results / "figure2.manifest.json").read_text())["inputs"]
    assert {"sft-lr-low/seed-1/metrics.jsonl", "sft-lr-low/seed-1/validation.json"} <= set(inputs)


def test_one_seed_has_no_band_and_says_so(results):
    data = plotted(results, "figure9", seeds=(2,))
    for curve in data["panels"][0]["curves"]:
        assert curve["low"] == curve["mean"] == curve["high"]
    assert data["band"] == "none: one seed"


def test_an_arm_without_values_is_left_out_and_named(results):
    for seed in PROJECT.seeds:
        rewrite(metrics(results, "chord-is", seed), lambda line: line | {"policy_entropy": None})
    panel = plotted(results, "figure5")["panels"][0]
    assert [curve["arm"] for curve in panel["curves"]] == ["grpo", "mu-0.1"]
    assert panel["arms_without_values"] == ["chord-is"]


# --- refusals ----------------------------------------------------------------------------------


def refused(results, figure, said):
    with pytest.raises(UserError) as refusal:
        plotted(results, figure)
    told = str(refusal.value)
    assert said in told and str(results) in told and "\n" not in told
    assert not list(results.glob("figure*"))


DAMAGE = {
    "found no such file": lambda path: path.unlink(),
    "found an empty file": lambda path: path.write_text(""),
    "cut off": lambda path: path.write_text(path.read_text()[:-5]),
    "not JSON": lambda path: path.write_text("{}}\n"),
    "no whole number under 'step'": lambda path: path.write_text('{"loss": 1}\n'),
    "found step 0 after 100": lambda path: path.write_text(path.read_text() * 2),
    "at other places than": lambda path: rewrite(path, lambda line: None if line["step"] == 50 else line),
    "found no metric 'reward'": lambda path: rewrite(path, lambda line: {"step": line["step"]}),
    "expected numbers": lambda path: rewrite(path, lambda line: line | {"reward": "high"}),
    "found no value of 'reward'": lambda path: [
        rewrite(one, lambda line: line | {"reward": None}) for one in path.parents[3].glob("runs/*/*/metrics.jsonl")
    ],
}  # fmt: skip


@pytest.mark.parametrize("said", DAMAGE)
def test_metrics_that_cannot_be_used_are_refused_and_nothing_is_drawn(results, said):
    DAMAGE[said](metrics(results, "grpo"))
    refused(results, "figure9", said)


@pytest.mark.parametrize(("key", "said"), [("steps", "found results after steps"), ("rows", "found no results by ste")])
def test_validation_that_is_not_of_the_same_steps_is_refused(results, key, said):
    path = metrics(results, "sft-lr-low", 2).with_name("validation.json")
    path.write_text(json.dumps({key: json.loads(path.read_text())["steps"][:-1]}))
    refused(results, "figure2", f"{path}: {said}")


def test_an_artefact_that_is_no_figure_is_refused_with_the_figures_there_are(results):
    with pytest.raises(UserError, match="'table1' is no figure, expected one of: figure1, "):
        plotted(results, "table1")


# --- the drawing -------------------------------------------------------------------------------


def test_the_same_points_give_the_same_bytes_without_a_date(results, tmp_path):
    plotted(results, "figure7", tmp_path / "a")
    plotted(results, "figure7", tmp_path / "b")
    for ending in ("json", "svg", "png"):
        one, other = (tmp_path / folder / f"figure7.{ending}" for folder in "ab")
        assert one.read_bytes() == other.read_bytes()
    assert not SVG_DATE.search((tmp_path / "a" / "figure7.svg").read_bytes())


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_in_a_figure_overlaps_or_is_cut_off(drawn, name):
    import matplotlib

    with matplotlib.rc_context(figures.RC):
        figure = figures.compose(drawn[name])
        figure.canvas.draw()
        page = figure.bbox
        boxes = [*(ax.get_tightbbox() for ax in figure.axes), figure.legends[0].get_window_extent()]
    for i, box in enumerate(boxes):
        assert page.x0 <= box.x0 and box.x1 <= page.x1 + 1 and page.y0 <= box.y0 and box.y1 <= page.y1
        assert not any(box.overlaps(other) for other in boxes[i + 1 :])
    assert all(ax.get_ylabel() for ax in figure.axes) and figure.axes[-1].get_xlabel()


@pytest.mark.parametrize("name", FIGURES)
def test_each_arm_has_a_color_and_a_marker_of_its_own(drawn, name):
    looks = figures.looks(drawn[name])  # solid lines are shared by the arms that matter most
    assert set(looks) <= set(PROJECT.artefacts[name].arms)
    assert all(len({look[part] for look in looks.values()}) == len(looks) for part in (0, 2))


def test_arms_without_a_look_of_their_own_get_different_ones_each_time_the_same():
    arms = ["grpo", *(f"arm-{i}" for i in range(12))]
    data = {"panels": [{"curves": [{"arm": arm} for arm in arms]}]}
    found = figures.looks(data)
    assert len(set(found.values())) == len(arms)
    assert found == figures.looks(data)
    assert len({found[arm][0] for arm in arms[:7]}) == 7  # seven colors before one comes again


def test_the_picture_is_one_column_wide_at_200_dots_per_inch(results):
    plotted(results, "figure4")
    picture = Image.open(io.BytesIO((results / "figure4.png").read_bytes()))
    assert picture.width == round(3.5 * 200)
    assert [round(each) for each in picture.info["dpi"]] == [200, 200]


def test_a_window_has_a_center():
    assert [reading.window(n) for n in (1, 2, 5, 6)] == [1, 3, 5, 7]
