"""The comparison with peers: sides take turns and do the same work, ratios are by round, environments hold the pins."""

import json
import os
import re
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest
import torch

from benchmarks import against_peers
from benchmarks.against_peers import HERE, Measured, NoComparison, Setting
from benchmarks.common import ROOT, TINY
from chord.config.project import load

STEP = {"rollout_tokens": 8, "expert_tokens": 6, "loss": 0.5}
FAKE = """
    import sys
    sys.path.insert(0, {peers!r})
    from turns import Turns
    turns = Turns()
    print("a trainer's own words")
    turns.note(threads=1)
    while True:
        turns.note(**{step!r})
        turns.next()
        with open({log!r}, "a") as file:
            file.write({name!r})
"""


def fake_sides(folder: Path, monkeypatch, **steps) -> dict[str, Path]:
    """Sides that note their names in `folder`/log, and the Pythons that run them."""
    (folder / "job.json").write_text("{}")
    for name, step in steps.items():
        text = FAKE.format(peers=str(HERE), log=str(folder / "log"), name=name, step=step)
        (folder / f"{name}.py").write_text(textwrap.dedent(text))
        monkeypatch.setitem(against_peers.SIDES, name, (str(folder / f"{name}.py"),))
    return dict.fromkeys(steps, Path(sys.executable))


def test_sides_take_turns_and_warm_up_steps_are_left_out(tmp_path: Path, monkeypatch) -> None:
    pythons = fake_sides(tmp_path, monkeypatch, a=STEP, b=STEP, c=STEP)
    measured = against_peers.measure(pythons, tmp_path, threads=1, rounds=3, warm_up=2)
    assert (tmp_path / "log").read_text() == "abc" * 5
    assert [one.name for one in measured] == ["a", "b", "c"]
    assert all(len(one.seconds) == len(one.cpu_seconds) == 3 for one in measured)
    assert all(seconds > 0 for one in measured for seconds in one.seconds)


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"rollout_tokens": 7}, "rollout_tokens 7, expected 8"),
        ({"expert_tokens": 7}, "expert_tokens 7, expected 6"),
        ({"loss": 0.502}, "loss 0.502, expected 0.5"),
    ],
)
def test_no_speed_is_told_of_a_side_that_does_other_work(other: dict, why: str, tmp_path: Path, monkeypatch) -> None:
    against_peers.measure(fake_sides(tmp_path, monkeypatch, a=STEP, b=STEP | {"loss": 0.5002}), tmp_path, 1, 1, 1)
    with pytest.raises(NoComparison, match=why):
        against_peers.measure(fake_sides(tmp_path, monkeypatch, a=STEP, b=STEP | other), tmp_path, 1, 1, 1)


def test_no_speed_is_told_of_a_side_with_other_threads_or_no_loss() -> None:
    with pytest.raises(NoComparison, match="b computes with 2 threads, expected 1"):
        against_peers.check_same(["a", "b"], [1, 2], 1, [STEP, STEP])
    with pytest.raises(NoComparison, match="loss nan"):
        against_peers.check_same(["a", "b"], [1, 1], 1, [STEP, STEP | {"loss": float("nan")}])


def test_a_side_that_ends_by_itself_says_why(tmp_path: Path, monkeypatch) -> None:
    pythons = fake_sides(tmp_path, monkeypatch, a=STEP, b=STEP)
    (tmp_path / "b.py").write_text("raise SystemExit('there is no such trainer')")
    with pytest.raises(NoComparison, match=r"(?s)b ended by itself.*there is no such trainer"):
        against_peers.measure(pythons, tmp_path, threads=1, rounds=1, warm_up=1)


def test_a_ratio_is_the_median_over_rounds_of_the_seconds_over_ours(capsys) -> None:
    """Of 3, 4, 3 over 1, 2, 3 seconds: 3, 2, 1, so 2. The ratio of medians would be 1.5."""
    versions = {"torch": "1.2", "trl": "3.4"}
    sides = [Measured("ours", {}, [1.0, 2.0, 3.0], [0.5] * 3), Measured("trl", versions, [3.0, 4.0, 3.0], [1.5] * 3)]
    job = {"prompts": 2, "per_prompt": 4, "response_tokens": 8, "experts": 3, "study": "demo"}
    against_peers.show("demo-1", job, sides)
    said = capsys.readouterr().out
    assert "2 prompts x 4 responses of 8 tokens, 3 expert traces, 3 rounds; at " in said
    assert f"torch {torch.__version__}" in said
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in said.splitlines() if line.startswith("| ")]
    assert rows[1] == ["ours", "", "2.000", "1.500 to 2.500", "0.500", "1.00", "1.00 to 1.00"]
    assert rows[2] == ["trl", "torch 1.2, trl 3.4", "3.000", "3.000 to 3.500", "1.500", "2.00", "1.50 to 2.50"]


# --- the work ------------------------------------------------------------------------------------


def test_ours_trains_as_chord_train_does_on_the_rows_that_all_sides_read(tmp_path: Path) -> None:
    project = load(ROOT, study="demo")
    model = project.study.model
    assert model.architecture is not None
    tiny = model.model_copy(update={"architecture": model.architecture.model_copy(update=TINY)})
    project = project.model_copy(update={"study": project.study.model_copy(update={"model": tiny})})
    setting = Setting("demo", threads=1, prompts=2, per_prompt=3, experts=4, response_tokens=5)
    job = against_peers.prepare(setting, project, tmp_path)
    assert {len((tmp_path / f"{name}.jsonl").read_text().splitlines()) for name in ("prompts", "traces")} == {2, 4}
    (ours,) = against_peers.measure({"ours": Path(sys.executable)}, tmp_path, threads=1, rounds=2, warm_up=1)
    assert len(ours.seconds) == 2 and ours.versions["torch"] == torch.__version__
    (file,) = (tmp_path / "ours" / "state").glob("*/metrics.jsonl")
    steps = [json.loads(line) for line in file.read_text().splitlines()][1:]
    assert len(steps) == 3
    assert {step["rollout_tokens"] for step in steps} == {2 * 3 * 5}  # none has ended before its limit
    assert len({step["expert_tokens"] for step in steps}) == 1
    assert {step["mu"] for step in steps} == {job["mu"]}
    assert len({step["reward"] for step in steps}) == 3 and all(step["grad_norm"] > 0 for step in steps)


@pytest.mark.parametrize("study", ["demo", "small"])
def test_ours_computes_in_float32_whatever_the_study_says(study: str) -> None:
    job = {"prompts": 2, "per_prompt": 2, "experts": 2, "response_tokens": 8}
    run = against_peers.run_of_ours(load(ROOT, study=study).run(against_peers.ARM, seed=1), job)
    assert run.execution.compute_dtype == "float32" and run.sampling.max_response_tokens == 8


def test_sides_ask_the_job_for_nothing_that_it_does_not_say(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(against_peers, "blank_model", lambda *_, **__: torch.nn.Module())
    monkeypatch.setattr(torch.nn.Module, "save_pretrained", lambda *_: None, raising=False)
    job = against_peers.prepare(Setting("demo", threads=1), load(ROOT, study="demo"), tmp_path)
    asked = {key for side in HERE.glob("*.py") for key in re.findall(r'job\["(\w+)"\]', side.read_text())}
    assert asked and asked <= job.keys()


# --- environments --------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [side for side in against_peers.SIDES if side != "ours"])
def test_a_peer_is_pinned_with_the_torch_of_this_project(side: str) -> None:
    pins = [line for line in (HERE / f"{side}.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9.-]+==[^=+\s]+", line) for line in pins)
    assert any(line.startswith(f"{side}==") for line in pins)
    torches = [line for line in (ROOT / "envs/train.txt").read_text().splitlines() if line.startswith("torch==")]
    assert [line for line in pins if line.startswith("torch==")] == torches


def wheel(folder: Path, name: str, version: str) -> None:
    """A package with a module of its name and nothing in it."""
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as file:
        file.writestr(f"{name}.py", "")
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")


@pytest.fixture
def peer(tmp_path: Path, monkeypatch) -> Path:
    """Pins of a peer called toy; the only packages to be had are in `wheels` beside them."""
    (tmp_path / "wheels").mkdir()
    (tmp_path / "toy.txt").write_text("# pins\ntorch==9.9\ntoy==1.0\n")
    monkeypatch.setattr(against_peers, "HERE", tmp_path)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    return tmp_path


def test_an_environment_is_made_once_and_again_for_other_pins(peer: Path, monkeypatch) -> None:
    wheel(peer / "wheels", "torch", "9.9+cpu")
    wheel(peer / "wheels", "toy", "1.0")
    python = against_peers.environment("toy", peer / "environments")
    assert "toy" in against_peers.said("toy", str(python), "-c", "import toy, torch; print(toy.__file__)")
    commands: list[tuple[str, ...]] = []
    monkeypatch.setattr(against_peers, "said", lambda _side, *command: commands.append(command))
    assert against_peers.environment("toy", peer / "environments") == python and not commands
    (peer / "toy.txt").write_text("torch==9.9\ntoy==2.0\n")
    monkeypatch.setattr(against_peers, "check_torch", lambda *_: None)
    against_peers.environment("toy", peer / "environments")
    assert "venv" in commands[0] and "--requirement" in commands[1]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no build of torch has CUDA")
def test_no_build_of_torch_with_cuda_is_fetched(peer: Path) -> None:
    wheel(peer / "wheels", "torch", "9.9")
    with pytest.raises(NoComparison, match=r"toy: pip offers torch 9\.9, expected its CPU build"):
        against_peers.environment("toy", peer / "environments")
    assert not list((peer / "environments").glob("toy/.made-*"))


def test_a_peer_that_is_not_to_be_had_is_named(peer: Path) -> None:
    with pytest.raises(NoComparison, match=r"toy: its environment could not be made: .*torch==9.9"):
        against_peers.environment("toy", peer / "environments")
