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
from tests.faults.small_run import command, result, small_run

ROOT = Path(__file__).parents[2]
# chord train where no file may have more than 8 KiB, as after `ulimit -f 8`
LIMITED = """
import resource, runpy, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
sys.argv.insert(1, "train")
runpy.run_module("chord", run_name="__main__", alter_sys=True)
"""


def train(arguments, **environment):
    """Starts `chord train`."""
    return warm.start([sys.executable, "-m", "chord", "train", *arguments], cwd=ROOT, env=os.environ | environment)


def lives(folder, arguments, deaths):
    """How each incarnation of a plan ended; the last one was left alone."""
    plan = folder / "plan.json"
    plan.write_text(json.dumps({"arguments": arguments, "deaths": deaths}))
    done = warm.run([sys.executable, "-m", "tests.faults.incarnations", str(plan)], cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout), done.stderr


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The run's inputs, and what it leaves when nobody disturbs it."""
    folder = tmp_path_factory.mktemp("run one")
    small_run(folder)
    ends, stderr = lives(folder, command(folder, folder / "out"), [])
    assert ends[-1][2] == "0", stderr[-3000:]
    return folder, result(folder / "out")


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
    ends, stderr = lives(tmp_path, command(folder, tmp_path / "out"), deaths)
    killed = [end for end in ends if end[2] == "killed"]
    print(f"\n  survived {len(killed)} kills in {len({end[0] for end in killed})} kinds of moments")
    assert len(killed) >= 20
    assert {end[0] for end in killed} >= {"sampling", "backward", "writing a checkpoint", "syncing metrics"}
    assert ends[-1][2] == "0", stderr[-3000:]
    assert result(tmp_path / "out") == expected
    assert not list((tmp_path / "out").glob(".*")) and not list((tmp_path / "out").glob("*.part"))


def test_an_arm_that_only_imitates_survives_kills_with_all_its_candidates_and_answers(tmp_path):
    recipe = {"init": "random", "mu": {"schedule": "constant", "value": 1.0}, "steps": 24, "learning_rate": 3e-3}
    folder = small_run(tmp_path, recipe=recipe | {"keep": "every"}, arm="sft")
    ends, stderr = lives(tmp_path, command(folder, tmp_path / "alone"), [])
    assert ends[-1][2] == "0", stderr[-3000:]
    places = ("kept weights", "writing metrics", "writing a checkpoint", "sampling", "syncing metrics")
    deaths = [[place, passes] for place in (*places, "dropping old checkpoints") for passes in (0, 1)]
    deaths += [["outputs", 0], ["copying candidates", 0], ["copying candidates", 1], ["dropping the state", 0]]
    ends, stderr = lives(tmp_path, command(folder, tmp_path / "out"), deaths)
    assert [end[2] for end in ends] == ["killed"] * len(deaths) + ["0"], stderr[-3000:]
    found = result(tmp_path / "out")
    assert found == result(tmp_path / "alone")
    assert [name for name in found if "candidates" in name] == [
        f"candidates/step-{step:06d}.safetensors" for step in (7, 14, 21, 24)
    ]
    assert len(found["validation.jsonl"].splitlines()) == 14 * 5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_finishes_the_step_saves_and_exits_with_continue_me(uninterrupted, tmp_path, number):
    folder, expected = uninterrupted
    process = train(command(folder, tmp_path / "out"))
    for line in process.lines():
        if "step 4/40" in line:
            process.send_signal(number)
            break
    rest = process.communicate()[1]
    assert process.returncode == 75, rest
    assert number.name in rest and "the same command continues" in rest
    assert not (tmp_path / "out" / "model").exists()
    again = train(command(folder, tmp_path / "out"))
    stderr = again.communicate()[1]
    assert again.returncode == 0, stderr
    assert "from step 0" not in stderr
    assert result(tmp_path / "out") == expected


def test_a_second_process_on_one_run_is_refused_and_names_the_first(uninterrupted, tmp_path):
    small_run(tmp_path, **{"recipe.steps": 4000})
    first = train(command(tmp_path, tmp_path / "out"), SLURM_JOB_ID="4711")
    try:
        for line in first.lines():
            if "from step 0" in line:
                break
        second = train(command(tmp_path, tmp_path / "out"))
        stderr = second.communicate()[1]
        assert second.returncode == 2
        assert str(first.pid) in stderr and "4711" in stderr and "Traceback" not in stderr
    finally:
        first.kill()
        first.communicate()


def stop_half_way(folder, out, step):
    """Kills the run at the update after `step`; gives the folder of its checkpoints."""
    code = (
        "import json,sys; from tests.faults import incarnations as i;"
        "print(i.incarnation(json.loads(sys.argv[1]), json.loads(sys.argv[2])))"
    )
    words = [json.dumps(command(folder, out)), json.dumps(["optimiser", step])]
    done = warm.run([sys.executable, "-c", code, *words], cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "killed", done.stderr
    (state,) = [path for path in (out / "state").iterdir() if path.is_dir()]
    return state


def test_a_damaged_newest_checkpoint_falls_back_loudly_to_the_one_before(uninterrupted, tmp_path):
    folder, expected = uninterrupted
    state = stop_half_way(folder, tmp_path / "out", 10)
    newest, older = sorted(state.glob("step-*"))[-1], sorted(state.glob("step-*"))[0]
    target = newest / "optimiser.safetensors"
    content = bytearray(target.read_bytes())
    content[len(content) // 2] ^= 1
    target.write_bytes(content)
    process = train(command(folder, tmp_path / "out"))
    stderr = process.communicate()[1]
    assert process.returncode == 0, stderr
    assert "optimiser.safetensors" in stderr and "falling back" in stderr
    assert f"from step {int(older.name[5:])}" in stderr
    assert result(tmp_path / "out") == expected


def test_the_last_two_checkpoints_and_the_best_weights_are_kept(uninterrupted, tmp_path):
    folder, _ = uninterrupted
    state = stop_half_way(folder, tmp_path / "out", 25)
    assert [path.name for path in sorted(state.glob("step-*"))] == ["step-000021", "step-000024"]
    best = [
        json.loads((path / "progress.json").read_text())["progress"]["best_step"]
        for path in sorted(state.glob("step-*"))
    ]
    assert all((state / f"kept-{step:06d}.safetensors").is_file() for step in best)


def test_another_recipe_never_resumes_and_starts_fresh_beside(uninterrupted, tmp_path):
    folder = uninterrupted[0]
    stop_half_way(folder, tmp_path / "out", 10)
    small_run(tmp_path / "other", **{"recipe.learning_rate": 1e-3})
    process = train(command(tmp_path / "other", tmp_path / "out"))
    stderr = process.communicate()[1]
    assert process.returncode == 0, stderr
    assert "another recipe, code or data" in stderr and "from step 0" in stderr
    fresh = train(command(tmp_path / "other", tmp_path / "alone"))
    assert fresh.wait() == 0
    assert result(tmp_path / "out") == result(tmp_path / "alone")


def test_a_loss_that_is_not_finite_stops_before_the_weights_and_leaves_a_dump(tmp_path):
    """A learning rate that makes weights overflow: the step is named, a dump is left, no model is written."""
    small_run(tmp_path, **{"recipe.learning_rate": 1e30, "optimiser.warmup_steps": 0})
    process = train(command(tmp_path, tmp_path / "out"))
    stderr = process.communicate()[1]
    assert process.returncode == 3, stderr
    assert "not-finite-step" in stderr and "Traceback" not in stderr
    (dump,) = (tmp_path / "out" / "state").glob("*/not-finite-step-*.json")
    assert "sequences" in json.loads(dump.read_text())["what"]
    assert not (tmp_path / "out" / "model").exists()


def test_a_run_that_fails_for_a_reason_of_its_own_fails_again_within_steps(tmp_path):
    """Weights grow threefold a step (learning rate 3e-3 times decay 1.3e3) until a loss is not finite."""
    small_run(tmp_path, **{"optimiser.weight_decay": 1.3e3, "optimiser.warmup_steps": 0})
    steps = []
    for _ in range(2):
        process = train(command(tmp_path, tmp_path / "out"))
        stderr = process.communicate()[1]
        assert process.returncode == 3, stderr
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
    process = train(command(folder, tmp_path / "out"))
    assert process.wait() == 0
    assert result(tmp_path / "out") == expected


def test_bad_input_is_one_line_and_leaves_nothing(tmp_path):
    small_run(tmp_path)
    (tmp_path / "traces.jsonl").write_text('{"id": "cut off')
    process = train(command(tmp_path, tmp_path / "out"))
    stderr = process.communicate()[1]
    assert process.returncode == 2, stderr
    assert "traces.jsonl" in stderr and "Traceback" not in stderr
    assert not (tmp_path / "out" / "model").exists() and not (tmp_path / "out" / "metrics.jsonl").exists()
