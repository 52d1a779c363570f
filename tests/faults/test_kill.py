"""A run killed at any moment and started again ends with the very bytes of one that was left alone."""

import json
import os
import random
import re
import signal
import sys
from pathlib import Path

import pytest

from tests import warm
from tests.faults.incarnations import PLACES
from tests.faults.small_run import command, finished, result, small_run, start, until
from tests.projects import ROOT

# chord train where no file may have more than 8 KiB, as after `ulimit -f 8`
LIMITED = """
import resource, runpy, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
sys.argv.insert(1, "train")
runpy.run_module("chord", run_name="__main__", alter_sys=True)
"""


def lives(run: Path, out: Path, deaths: list) -> list[str]:
    """Starts the run once for each death, or None to leave it alone; how each ended."""
    plan = out.with_name(f"{out.name}.plan.json")
    plan.write_text(json.dumps({"arguments": command(run, out), "deaths": deaths}))
    done = warm.run([sys.executable, "-m", "tests.faults.incarnations", str(plan)], cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    ends = json.loads(done.stdout)
    assert [end for death, end in zip(deaths, ends, strict=True) if death is None] == ["0"] * deaths.count(None), (
        done.stderr[-3000:]
    )
    return ends


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The run's inputs, and what it leaves when nobody disturbs it."""
    folder = small_run(tmp_path_factory.mktemp("run one"))
    lives(folder, folder / "out", [None])
    return folder, result(folder / "out")


def stop_half_way(folder, out, step):
    """Kills the run at the update after `step`; gives the folder of its checkpoints."""
    assert lives(folder, out, [["optimiser", step]]) == ["killed"]
    (state,) = [path for path in (out / "state").iterdir() if path.is_dir()]
    return state


def test_the_same_run_in_another_folder_and_process_gives_the_same_bytes(uninterrupted, tmp_path):
    expected = uninterrupted[1]
    line = [sys.executable, "-m", "chord", "train", *command(small_run(tmp_path / "elsewhere"), tmp_path / "out")]
    done = warm.run(line, cwd=ROOT, env=os.environ | {"PYTHONHASHSEED": "1"})
    assert done.returncode == 0, done.stderr
    assert result(tmp_path / "out") == expected
    lines = [json.loads(line) for line in expected["metrics.jsonl"].splitlines()]
    assert [line["step"] for line in lines] == list(range(41))
    assert "seconds" not in expected["metrics.jsonl"].decode()


def test_killed_in_every_phase_and_at_random_moments_the_result_is_byte_identical(uninterrupted, tmp_path):
    folder, expected = uninterrupted
    chance = random.Random(11)
    in_phases = [[place, passes] for place in PLACES if place != "copying candidates" for passes in (0, 1)]
    at_random = [["after", chance.uniform(0.05, 1.2)] for _ in range(12)]
    deaths = in_phases[: len(in_phases) // 2] + at_random + in_phases[len(in_phases) // 2 :]
    ends = lives(folder, tmp_path / "out", [*deaths, None])
    killed = [death[0] for death, end in zip(deaths, ends, strict=False) if end == "killed"]
    assert len(killed) >= 20
    assert {*killed} >= {"sampling", "backward", "writing a checkpoint", "syncing metrics"}
    assert result(tmp_path / "out") == expected
    assert not list((tmp_path / "out").glob(".*")) and not list((tmp_path / "out").glob("*.part"))


def test_an_arm_that_only_imitates_survives_kills_with_all_its_candidates_and_answers(tmp_path):
    recipe = {"init": "random", "mu": {"schedule": "constant", "value": 1.0}, "steps": 24, "learning_rate": 3e-3}
    folder = small_run(tmp_path, recipe=recipe | {"keep": "every"}, arm="sft")
    lives(folder, tmp_path / "alone", [None])
    places = ("kept weights", "writing metrics", "writing a checkpoint", "sampling", "syncing metrics")
    deaths = [[place, passes] for place in (*places, "dropping old checkpoints") for passes in (0, 1)]
    deaths += [["outputs", 0], ["copying candidates", 0], ["copying candidates", 1], ["dropping the state", 0]]
    assert lives(folder, tmp_path / "out", [*deaths, None]) == ["killed"] * len(deaths) + ["0"]
    found = result(tmp_path / "out")
    assert found == result(tmp_path / "alone")
    kept = [f"candidates/step-{step:06d}.safetensors" for step in (7, 14, 21, 24)]
    assert [name for name in found if "candidates" in name] == kept
    assert len(found["validation.jsonl"].splitlines()) == 14 * 5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_finishes_the_step_saves_and_exits_with_continue_me(uninterrupted, tmp_path, number):
    folder, expected = uninterrupted
    process = start(folder, tmp_path / "out")
    until(process, "step 4/40")
    process.send_signal(number)
    stderr = finished(process, 75)
    assert number.name in stderr and "the same command continues" in stderr
    assert not (tmp_path / "out" / "model").exists()
    assert "from step 0" not in finished(start(folder, tmp_path / "out"))
    assert result(tmp_path / "out") == expected


def test_a_second_process_on_one_run_is_refused_and_names_the_first(tmp_path):
    small_run(tmp_path, **{"recipe.steps": 4000})
    first = start(tmp_path, tmp_path / "out", SLURM_JOB_ID="4711")
    try:
        until(first, "from step 0")
        stderr = finished(start(tmp_path, tmp_path / "out"), 2)
        assert str(first.pid) in stderr and "4711" in stderr and "Traceback" not in stderr
    finally:
        first.kill()
        first.communicate()


def test_two_checkpoints_are_kept_and_a_damaged_one_falls_back_loudly_to_the_other(uninterrupted, tmp_path):
    folder, expected = uninterrupted
    state = stop_half_way(folder, tmp_path / "out", 25)
    older, newest = sorted(state.glob("step-*"))
    assert (older.name, newest.name) == ("step-000021", "step-000024")
    best = [json.loads((path / "progress.json").read_text())["progress"]["best_step"] for path in (older, newest)]
    assert all((state / f"kept-{step:06d}.safetensors").is_file() for step in best)
    target = newest / "optimiser.safetensors"
    content = bytearray(target.read_bytes())
    content[len(content) // 2] ^= 1
    target.write_bytes(content)
    stderr = finished(start(folder, tmp_path / "out"))
    assert "optimiser.safetensors" in stderr and "falling back" in stderr and "from step 21" in stderr
    assert result(tmp_path / "out") == expected


def test_another_recipe_never_resumes_and_starts_fresh_beside(uninterrupted, tmp_path):
    stop_half_way(uninterrupted[0], tmp_path / "out", 10)
    other = small_run(tmp_path / "other", **{"recipe.learning_rate": 1e-3})
    stderr = finished(start(other, tmp_path / "out"))
    assert "another recipe, code or data" in stderr and "from step 0" in stderr
    finished(start(other, tmp_path / "alone"))
    assert result(tmp_path / "out") == result(tmp_path / "alone")


def test_a_loss_that_is_not_finite_stops_before_the_weights_leaves_a_dump_and_does_so_again(tmp_path):
    """Weights grow threefold a step (learning rate 3e-3 times decay 1.3e3) until a loss is not finite."""
    small_run(tmp_path, **{"optimiser.weight_decay": 1.3e3, "optimiser.warmup_steps": 0})
    steps = []
    for _ in range(2):
        stderr = finished(start(tmp_path, tmp_path / "out"), 3)
        assert "not-finite-step" in stderr and "Traceback" not in stderr
        (dump,) = (tmp_path / "out" / "state").glob("*/not-finite-step-*.json")
        assert "sequences" in json.loads(dump.read_text())["what"]
        assert not (tmp_path / "out" / "model").exists()
        steps.append((int(re.search(r"from step (\d+)", stderr)[1]), int(re.search(r"step (\d+): the", stderr)[1])))
    (first, failed), (resumed, again) = steps
    assert first == 0 and failed == again > 4
    assert 0 < failed - resumed <= 4  # a checkpoint every 3 steps; the failing step was not taken


def test_a_full_disk_is_a_clear_error_and_earlier_checkpoints_stay(uninterrupted, tmp_path):
    """A file-size limit stands in for the full disk: writing the model fails part of the way."""
    folder, expected = uninterrupted
    state = stop_half_way(folder, tmp_path / "out", 10)
    before = {path: path.read_bytes() for path in state.rglob("*") if path.is_file() and "step-" in str(path)}
    limited = warm.run([sys.executable, "-c", LIMITED, *command(folder, tmp_path / "out")], cwd=ROOT)
    assert limited.returncode == 2 and "expected room on the disk" in limited.stderr
    assert "Traceback" not in limited.stderr, limited.stderr
    assert all(path.read_bytes() == content for path, content in before.items())
    finished(start(folder, tmp_path / "out"))
    assert result(tmp_path / "out") == expected
