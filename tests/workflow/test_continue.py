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
from tests.conftest import made_once
from tests.faults.small_run import result
from tests.projects import clean_environment, copied, run
from tests.unit.small_study import write_study

BASE = Path("results/demo/models/base")
MODEL, LEDGER = f"{BASE}/model", "results/demo/provenance/ledger.jsonl"
DATA = ("results/demo/data/traces/base.jsonl", "results/demo/data/problems/validation.jsonl")
pytestmark = pytest.mark.slow


def project(folder: Path) -> Path:
    """The whole project, verbs and all, with a study whose base model takes 60 small steps."""
    small = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    write_study(
        copied(folder),
        model__architecture=small | {"num_key_value_heads": 1, "max_position_embeddings": 256},
        base_corpus__recipe__steps=60,
        base_corpus__rows_per_step=4,
        base_corpus__size=400,
        validation={"every_steps": 30, "problems": 4, "samples_per_problem": 1},
        data__validation={"task": "sum-3", "size": 4},
        execution__checkpoint_every_steps=5,
    )
    return folder


def snakemade(folder: Path, *files: str) -> Path:
    """The folder, once `snakemake` has made these files there."""
    told = run(folder, "snakemake", "--cores", "2", *files)
    assert told.returncode == 0, told.stdout
    return folder


def model_of(folder: Path) -> dict[str, bytes]:
    """The bytes of the base model and of its metrics, without Snakemake's own mark."""
    return {name: content for name, content in result(folder / BASE).items() if "snakemake" not in name}


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with the data of its base model, and no model yet."""
    return made_once(tmp_path_factory, "a study to continue", lambda folder: snakemade(project(folder), *DATA))


@pytest.fixture
def folder(prepared: Path, tmp_path: Path) -> Path:
    """A copy for one test."""
    return shutil.copytree(prepared, tmp_path / "a study", symlinks=True)


def started(folder: Path, program: str) -> subprocess.Popen[str]:
    """`snakemake` or `chord resume` at work on the model; it writes into PROGRAM.log."""
    command = [sys.executable, "-m", *program.split(), "--cores", "1", MODEL]
    if program == "snakemake":
        command[:3] = [str(Path(sys.executable).with_name("snakemake"))]
    with (folder / f"{program}.log").open("w") as log:
        return subprocess.Popen(command, cwd=folder, env=clean_environment(), stdout=log, stderr=log, text=True)


def trainer(folder: Path, process: subprocess.Popen[str]) -> int:
    """The process that trains, once it has written a checkpoint."""
    state = folder / BASE / "state"
    while process.poll() is None:
        if list(state.glob("*/step-*")) and (state / "lease.json").exists():
            return int(json.loads((state / "lease.json").read_text())["pid"])
        time.sleep(0.01)
    raise AssertionError((folder / "snakemake.log").read_text())


def ledger(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / LEDGER).read_text().splitlines()]


def test_a_training_job_that_receives_sigterm_is_continued_and_ends_with_the_same_bytes(
    folder: Path, prepared: Path, tmp_path: Path
) -> None:
    process = started(folder, "snakemake")
    os.kill(trainer(folder, process), signal.SIGTERM)
    assert process.wait(500) == 0, (folder / "snakemake.log").read_text()
    told = (folder / "snakemake.log").read_text()
    assert "Trying to restart job" in told and "SIGTERM: saved after step" in told
    assert "from step 0" not in (folder / BASE / "train.log").read_text()
    assert [one.get("exit_code") for one in ledger(folder) if one.get("outcome") == "stopped"] == [75]
    alone = shutil.copytree(prepared, tmp_path / "alone", symlinks=True)
    assert model_of(folder) == model_of(snakemade(alone, MODEL))


def test_after_a_kill_of_snakemake_alone_one_command_goes_on(folder: Path) -> None:
    process = started(folder, "snakemake")
    orphan = trainer(folder, process)
    os.kill(orphan, signal.SIGSTOP)  # else the training may finish before chord resume signals it
    process.kill()
    process.wait()
    assert orphan in job_processes(folder)
    again, log = started(folder, "chord resume"), folder / "chord resume.log"
    said = f"ending what the Snakemake before left running: chord train (process {orphan})"
    while said not in log.read_text() and again.poll() is None:
        time.sleep(0.01)  # until the log says that it was signalled; pytest ends a wait that is too long
    os.kill(orphan, signal.SIGCONT)
    assert again.wait(500) == 0, log.read_text()
    assert said in log.read_text()
    assert not job_processes(folder)
    assert [one["outcome"] for one in ledger(folder) if one.get("exit_code") == 75] == ["stopped"]
    assert "from step 0" not in (folder / BASE / "train.log").read_text()
    drawn = sum(one["event"] == "start" and one["verb"] == "chord prepare" for one in ledger(folder))
    assert drawn == len(list((folder / "results/demo/data/problems").glob("*.manifest.json"))), "made again"


def test_what_ended_well_while_nobody_watched_is_kept(folder: Path) -> None:
    process = started(folder, "snakemake")
    trainer(folder, process)
    process.kill()
    process.wait()
    while job_processes(folder):
        time.sleep(0.1)
    manifest = (folder / BASE / "train.manifest.json").read_bytes()
    resumed, log = started(folder, "chord resume"), folder / "chord resume.log"
    assert resumed.wait(500) == 0, log.read_text()
    assert f"{MODEL} was finished while nobody watched" in log.read_text()
    assert (folder / BASE / "train.manifest.json").read_bytes() == manifest
