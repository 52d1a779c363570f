"""Snakemake continues a training that was told to stop: the job is started again, and the model is the same."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chord.provenance.files import job_processes
from tests import mini_study, warm
from tests.conftest import made_once
from tests.faults.small_run import result
from tests.unit.small_study import write_study
from tests.workflow.tree import PARTS, ROOT

MODEL = "results/demo/models/base/model"
DATA = ("results/demo/data/traces/base.jsonl", "results/demo/data/problems/validation.jsonl")


def project(folder: Path) -> Path:
    """The whole project, verbs and all, with a study whose base model takes 60 small steps."""
    for part in PARTS:
        place = folder / part
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, place, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / part, place)
    small = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    write_study(
        folder,
        model__architecture=small | {"num_key_value_heads": 1, "max_position_embeddings": 256},
        base_corpus__recipe__steps=60,
        base_corpus__rows_per_step=4,
        base_corpus__size=400,
        validation={"every_steps": 30, "problems": 4, "samples_per_problem": 1},
        data__validation={"task": "sum-3", "size": 4},
        rollouts__max_response_tokens=100,
        execution__checkpoint_every_steps=5,
    )
    return folder


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with the data of its base model, and no model yet."""

    def build(folder: Path) -> None:
        told = mini_study.run(project(folder), "snakemake", "--cores", "2", *DATA)
        assert told.returncode == 0, told.stdout

    return made_once(tmp_path_factory, "a study to continue", build)


@pytest.fixture
def folder(prepared: Path, tmp_path: Path) -> Path:
    """A copy for one test."""
    return shutil.copytree(prepared, tmp_path / "a study", symlinks=True)


def started(folder: Path) -> subprocess.Popen[str]:
    left_out = ("PYTHONPATH", "SNAKEMAKE_PROFILE")
    return subprocess.Popen(
        [str(Path(sys.executable).with_name("snakemake")), "--cores", "1", MODEL],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name not in left_out},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def trainer(folder: Path, process: subprocess.Popen[str]) -> int:
    """The process that trains, once it has written a checkpoint."""
    state = folder / "results/demo/models/base/state"
    while process.poll() is None:
        if list(state.glob("*/step-*")) and (state / "lease.json").exists():
            return int(json.loads((state / "lease.json").read_text())["pid"])
        time.sleep(0.01)
    raise AssertionError(process.communicate()[0])


@pytest.mark.slow
def test_a_training_job_that_receives_sigterm_is_continued_and_ends_with_the_same_bytes(
    folder: Path, tmp_path: Path
) -> None:
    process = started(folder)
    os.kill(trainer(folder, process), signal.SIGTERM)
    told = process.communicate(timeout=500)[0]
    assert process.returncode == 0, told
    assert "Trying to restart job" in told and "SIGTERM: saved after step" in told
    base = folder / "results/demo/models/base"
    assert "from step 0" not in (base / "train.log").read_text()
    ends = [json.loads(line) for line in (folder / "results/demo/provenance/ledger.jsonl").read_text().splitlines()]
    assert [end.get("exit_code") for end in ends if end.get("outcome") == "stopped"] == [75]

    alone = tmp_path / "alone"
    names = {"model": "model", "metrics": "metrics.jsonl", "timing": "timing.jsonl", "manifest": "manifest.json"}
    names |= {"state": "state", "validation-answers": "validation.jsonl"}
    words = [word for flag, name in names.items() for word in (f"--{flag}", str(alone / name))]
    data = folder / "results/demo/data"
    inputs = ["--run", str(base / "run.json"), "--traces", str(data / "traces/base.jsonl")]
    inputs += ["--validation", str(data / "problems/validation.jsonl")]
    told = warm.run([sys.executable, "-m", "chord", "train", *inputs, *words], cwd=ROOT)
    assert told.returncode == 0, told.stderr
    found = result(base)
    del found["model/.snakemake_timestamp"]  # Snakemake's own mark
    assert found == result(alone)


def resuming(folder: Path) -> subprocess.Popen[str]:
    """`chord resume` at work; it writes into resume.log."""
    left_out = ("PYTHONPATH", "SNAKEMAKE_PROFILE")
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    command = [sys.executable, "-m", "chord", "resume", "--cores", "1", MODEL]
    with (folder / "resume.log").open("w") as log:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, text=True)


@pytest.mark.slow
def test_after_a_kill_of_snakemake_alone_one_command_goes_on(folder: Path) -> None:
    process = started(folder)
    orphan = trainer(folder, process)
    os.kill(orphan, signal.SIGSTOP)  # else the training may finish before chord resume signals it
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert orphan in job_processes(folder)
    again, log = resuming(folder), folder / "resume.log"
    said = f"ending what the Snakemake before left running: chord train (process {orphan})"
    while said not in log.read_text() and again.poll() is None:
        time.sleep(0.01)  # until the log says that it was signalled; pytest ends a wait that is too long
    os.kill(orphan, signal.SIGCONT)
    assert again.wait(500) == 0, log.read_text()
    assert said in log.read_text()
    assert not job_processes(folder)
    ledger = folder / "results/demo/provenance/ledger.jsonl"
    ends = [json.loads(line) for line in ledger.read_text().split("\n")[:-1]]
    assert [end["outcome"] for end in ends if end.get("exit_code") == 75] == ["stopped"]
    assert "from step 0" not in (folder / "results/demo/models/base/train.log").read_text()
    assert sum(one["event"] == "start" and one["verb"] == "chord prepare" for one in ends) == len(
        list((folder / "results/demo/data/problems").glob("*.manifest.json"))
    ), "what was finished is not made again"


@pytest.mark.slow
def test_what_ended_well_while_nobody_watched_is_kept(folder: Path) -> None:
    process = started(folder)
    trainer(folder, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    while job_processes(folder):
        time.sleep(0.1)
    manifest = (folder / "results/demo/models/base/train.manifest.json").read_bytes()
    assert resuming(folder).wait(500) == 0, (folder / "resume.log").read_text()
    assert "results/demo/models/base/model was finished while nobody watched" in (folder / "resume.log").read_text()
    assert (folder / "results/demo/models/base/train.manifest.json").read_bytes() == manifest
