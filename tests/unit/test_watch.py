"""`chord watch` tells a study not begun, running, failed, stopped and done apart, with curves and the time left."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from chord.cluster import watch
from chord.cluster.plan import estimated
from chord.cluster.sizing import Estimates, Layout, Work
from chord.cluster.snakemake import Planned
from chord.cluster.watch import Job, Left, State, Training
from chord.config.project import load
from chord.config.study import Planning
from chord.provenance import ledger
from chord.steps import Dag
from tests import warm

ROOT = Path(__file__).parents[2]
PLANNING = Planning.read(ROOT)

NOW = 1_800_000_000.0
KEY = "runs/grpo/seed-1/train.manifest.json"


def begun(study: Path, key: str, verb: str, attempt: str, pid: int = 1, host: str = "elsewhere") -> None:
    fields = {"attempt": attempt, "verb": verb, "manifest": key, "command": [], "host": host, "pid": pid, "job": None}
    ledger.append(study / "provenance/ledger.jsonl", "start", fields)


def ended(study: Path, attempt: str, outcome: str, **more: object) -> None:
    ledger.append(study / "provenance/ledger.jsonl", "end", {"attempt": attempt, "outcome": outcome, **more})


def state(study: Path, key: str, rule: str = "score") -> State:
    (job,) = watch.jobs_of(study, {key: rule})
    return job.state


def made(study: Path, key: str) -> None:
    (study / key).parent.mkdir(parents=True, exist_ok=True)
    (study / key).write_text("{}")


def test_a_job_is_planned_then_runs_then_is_done(tmp_path: Path) -> None:
    key, before = "table1.manifest.json", time.time()
    assert state(tmp_path, key) is State.PLANNED
    begun(tmp_path, key, "chord score", "a")
    (job,) = watch.jobs_of(tmp_path, {key: "score"})
    assert job.state is State.RUNNING and before - 0.01 <= job.since <= time.time()
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
    begun(tmp_path, KEY, "chord train", "a")
    ended(tmp_path, "a", outcome, **more)
    assert state(tmp_path, KEY, "train") is expected
    begun(tmp_path, KEY, "chord score", "b")  # tried again
    assert state(tmp_path, KEY) is State.RUNNING


def test_an_attempt_without_an_end_runs_while_its_process_or_its_lease_lives(tmp_path: Path) -> None:
    table = "table1.manifest.json"
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", f"x/{table}"])
    begun(tmp_path, table, "chord score", "a", pid=sleeper.pid, host=socket.gethostname())
    assert state(tmp_path, table) is State.RUNNING
    sleeper.kill()
    sleeper.wait()
    assert state(tmp_path, table) is State.STOPPED
    begun(tmp_path, KEY, "chord train", "b")
    assert state(tmp_path, KEY, "train") is State.STOPPED
    made(tmp_path, "runs/grpo/seed-1/state/lease.json")
    assert state(tmp_path, KEY, "train") is State.RUNNING
    os.utime(tmp_path / "runs/grpo/seed-1/state/lease.json", (time.time() - 121, time.time() - 121))
    assert state(tmp_path, KEY, "train") is State.STOPPED


def running(study: Path, steps: int | None = 40) -> watch.Training:
    """A training after 4 steps of 0.5 s each, with a torn last line."""
    run = study / "runs/grpo/seed-1"
    made(study, "runs/grpo/seed-1/state/lease.json")
    (run / "run.json").write_text(json.dumps({"recipe": {"steps": steps}}))
    (run / "train.log").write_text("grpo, seed 1: 12 steps, from step 0\n")
    (run / "state/abc").mkdir()
    lines = [{"step": 0, "validation": {"accuracy": 0.5}}, *({"step": i, "reward": i / 10} for i in range(1, 5))]
    times = [{"step": i, "seconds": {"sample": 0.2, "learn": 0.3}, "tokens_per_second": 100.0 * i} for i in range(1, 5)]
    for name, entries, torn in (("metrics", lines, '{"step": 5, "rew'), ("timing", times, "")):
        text = "".join(json.dumps(entry) + "\n" for entry in entries)
        (run / f"state/abc/{name}.jsonl").write_text(text + torn)
    return watch.training(study, KEY)


def test_a_training_tells_step_pace_curve_and_what_is_left(tmp_path: Path) -> None:
    one = running(tmp_path / "steps")
    assert (one.name, one.step, one.steps, one.metric) == ("grpo/seed-1", 4, 40, "reward")
    assert one.curve == (0.1, 0.2, 0.3, 0.4)
    assert one.tokens_per_second == pytest.approx(250)  # mean of 100, 200, 300, 400
    assert one.seconds_left == pytest.approx(18)  # 36 steps of 0.5 s
    assert running(tmp_path / "epochs", steps=None).steps == 12  # as it said in its log


SECONDS = {"train1": 100.0, "train2": 100.0, "train3": 100.0, "generate1": 30.0, "score1": 10.0, "score2": 10.0}
SECONDS |= {"tabulate1": 5.0}


def left_of(told: Mapping[str, Job | float], at_once: int = 2, **trainings: Training) -> Left:
    """Of all jobs of SECONDS: those told, done after so many seconds where a number is; the others are planned."""

    def job(key: str) -> Job:
        one = told.get(key)
        if one is None:
            return Job(key, key[:-1], State.PLANNED)
        return one if isinstance(one, Job) else Job(key, key[:-1], State.DONE, NOW - 1000, one)

    prices = watch.Prices(SECONDS, Layout("cpu-core", PLANNING.machines["cpu-core"], 1), at_once)
    return watch.time_left([job(key) for key in SECONDS], trainings, prices, NOW)


def test_where_nothing_has_run_the_time_left_is_the_plans_shared_between_the_cores() -> None:
    left = left_of({})
    assert (left.work, left.seconds) == (355, 177.5)  # 3 x 100 + 30 + 2 x 10 + 5, on two cores
    assert (left.planned, left.finished, left.paced, left.is_seen, left.ratio) == (7, 0, 0, False, 1)
    assert left_of({}, at_once=50).seconds == 100  # no less than the longest job
    done = left_of(dict.fromkeys(SECONDS, 3.0))
    assert (done.seconds, done.work, done.planned, done.paced) == (0, 0, 0, 0)


def test_a_kind_that_ran_twice_as_slow_as_planned_goes_on_so_and_what_never_ran_goes_by_all_that_ran() -> None:
    one = left_of({"train1": 200.0})
    assert one.work == 2 * 355 - 200  # nothing else has run: all of it is twice as slow
    two = left_of({"train1": 200.0, "score1": 5.0})  # of 110 planned seconds 205 were measured
    assert two.ratios == {"train": 2, "score": 0.5}
    assert two.work == pytest.approx(2 * 200 + 0.5 * 10 + (30 + 5) * 205 / 110)
    assert (two.planned, two.finished) == (5, 2)


def test_what_an_earlier_attempt_took_counts_to_a_finished_training(tmp_path: Path) -> None:
    done = Job("train1", "train", State.DONE, NOW - 1000, 50.0, earlier=150.0)
    assert left_of({"train1": done}).ratios == {"train": 2}
    for attempt, outcome, seconds in [("a", "ok", 1), ("b", "signal", 20), ("c", "stopped", 30), ("d", "ok", 4)]:
        begun(tmp_path, KEY, "chord train", attempt)
        ended(tmp_path, attempt, outcome, seconds=seconds)
    made(tmp_path, KEY)
    (job,) = watch.jobs_of(tmp_path, {KEY: "train"})
    assert (job.state, job.seconds, job.earlier) == (State.DONE, 4, 50)  # "a" made a model that was thrown away
    (job,) = watch.jobs_of(tmp_path, {KEY: "score"})
    assert job.earlier == 0  # nothing but a training continues


def test_a_training_half_way_goes_on_at_its_own_pace_and_tells_that_of_what_waits() -> None:
    half = Training("x", step=20, steps=40, tokens_per_second=None, seconds_per_step=1.0, metric="reward", curve=())
    runs = Job("train1", "train", State.RUNNING, since=NOW - 25)
    left = left_of({"train1": runs}, train1=half)
    # 20 steps of 1 s are left; 20 s were measured for half of 100 planned ones: a ratio of 0.4
    assert left.ratios == {"train": 0.4}
    assert left.work == pytest.approx(20 + 0.4 * (200 + 30 + 20 + 5))
    assert (left.planned, left.paced, left.finished) == (6, 1, 0)
    new = half._replace(step=0, seconds_per_step=None)  # tells no pace yet: the plan, less what has run
    assert left_of({"train1": runs}, train1=new).work == pytest.approx(355 - 25)


def test_jobs_at_once_are_those_of_the_time_in_which_any_ran() -> None:
    told = {
        "train1": Job("train1", "train", State.DONE, NOW - 1000, 100.0),  # alone for 50 s, then with the next for 50 s,
        "train2": Job("train2", "train", State.DONE, NOW - 950, 100.0),  # which is alone for 50 s; then nothing runs
        "train3": Job("train3", "train", State.RUNNING, NOW - 60),  # and this is alone
        "score1": Job("score1", "score", State.STOPPED, NOW - 30),  # nobody knows how long it ran
    }
    left = left_of(told, at_once=64)
    assert (left.at_once, left.is_seen) == (pytest.approx(260 / 210), True)
    assert left.work == 40 + 30 + 2 * 10 + 5  # the one that runs has spent 60 of 100 s
    assert left.seconds == pytest.approx(95 * 210 / 260)


def test_every_job_has_the_price_of_chord_plan() -> None:
    demo, machine = load(ROOT, "demo"), PLANNING.machines["cpu-core"]
    keys = {key: job.step.rule for key, job in Dag(demo, ROOT).planned.items() if job.step.verb}
    estimates = Estimates(demo, PLANNING, ROOT)
    found = watch.priced(estimates, keys)
    assert found.layout == Layout("cpu-core", machine, 1)  # the smallest that holds it
    of_plan = [Planned(rule, (f"results/demo/{key}",), ()) for key, rule in keys.items()]
    told = estimated(estimates, found.layout, of_plan)["jobs"]
    assert found.seconds == {key: one["seconds"] for key, one in zip(keys, told, strict=True)}


def test_jobs_are_priced_by_the_project_that_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools, math = (Estimates(load(ROOT, name), PLANNING, ROOT) for name in ("tools", "math"))
    asked, answered = Work("ask_expert", "expert-second"), Work("generate", "grpo", "bfcl")
    layout = Layout("h100-80gb", PLANNING.machines["h100-80gb"], 8)
    monkeypatch.chdir(ROOT)
    here = Estimates(tools.project, PLANNING)
    expected = [here.cost(work, layout).seconds for work in (asked, answered)]
    monkeypatch.chdir(tmp_path)  # neither config/ nor results/ is here
    keys = {
        "data/traces/expert-second.manifest.json": "ask_expert",
        "runs/grpo/seed-1/eval/bfcl/answers.manifest.json": "generate",
    }
    found = watch.priced(tools, keys, "h100-80gb", 8)
    assert (found.layout, list(found.seconds.values())) == (layout, expected)
    # One GPU does not hold a training of 7 B parameters: eight, as `chord plan` has it.
    assert watch.priced(math, {KEY: "train"}).layout == layout


def test_the_newest_log_of_snakemake_counts_its_steps(tmp_path: Path) -> None:
    assert watch.snakemake_steps(tmp_path) is None
    logs = tmp_path / ".snakemake/log"
    logs.mkdir(parents=True)
    (logs / "2026-01-01T000000.snakemake.log").write_text("9 of 9 steps (100%) done\n")
    (logs / "2026-01-02T000000.snakemake.log").write_text("1 of 40 steps (2%) done\n2 of 40 steps (5%) done\n")
    assert watch.snakemake_steps(tmp_path) == (2, 40)


@pytest.mark.parametrize(
    ("values", "line"),
    [((), ""), ((1.0,), "▄"), ((0.0, 1.0), "▁█"), (tuple(range(56)), "▁" * 2 + "▂" * 4)],
)
def test_a_curve_in_one_line_goes_from_its_lowest_to_its_highest(values, line: str) -> None:
    found = watch.sparkline(values)
    assert found.startswith(line) and len(found) == min(28, len(values))


def shown(root: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "chord", "watch", "--once", "--root", str(root), *arguments]
    done = warm.run(command, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_a_study_that_was_not_begun_names_the_command_that_begins_it_and_the_time_of_the_plan(tmp_path: Path) -> None:
    (tmp_path / "config").symlink_to(ROOT / "config")
    text = shown(tmp_path, "demo")
    assert "Not begun" in text and "snakemake --cores" in text
    assert re.search(r"about \d.* left, estimated from chord plan\n", text)
    assert "(planned for 1 x cpu-core; " in text and "at once, as the cores here allow)" in text
    told = json.loads(shown(tmp_path, "demo", "--json"))
    left = told["left"]
    assert left["work"] >= left["seconds"] > 1 and left["planned"] == told["jobs"]["planned"]
    assert (left["machine"], left["is_seen"], left["finished"]) == ("cpu-core", False, 0)
    assert not (tmp_path / "results").exists()


def test_a_study_that_was_begun_says_how_many_jobs_and_trainings_its_time_left_stands_on(tmp_path: Path) -> None:
    (tmp_path / "config").symlink_to(ROOT / "config")
    results = tmp_path / "results/demo"
    for name in ("train", "validation"):
        key = f"data/problems/{name}.manifest.json"
        begun(results, key, "chord prepare", name)
        made(results, key)
        ended(results, name, "ok", seconds=2.5)
    text = shown(tmp_path, "demo")
    assert re.search(r"about \d.* left, estimated from chord plan and 2 finished jobs\n", text)
    assert re.search(r"\(planned for 1 x cpu-core; [12](\.\d)? at once, as on average so far\)\n", text)
    begun(results, KEY, "chord train", "a")
    running(results)
    ended(results, "a", "signal", seconds=9.0)  # killed: it goes on from its checkpoint
    told = json.loads(shown(tmp_path, "demo", "--json"))
    assert told["jobs"] == {"done": 2, "running": 0, "failed": 0, "stopped": 1, "planned": told["left"]["planned"]}
    assert (told["left"]["finished"], told["left"]["paced"], told["left"]["is_seen"]) == (2, 1, True)
    assert told["left"]["ratios"]["prepare"] == 0.5  # 5 s each were planned


LENGTHS = "config/planning.yaml: lengths has no 'demo', expected the study's mean lengths"
SHAPE = "config/planning.yaml: models has no 'meta-llama/Llama-3.2-3B-Instruct'"
LARGEST = "no machine of config/planning.yaml holds it; the largest: does not fit 1 x 141"


@pytest.mark.parametrize(
    ("remove", "arguments", "missing"),
    [
        ("  demo: {prompt", ("demo",), LENGTHS),
        ("  meta-llama/", ("tools",), SHAPE),
        (None, ("demo",), "config/planning.yaml: found no such file"),
        ("", ("math", "--devices", "1"), LARGEST),
        ("", ("math", "--machine", "cpu-core"), "machine cpu-core: does not fit 8 x 8 GB"),
    ],
)
def test_where_the_plan_knows_no_price_what_is_missing_is_said_and_no_number(
    tmp_path: Path, remove: str | None, arguments: tuple[str, ...], missing: str
) -> None:
    shutil.copytree(ROOT / "config", tmp_path / "config")
    file = tmp_path / "config/planning.yaml"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(line for line in lines if not (remove and line.startswith(remove))))
    if remove is None:
        file.unlink()
    text = " ".join(shown(tmp_path, *arguments).split())
    assert f"no estimate of the time left: {missing}" in text and "about" not in text
    left = json.loads(shown(tmp_path, *arguments, "--json"))["left"]
    assert left["seconds"] is None and left["why"].startswith(missing)


def test_a_finished_study_is_done_to_the_last_job_that_left_a_manifest(mini_study: Path) -> None:
    results = mini_study / "results/demo"
    count = len(list(results.rglob("*.manifest.json")))
    text = shown(mini_study)
    assert f"{count} done" in text and "Finished" in text and "planned" not in text and "left" not in text
    assert json.loads(shown(mini_study, "--json"))["left"] == {"seconds": 0}


def test_a_study_that_runs_shows_its_training_as_it_learns(mini_copy: Path) -> None:
    results = mini_copy / "results/demo"
    (results / KEY).unlink()
    recipe = json.loads((results / "runs/grpo/seed-1/run.json").read_text())
    recipe["recipe"]["steps"] = 100_000
    (results / "runs/grpo/seed-1/run.json").write_text(json.dumps(recipe))
    data, run = results / "data/problems", results / "runs/grpo/seed-1"
    command = [sys.executable, "-m", "chord", "train", "--run", run / "run.json",
               "--start", results / "models/base/model",
               "--prompts", data / "train.jsonl", "--validation", data / "validation.jsonl", "--model", run / "model",
               "--metrics", run / "metrics.jsonl", "--timing", run / "timing.jsonl", "--manifest", results / KEY,
               "--state", run / "state"]  # fmt: skip
    training = warm.start(list(map(str, command)), cwd=mini_copy)
    try:
        until = time.monotonic() + 120
        while "/100000" not in (text := shown(mini_copy)) or " reward " not in text:
            assert time.monotonic() < until and training.poll() is None, text
        assert "1 running" in text and "grpo/seed-1" in text
        # Only the training is left, and it goes on at its own pace.
        assert re.search(r"about \d.* left, estimated from the pace of 1 training\n", text)
    finally:
        training.kill()
        training.wait()
