"""What can happen to a study on a real Slurm, each once; the model is afterwards that of an undisturbed run.

Cancelled, out of time, a dead node, a restarted Slurm, a killed Snakemake, a rank of two that dies. Every test looks at
results: the bytes of the model and its metrics, and the attempts in the ledger.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster.slurm import Cluster, processes_of, signal_inside
from tests.conftest import made_once
from tests.projects import edit_yaml
from tests.workflow.test_continue import BASE, DATA, LEDGER, MODEL, model_of, project, snakemade

PYTHON = (sys.executable, "-m")
# What this small cluster needs otherwise than the profile says; no rule and no study is changed.
QUICK = ("--jobs=4", "--latency-wait=5", "--slurm-init-seconds-before-status-checks=5")
RESOURCES = ("--default-resources", "slurm_partition=cpu", "runtime=5", "mem_mb=300")
STEPS = 250

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def of_training(**changes: object) -> tuple[str, ...]:
    """The option that gives the training of the base model these resources, and a partition with GPUs."""
    wanted = {"slurm_partition": "gpu", "mem_mb": 400, "gres": "gpu:1", "runtime": 60} | changes
    return ("--set-resources", *(f"train_base:{name}={value}" for name, value in wanted.items()))


@dataclass
class Study:
    """A project with the data of its base model and no model yet, which Slurm trains."""

    cluster: Cluster
    folder: Path
    undisturbed: Path

    def start(self, *options: str) -> subprocess.Popen[str]:
        """Snakemake at work on the login machine, with the project's own profile."""
        command = (*PYTHON, "snakemake", "--profile", "slurm", *QUICK, *RESOURCES, *options, "--", MODEL)
        log = (self.folder / "snakemake.log").open("w")
        return self.cluster.popen(*command, cwd=self.folder, stdout=log, stderr=subprocess.STDOUT)

    def resume(self) -> tuple[str, ...]:
        """The command that goes on after a killed Snakemake."""
        options = ("--profile", "slurm", *QUICK, *RESOURCES, *of_training(), "--", MODEL)
        return (*PYTHON, "chord", "resume", *options)

    def ended(self, process: subprocess.Popen[str], code: int = 0) -> str:
        """What Snakemake wrote, once it is over."""
        found = process.wait(600)
        told = (self.folder / "snakemake.log").read_text()
        assert found == code, told
        return told

    def jobs(self) -> dict[str, str]:
        """The state of every Slurm job that was sent from the folder, by its id."""
        rows = [line.split("\t") for line in self.cluster.squeue("%i\t%T\t%Z")]
        return {number: state for number, state, place in rows if Path(place) == self.folder}

    def in_training(self) -> str:
        """The Slurm job that trains, once it has written a checkpoint."""
        state = self.folder / BASE / "state"
        lease = state / "lease.json"
        is_at_work = lambda: lease.exists() and list(state.glob("*/step-*"))  # noqa: E731
        self.cluster.wait_for(is_at_work, "a training has written a checkpoint", timeout=240)
        return json.loads(lease.read_text())["job"]

    def said(self) -> str:
        """What the latest training wrote; Snakemake removes the log of the one before."""
        with suppress(FileNotFoundError):
            return (self.folder / BASE / "train.log").read_text()
        return ""

    def trainers(self) -> list[int]:
        """The processes of the cluster that train, by their numbers on this machine."""
        found = []
        for process in processes_of(self.cluster.root):
            with suppress(OSError):
                words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
                if b"-m chord train" in b" ".join(words[:5]):
                    found.append(process)
        return found

    @contextmanager
    def slowed(self) -> Iterator[list[int]]:
        """The processes that train now get a twenty-fifth of their time, as on a machine that is busy or small."""
        over, trainers = threading.Event(), self.trainers()

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
            yield trainers
        finally:
            over.set()
            thread.join()

    def went_on(self) -> None:
        """Asserts that the latest training continued another, and that the model is that of an undisturbed run."""
        assert "from step 0" not in self.said()
        assert model_of(self.folder) == model_of(self.undisturbed)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with its data made, and beside it (`alone`) with a model that nobody disturbed."""

    def build(folder: Path) -> None:
        own = project(folder / "project")
        edit_yaml(own / "config/studies/demo.yaml", base_corpus__recipe__steps=STEPS, base_corpus__size=1000)
        (own / "slurm").symlink_to("profiles/slurm")
        snakemade(own, *DATA)
        snakemade(shutil.copytree(own, folder / "alone", symlinks=True), MODEL)

    return made_once(tmp_path_factory, "a study for a cluster", build)


@pytest.fixture
def study(cluster: Cluster, prepared: Path, tmp_path: Path) -> Study:
    """A project of the test's own."""
    folder = shutil.copytree(prepared / "project", tmp_path / "project", symlinks=True)
    return Study(cluster, folder, prepared / "alone")


@pytest.fixture
def killed(study: Study) -> str:
    """The job that still trains after its Snakemake was killed outright."""
    process = study.start(*of_training())
    job = study.in_training()
    signal_inside(process, signal.SIGKILL)
    process.wait()
    return job


def test_a_training_that_is_cancelled_is_sent_again_and_continues(study: Study) -> None:
    process = study.start(*of_training())
    job = study.in_training()
    study.cluster.scancel(job)
    study.ended(process)
    assert study.jobs()[job] == "CANCELLED"
    assert len(study.jobs()) == 2, "one job more, for the second attempt"
    study.went_on()


@pytest.mark.parametrize("by", ["slurm itself", "snakemake"])
def test_a_node_dies_and_the_job_is_started_elsewhere(study: Study, by: str) -> None:
    process = study.start(*(() if by == "slurm itself" else ("--slurm-no-requeue",)), *of_training())
    job = study.in_training()
    node = study.cluster.job(job)["BatchHost"]
    study.cluster.node_kill(node)
    try:
        study.ended(process)
        if by == "slurm itself":
            found = study.cluster.job(job)
            assert (found["JobState"], found["Restarts"]) == ("COMPLETED", "1") and found["BatchHost"] != node
        else:
            assert study.jobs()[job] == "NODE_FAIL"
    finally:
        study.cluster.node_start(node)
    study.went_on()


def test_slurm_itself_is_restarted_and_nothing_is_sent_twice(study: Study) -> None:
    process = study.start(*of_training())
    job = study.in_training()
    study.cluster.controller_stop()
    time.sleep(8)  # longer than the time between two looks
    study.cluster.controller_start()
    study.ended(process)
    assert study.jobs() == {job: "COMPLETED"}
    assert model_of(study.folder) == model_of(study.undisturbed)


def test_a_request_that_no_node_can_meet_ends_at_once_and_the_others_go_on(study: Study) -> None:
    shutil.rmtree(study.folder / "results/demo/data/traces")
    process = study.start(*of_training(gres="gpu:3"), "--retries", "0", DATA[0])
    assert "Requested node configuration is not available" in study.ended(process, code=1)
    assert (study.folder / DATA[0]).exists(), "the other job went on"
    assert not (study.folder / MODEL).exists()


def test_snakemake_is_killed_and_one_command_ends_what_it_left_and_goes_on(study: Study) -> None:
    data = {path: (study.folder / path).stat().st_mtime_ns for path in DATA}
    process = study.start(*of_training())
    left, log = study.in_training(), study.folder / "resume.log"
    with study.slowed():
        signal_inside(process, signal.SIGKILL)
        process.wait()
        assert study.jobs()[left] == "RUNNING"
        with log.open("w") as output:
            process = study.cluster.popen(*study.resume(), cwd=study.folder, stdout=output, stderr=subprocess.STDOUT)
        study.cluster.wait_for(lambda: study.jobs()[left] == "CANCELLED", "what was left is cancelled")
    assert process.wait(600) == 0, log.read_text()
    assert f"cancelling 1 jobs of the Snakemake before: {left}" in log.read_text()
    assert {path: (study.folder / path).stat().st_mtime_ns for path in DATA} == data, "nothing finished is made again"
    study.went_on()


def test_what_a_killed_snakemakes_job_finished_by_itself_is_kept(study: Study, killed: str) -> None:
    study.cluster.wait_for(lambda: study.jobs()[killed] == "COMPLETED", "the job ends by itself", timeout=300)
    assert "Nothing to be done" in study.cluster.run(*study.resume(), cwd=study.folder, timeout=600)
    assert study.jobs() == {killed: "COMPLETED"}, "no job was sent for it again"
    assert model_of(study.folder) == model_of(study.undisturbed)


def test_while_snakemake_lives_nothing_is_cancelled(study: Study) -> None:
    process = study.start(*of_training())
    job = study.in_training()
    with study.slowed():
        told = study.cluster.run(*study.resume(), cwd=study.folder, check=False)
        assert "found Snakemake at work (process " in told
        assert study.jobs() == {job: "RUNNING"}
        signal_inside(process, signal.SIGKILL)
        process.wait(60)


def test_a_second_job_of_a_training_that_goes_on_is_refused(study: Study, killed: str) -> None:
    with study.slowed():
        study.cluster.run(*PYTHON, "snakemake", "--unlock", "--profile", "slurm", cwd=study.folder)
        second = study.start(*of_training())
        study.cluster.wait_for(lambda: "found it in use by process" in study.said(), "it is refused", timeout=120)
        assert f", job {killed}, " in study.said()
        assert study.jobs()[killed] == "RUNNING", "the first one was left alone"
        signal_inside(second, signal.SIGKILL)
        second.wait(60)


def test_before_its_time_is_up_a_training_is_told_saves_and_continues_in_another_job(study: Study) -> None:
    # Slurm may tell it up to a minute too early, and does so half a minute after its start at the earliest.
    process = study.start(*of_training(runtime="min(2 * attempt, 60)", slurm_extra="'--signal=USR1@60'"))
    first = study.in_training()
    with study.slowed():
        study.cluster.wait_for(lambda: study.jobs()[first] != "RUNNING", "it ends", timeout=150)
    study.ended(process)
    assert study.jobs()[first] == "FAILED", "it ended by itself, before Slurm ended it"
    told = [json.loads(line) for line in (study.folder / LEDGER).read_text().splitlines()]
    trainings = {one["attempt"] for one in told if one.get("verb") == "chord train"}
    ends = [(one["outcome"], one.get("exit_code")) for one in told if "outcome" in one and one["attempt"] in trainings]
    assert ends == [("stopped", 75), ("ok", None)]
    second = next(job for job in study.jobs() if job != first)
    assert study.cluster.job(second)["TimeLimit"] == "00:04:00", "twice the time at the second attempt"
    study.went_on()


def test_two_nodes_take_the_steps_of_one_process_and_a_rank_that_dies_ends_the_job_named_and_is_continued(
    study: Study,
) -> None:
    """Divided by ZeRO-3; the first 120 steps are those of the undisturbed model: the rate is the same in each."""
    steps = 120
    edit_yaml(study.folder / "config/studies/demo.yaml", execution__zero={"stage": 3}, base_corpus__recipe__steps=steps)
    process = study.start(*of_training(nodes=2, tasks=2, tasks_per_gpu=0, cpus_per_task=1, mpi="srun"))
    first = study.in_training()
    with study.slowed() as trainers:
        second = [
            number for number in trainers if b"RANK=1" in Path(f"/proc/{number}/environ").read_bytes().split(b"\0")
        ]
        os.kill(second[0], signal.SIGKILL)
        still = ("RUNNING", "COMPLETING")
        study.cluster.wait_for(lambda: study.jobs()[first] not in still, "the job ends with it", timeout=180)
    study.ended(process)
    assert len(study.jobs()) == 2
    told = (study.folder / BASE / "ranks/failures.log").read_text()
    assert re.search(r"rank 1 \(local rank 0 on n\d, process \d+\) was ended by SIGKILL; its log: \S+/ranks/", told)
    assert "from step 0" not in study.said()
    found, wanted = losses(study.folder), losses(study.undisturbed)[:steps]
    assert len(found) == len(wanted) == steps
    assert found == pytest.approx(wanted, rel=1e-4)
    assert '"ranks": 2' in json.dumps(json.loads((study.folder / BASE / "train.manifest.json").read_text()))


def losses(folder: Path) -> list[float]:
    lines = (folder / BASE / "metrics.jsonl").read_text().splitlines()
    return [one["loss"] for one in map(json.loads, lines) if one["step"] > 0]
