"""`chord watch` tells a study not begun, running, failed, stopped and done apart, with curves and the time left."""

import json
import os
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from chord import watch
from chord.findings import progress
from chord.findings.progress import Job, State
from chord.provenance import ledger

NOW = 1_800_000_000.0
KEY = "runs/grpo/seed-1/train.manifest.json"


def begun(study: Path, key: str, verb: str, attempt: str, pid: int = 1, host: str = "elsewhere") -> None:
    fields = {"attempt": attempt, "verb": verb, "manifest": key, "command": [], "host": host, "pid": pid, "job": None}
    ledger.append(study / "provenance/ledger.jsonl", "start", fields)


def ended(study: Path, attempt: str, outcome: str, **more: object) -> None:
    ledger.append(study / "provenance/ledger.jsonl", "end", {"attempt": attempt, "outcome": outcome, **more})


def state(study: Path, key: str, verb: str = "chord.score") -> State:
    (job,) = progress.jobs_of(study, {key: verb})
    return job.state


def made(study: Path, key: str) -> None:
    (study / key).parent.mkdir(parents=True, exist_ok=True)
    (study / key).write_text("{}")


def test_a_job_is_planned_then_runs_then_is_done(tmp_path: Path) -> None:
    key = "table1.manifest.json"
    assert state(tmp_path, key) is State.PLANNED
    begun(tmp_path, key, "chord.score", "a")
    assert state(tmp_path, key) is State.RUNNING
    made(tmp_path, key)
    ended(tmp_path, "a", "ok", seconds=3.0)
    assert state(tmp_path, key) is State.DONE
    (tmp_path / key).unlink()  # made again next time
    assert state(tmp_path, key) is State.PLANNED


@pytest.mark.parametrize(
    ("outcome", "more", "expected"),
    [
        ("failed", {"error": "UserError: no"}, State.FAILED),
        ("stopped", {"exit_code": 3}, State.FAILED),  # a loss that is not finite
        ("stopped", {"exit_code": 75}, State.STOPPED),  # told to stop, to be continued
        ("signal", {"signal": "SIGTERM"}, State.STOPPED),
    ],
)
def test_how_an_attempt_ended_tells_failed_from_stopped(tmp_path: Path, outcome, more, expected) -> None:
    begun(tmp_path, KEY, "chord.train", "a")
    ended(tmp_path, "a", outcome, **more)
    assert state(tmp_path, KEY, "chord.train") is expected
    begun(tmp_path, KEY, "chord.score", "b")  # tried again
    assert state(tmp_path, KEY) is State.RUNNING


def test_an_attempt_without_an_end_runs_while_its_process_or_its_lease_lives(tmp_path: Path) -> None:
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "x/table1.manifest.json"])
    begun(tmp_path, "table1.manifest.json", "chord.score", "a", pid=sleeper.pid, host=socket.gethostname())
    assert state(tmp_path, "table1.manifest.json") is State.RUNNING
    sleeper.kill()
    sleeper.wait()
    assert state(tmp_path, "table1.manifest.json") is State.STOPPED
    begun(tmp_path, KEY, "chord.train", "b")
    assert state(tmp_path, KEY, "chord.train") is State.STOPPED
    lease = tmp_path / "runs/grpo/seed-1/state/lease.json"
    made(tmp_path, "runs/grpo/seed-1/state/lease.json")
    assert state(tmp_path, KEY, "chord.train") is State.RUNNING
    os.utime(lease, (time.time() - 121, time.time() - 121))
    assert state(tmp_path, KEY, "chord.train") is State.STOPPED


def running(study: Path, steps: int | None = 40) -> progress.Training:
    """A training after 4 steps of 0.5 s each, with a torn last line."""
    run = study / "runs/grpo/seed-1"
    made(study, "runs/grpo/seed-1/state/lease.json")
    (run / "run.json").write_text(json.dumps({"recipe": {"steps": steps}}))
    (run / "train.log").write_text("grpo, seed 1: 12 steps, from step 0\n")
    (run / "state/abc").mkdir()
    lines = [{"step": 0, "validation": {"accuracy": 0.5}}, *({"step": i, "reward": i / 10} for i in range(1, 5))]
    (run / "state/abc/metrics.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines) + '{"step": 5, "rew'
    )
    times = [{"step": i, "seconds": {"sample": 0.2, "learn": 0.3}, "tokens_per_second": 100.0 * i} for i in range(1, 5)]
    (run / "state/abc/timing.jsonl").write_text("".join(json.dumps(line) + "\n" for line in times))
    return progress.training(study, Job(KEY, "chord.train", State.RUNNING))


def test_a_training_tells_step_pace_curve_and_what_is_left(tmp_path: Path) -> None:
    one = running(tmp_path)
    assert (one.name, one.step, one.steps, one.metric) == ("grpo/seed-1", 4, 40, "reward")
    assert one.curve == (0.1, 0.2, 0.3, 0.4)
    assert one.tokens_per_second == pytest.approx(250)  # mean of 100, 200, 300, 400
    assert one.seconds_left == pytest.approx(18)  # 36 steps of 0.5 s


def test_a_training_by_epochs_has_the_steps_that_it_said_in_its_log(tmp_path: Path) -> None:
    assert running(tmp_path, steps=None).steps == 12


def test_the_time_left_is_that_of_finished_jobs_of_the_kind_and_the_pace_of_what_runs(tmp_path: Path) -> None:
    jobs = [
        Job("a", "chord.score", State.DONE, seconds=10.0),
        Job("b", "chord.score", State.DONE, seconds=20.0),
        Job("c", "chord.score", State.PLANNED),
        Job("d", "chord.score", State.RUNNING, since=NOW - 5),
        Job(KEY, "chord.train", State.RUNNING, since=NOW - 100),
    ]
    # 15 for the planned one, 15 - 5 for the one that runs, 18 for the training
    assert progress.seconds_left(jobs, {KEY: running(tmp_path)}, NOW) == pytest.approx(43)
    assert progress.seconds_left([*jobs, Job("e", "chord.plot", State.PLANNED)], {}, NOW) is None


def test_the_newest_log_of_snakemake_counts_its_steps(tmp_path: Path) -> None:
    assert progress.snakemake_steps(tmp_path) is None
    logs = tmp_path / ".snakemake/log"
    logs.mkdir(parents=True)
    (logs / "2026-01-01T000000.snakemake.log").write_text("9 of 9 steps (100%) done\n")
    (logs / "2026-01-02T000000.snakemake.log").write_text("1 of 40 steps (2%) done\n2 of 40 steps (5%) done\n")
    assert progress.snakemake_steps(tmp_path) == (2, 40)


@pytest.mark.parametrize(
    ("values", "line"),
    [((), ""), ((1.0,), "▄"), ((0.0, 1.0), "▁█"), (tuple(range(56)), "▁" * 2 + "▂" * 4)],
)
def test_a_curve_in_one_line_goes_from_its_lowest_to_its_highest(values, line: str) -> None:
    found = watch.sparkline(values)
    assert found.startswith(line) and len(found) == min(28, len(values))


def shown(root: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "chord.watch", "--once", "--root", str(root), *arguments]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_a_study_that_was_not_begun_is_told_so_with_the_command_that_begins_it(tmp_path: Path) -> None:
    (tmp_path / "config").symlink_to(Path(__file__).parents[2] / "config")
    text = shown(tmp_path, "demo")
    assert "Not begun" in text and "snakemake --cores" in text
    assert not (tmp_path / "results").exists()


def test_a_finished_study_is_done_to_the_last_job_and_a_plan_names_the_manifests_that_are_there(
    mini_study: Path,
) -> None:
    results = mini_study / "results/demo"
    count = len(list(results.rglob("*.manifest.json")))
    text = shown(mini_study)
    assert f"{count} done" in text and "Finished" in text and "planned" not in text


def test_a_study_that_runs_shows_its_training_as_it_learns(mini_copy: Path) -> None:
    results = mini_copy / "results/demo"
    (results / KEY).unlink()
    recipe = json.loads((results / "runs/grpo/seed-1/run.json").read_text())
    recipe["recipe"]["steps"] = 100_000
    (results / "runs/grpo/seed-1/run.json").write_text(json.dumps(recipe))
    data, run = results / "data/problems", results / "runs/grpo/seed-1"
    command = [sys.executable, "-m", "chord.train", "--run", run / "run.json", "--start", results / "models/base/model",
               "--prompts", data / "train.jsonl", "--validation", data / "validation.jsonl", "--model", run / "model",
               "--metrics", run / "metrics.jsonl", "--timing", run / "timing.jsonl", "--manifest", results / KEY,
               "--state", run / "state"]  # fmt: skip
    training = subprocess.Popen(
        list(map(str, command)), cwd=mini_copy, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        until = time.monotonic() + 120
        while "/100000" not in (text := shown(mini_copy)) or " reward " not in text:
            assert time.monotonic() < until and training.poll() is None, text
        assert "1 running" in text and "grpo/seed-1" in text and "left:" in text
    finally:
        training.kill()
        training.wait()


def test_times_of_the_ledger_are_read_as_they_are(tmp_path: Path) -> None:
    before = datetime.now(UTC).timestamp()
    begun(tmp_path, KEY, "chord.score", "a")
    (job,) = progress.jobs_of(tmp_path, {KEY: "chord.score"})
    assert before - 0.01 <= job.since <= datetime.now(UTC).timestamp()
