"""What can happen to a study on a cluster, each on a real Slurm; afterwards the model is that of an undisturbed run.

Every test looks at results: the bytes of the model and its metrics, and the attempts in the ledger.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.cluster.slurm import Cluster, processes_of, signal_inside
from tests.conftest import made_once
from tests.faults.small_run import result
from tests.mini_study import edit_yaml, run
from tests.workflow.test_continue import project

MODEL = "results/demo/models/base/model"
DATA = ("results/demo/data/traces/base.jsonl", "results/demo/data/problems/validation.jsonl")
SNAKEMAKE = (sys.executable, "-m", "snakemake")
# What this small cluster needs otherwise than the profile says; no rule and no study is changed.
QUICK = ("--jobs=4", "--latency-wait=5", "--slurm-init-seconds-before-status-checks=5")
RESOURCES = ("--default-resources", "slurm_partition=cpu", "runtime=5", "mem_mb=300")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def of_training(**changes: object) -> tuple[str, ...]:
    """The option that gives the training of the base model these resources, and a partition with GPUs."""
    wanted = {"slurm_partition": "gpu", "mem_mb": 400, "gres": "gpu:1", "runtime": 60} | changes
    return ("--set-resources", *(f"train_base:{name}={value}" for name, value in wanted.items()))


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with its data made, and beside it (`alone`) with a model that nobody disturbed."""

    def build(folder: Path) -> None:
        own = project(folder / "project")
        edit_yaml(own / "config/studies/demo.yaml", base_corpus__recipe__steps=250, base_corpus__size=1000)
        (own / "slurm").symlink_to("profiles/slurm")
        told = run(own, "snakemake", "--cores", "2", *DATA)
        assert told.returncode == 0, told.stdout
        shutil.copytree(own, folder / "alone", symlinks=True)
        told = run(folder / "alone", "snakemake", "--cores", "1", MODEL)
        assert told.returncode == 0, told.stdout

    return made_once(tmp_path_factory, "a study for a cluster", build)


@pytest.fixture
def folder(prepared: Path, tmp_path: Path) -> Path:
    """A project of the test's own: data, and no model yet."""
    return shutil.copytree(prepared / "project", tmp_path / "project", symlinks=True)


def started(cluster: Cluster, folder: Path, *options: str) -> subprocess.Popen[str]:
    """Snakemake at work on the login machine, with the project's own profile."""
    command = (*SNAKEMAKE, "--profile", "slurm", *QUICK, *RESOURCES, *options, "--", MODEL)
    log = (folder / "snakemake.log").open("w")
    return cluster.popen(*command, cwd=folder, stdout=log, stderr=subprocess.STDOUT)


def ended(process: subprocess.Popen[str], folder: Path, code: int = 0) -> str:
    """What Snakemake said, once it is over."""
    found = process.wait(600)
    told = (folder / "snakemake.log").read_text()
    assert found == code, told
    return told


def jobs_of(cluster: Cluster, folder: Path) -> dict[str, str]:
    """The state of every Slurm job that was sent from the folder, by its id."""
    rows = [line.split("\t") for line in cluster.squeue("%i\t%T\t%Z")]
    return {number: state for number, state, place in rows if Path(place) == folder}


@contextmanager
def slowed(trainers: list[int]) -> Iterator[None]:
    """These processes get a twenty-fifth of their time, as on a machine that is busy or small."""
    over = threading.Event()

    def pace() -> None:
        while not over.wait(0.1):
            for number, pause in ((signal.SIGSTOP, 2.4), (signal.SIGCONT, 0)):
                for process in trainers:
                    with suppress(OSError):
                        os.kill(process, number)
                time.sleep(pause)

    thread = threading.Thread(target=pace)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def in_training(cluster: Cluster, folder: Path, *others: str) -> str:
    """The Slurm job that trains, once it has written a checkpoint; not one of `others`."""
    state = folder / "results/demo/models/base/state"
    found: list[str] = []

    def at_work() -> bool:
        with_checkpoint = bool(list(state.glob("*/step-*")))
        lease = state / "lease.json"
        job = json.loads(lease.read_text())["job"] if with_checkpoint and lease.exists() else None
        found[:] = [job] if job and job not in others else []
        return bool(found)

    cluster.wait_for(at_work, "a training has written a checkpoint", timeout=240)
    return found[0]


def said(folder: Path) -> str:
    """What the latest training says; Snakemake removes the log of the one before."""
    try:
        return (folder / "results/demo/models/base/train.log").read_text()
    except FileNotFoundError:
        return ""


def outcomes(folder: Path) -> list[tuple[object, object]]:
    """How each attempt to train told of its end, and its exit code; nothing of one that was killed outright."""
    lines = (folder / "results/demo/provenance/ledger.jsonl").read_text().splitlines()
    told = [json.loads(line) for line in lines]
    begun = {one["attempt"] for one in told if one.get("verb") == "chord train"}
    return [(one["outcome"], one.get("exit_code")) for one in told if "outcome" in one and one["attempt"] in begun]


def same_as_undisturbed(folder: Path, prepared: Path) -> None:
    """The model and its metrics, byte for byte."""
    found, wanted = (result(place / "results/demo/models/base") for place in (folder, prepared / "alone"))
    for one in (found, wanted):
        one.pop("model/.snakemake_timestamp", None)  # Snakemake's own mark
    assert found == wanted


def test_a_training_that_is_cancelled_is_sent_again_and_continues(
    cluster: Cluster, folder: Path, prepared: Path
) -> None:
    process = started(cluster, folder, *of_training())
    job = in_training(cluster, folder)
    cluster.scancel(job)
    ended(process, folder)
    assert jobs_of(cluster, folder)[job] == "CANCELLED"
    assert len(jobs_of(cluster, folder)) == 2, "one job more, for the second attempt"
    same_as_undisturbed(folder, prepared)
    assert "from step 0" not in said(folder)


def test_a_node_dies_and_slurm_itself_starts_the_job_elsewhere(cluster: Cluster, folder: Path, prepared: Path) -> None:
    process = started(cluster, folder, *of_training())
    job = in_training(cluster, folder)
    node = cluster.job(job)["BatchHost"]
    cluster.node_kill(node)
    try:
        ended(process, folder)
        assert cluster.job(job)["JobState"] == "COMPLETED"
        assert cluster.job(job)["BatchHost"] != node
        assert int(cluster.job(job)["Restarts"]) == 1
    finally:
        cluster.node_start(node)
    same_as_undisturbed(folder, prepared)


def test_a_node_dies_and_snakemake_sends_the_job_again(cluster: Cluster, folder: Path, prepared: Path) -> None:
    process = started(cluster, folder, "--slurm-no-requeue", *of_training())
    job = in_training(cluster, folder)
    node = cluster.job(job)["BatchHost"]
    cluster.node_kill(node)
    try:
        ended(process, folder)
        assert jobs_of(cluster, folder)[job] == "NODE_FAIL"
    finally:
        cluster.node_start(node)
    same_as_undisturbed(folder, prepared)


def test_slurm_itself_is_restarted_and_nothing_is_sent_twice(cluster: Cluster, folder: Path, prepared: Path) -> None:
    process = started(cluster, folder, *of_training())
    job = in_training(cluster, folder)
    cluster.controller_stop()
    time.sleep(8)  # longer than the time between two looks
    cluster.controller_start()
    ended(process, folder)
    assert jobs_of(cluster, folder) == {job: "COMPLETED"}
    same_as_undisturbed(folder, prepared)


def test_a_request_that_no_node_can_meet_ends_at_once_and_the_others_go_on(cluster: Cluster, folder: Path) -> None:
    shutil.rmtree(folder / "results/demo/data/traces")
    process = started(cluster, folder, *of_training(gres="gpu:3"), "--retries", "0", DATA[0])
    told = ended(process, folder, code=1)
    assert "Requested node configuration is not available" in told
    assert (folder / DATA[0]).exists(), "the other job went on"
    assert not (folder / MODEL).exists()


@pytest.fixture
def killed(cluster: Cluster, folder: Path) -> Iterator[str]:
    """The job that still trains after its Snakemake was killed outright."""
    process = started(cluster, folder, *of_training())
    job = in_training(cluster, folder)
    signal_inside(process, signal.SIGKILL)
    process.wait()
    yield job


def test_snakemake_is_killed_and_one_command_ends_what_it_left_and_goes_on(
    cluster: Cluster, folder: Path, prepared: Path
) -> None:
    data = {path: (folder / path).stat().st_mtime_ns for path in DATA}
    command = (
        sys.executable,
        "-m",
        "chord",
        "resume",
        "--profile",
        "slurm",
        *QUICK,
        *RESOURCES,
        *of_training(),
        "--",
        MODEL,
    )
    process = started(cluster, folder, *of_training())
    left = in_training(cluster, folder)
    with slowed(of_name(cluster, "chord train")):
        signal_inside(process, signal.SIGKILL)
        process.wait()
        assert jobs_of(cluster, folder)[left] == "RUNNING"
        log = (folder / "resume.log").open("w+")
        process = cluster.popen(*command, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
        cluster.wait_for(lambda: jobs_of(cluster, folder)[left] == "CANCELLED", "what was left is cancelled")
    assert process.wait(600) == 0, (folder / "resume.log").read_text()
    assert f"cancelling 1 jobs of the Snakemake before: {left}" in (folder / "resume.log").read_text()
    assert "from step 0" not in said(folder)
    assert {path: (folder / path).stat().st_mtime_ns for path in DATA} == data, "nothing finished is made again"
    same_as_undisturbed(folder, prepared)


def test_what_a_killed_snakemakes_job_finished_by_itself_is_kept(
    cluster: Cluster, folder: Path, prepared: Path, killed: str
) -> None:
    cluster.wait_for(lambda: jobs_of(cluster, folder)[killed] == "COMPLETED", "the job ends by itself", timeout=300)
    command = (
        sys.executable,
        "-m",
        "chord",
        "resume",
        "--profile",
        "slurm",
        *QUICK,
        *RESOURCES,
        *of_training(),
        "--",
        MODEL,
    )
    told = cluster.run(*command, cwd=folder, timeout=600)
    assert "Nothing to be done" in told
    assert jobs_of(cluster, folder) == {killed: "COMPLETED"}, "no job was sent for it again"
    same_as_undisturbed(folder, prepared)


def test_while_snakemake_lives_nothing_is_cancelled(cluster: Cluster, folder: Path) -> None:
    process = started(cluster, folder, *of_training())
    job = in_training(cluster, folder)
    with slowed(of_name(cluster, "chord train")):
        resume = (sys.executable, "-m", "chord", "resume", "--profile", "slurm", MODEL)
        told = cluster.run(*resume, cwd=folder, check=False)
        assert "found Snakemake at work (process " in told
        assert jobs_of(cluster, folder) == {job: "RUNNING"}
        signal_inside(process, signal.SIGKILL)
        process.wait(60)


def test_a_second_job_of_a_training_that_goes_on_is_refused(cluster: Cluster, folder: Path, killed: str) -> None:
    with slowed(of_name(cluster, "chord train")):
        cluster.run(*SNAKEMAKE, "--unlock", "--profile", "slurm", cwd=folder)
        second = started(cluster, folder, *of_training())
        cluster.wait_for(lambda: "found it in use by process" in said(folder), "it is refused", timeout=120)
        assert f", job {killed}, " in said(folder)
        assert jobs_of(cluster, folder)[killed] == "RUNNING", "the first one was left alone"
        signal_inside(second, signal.SIGKILL)
        second.wait(60)


def test_before_its_time_is_up_a_training_is_told_saves_and_continues_in_another_job(
    cluster: Cluster, folder: Path, prepared: Path
) -> None:
    # Slurm may tell it up to a minute too early, and does so half a minute after its start at the earliest.
    process = started(cluster, folder, *of_training(runtime="min(2 * attempt, 60)", slurm_extra="'--signal=USR1@60'"))
    first = in_training(cluster, folder)
    with slowed(of_name(cluster, "chord train")):
        cluster.wait_for(lambda: jobs_of(cluster, folder)[first] != "RUNNING", "it ends", timeout=150)
    ended(process, folder)
    assert jobs_of(cluster, folder)[first] == "FAILED", "it ended by itself, before Slurm ended it"
    assert outcomes(folder) == [("stopped", 75), ("ok", None)]
    second = next(job for job in jobs_of(cluster, folder) if job != first)
    assert cluster.job(second)["TimeLimit"] == "00:04:00", "twice the time at the second attempt"
    assert "from step 0" not in said(folder)
    same_as_undisturbed(folder, prepared)


def of_name(cluster: Cluster, verb: str) -> list[int]:
    """The processes of the cluster that run `python -m chord VERB`, by their numbers on this machine."""
    found = []
    for process in processes_of(cluster.root):
        with suppress(OSError):
            words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
            if f"-m {verb}".encode() in b" ".join(words[:5]):
                found.append(process)
    return found
