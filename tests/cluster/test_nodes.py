"""One training on two nodes of a real Slurm, divided by ZeRO-3: the steps of one process; a rank that dies is named."""

import json
import os
import re
import shutil
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from tests.cluster.slurm import Cluster
from tests.cluster.test_faults import ended, in_training, jobs_of, of_name, of_training, prepared, said, slowed, started
from tests.mini_study import edit_yaml

__all__ = ["prepared"]
TWO_NODES = {"nodes": 2, "tasks": 2, "tasks_per_gpu": 0, "cpus_per_task": 1, "mpi": "srun"}
STEPS = 120  # the first of the steps that the model of `alone` took: the rate is the same from step to step

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def folder(prepared: Path, tmp_path: Path) -> Path:
    """A project of the test's own, whose trainings are divided by ZeRO-3."""
    own = shutil.copytree(prepared / "project", tmp_path / "project", symlinks=True)
    edit_yaml(own / "config/studies/demo.yaml", execution__zero={"stage": 3}, base_corpus__recipe__steps=STEPS)
    return own


def losses(folder: Path) -> list[float]:
    lines = (folder / "results/demo/models/base/metrics.jsonl").read_text().splitlines()
    return [one["loss"] for one in map(json.loads, lines) if one["step"] > 0]


def test_two_nodes_take_the_steps_of_one_process_and_a_rank_that_dies_ends_the_job_named_and_is_continued(
    cluster: Cluster, folder: Path, prepared: Path
) -> None:
    process = started(cluster, folder, *of_training(**TWO_NODES))
    base = folder / "results/demo/models/base"
    first = in_training(cluster, folder)
    with slowed(of_name(cluster, "chord train")):
        second = [number for number in of_name(cluster, "chord train") if rank(number) == "1"]
        os.kill(second[0], signal.SIGKILL)
        still = ("RUNNING", "COMPLETING")
        cluster.wait_for(lambda: jobs_of(cluster, folder)[first] not in still, "the job ends with it", timeout=180)
    ended(process, folder)
    assert len(jobs_of(cluster, folder)) == 2
    told = (base / "ranks/failures.log").read_text()
    assert re.search(r"rank 1 \(local rank 0 on n\d, process \d+\) was ended by SIGKILL; its log: \S+/ranks/", told), (
        told
    )
    assert "from step 0" not in said(folder)
    found, wanted = losses(folder), losses(prepared / "alone")[:STEPS]
    assert len(found) == len(wanted) == STEPS
    assert found == pytest.approx(wanted, rel=1e-4)
    manifest = json.loads((base / "train.manifest.json").read_text())
    assert '"ranks": 2' in json.dumps(manifest)


def rank(process: int) -> str:
    """The rank of a process, as its environment says."""
    with suppress(OSError):
        for word in Path(f"/proc/{process}/environ").read_bytes().split(b"\0"):
            if word.startswith(b"RANK="):
                return word.decode()[5:]
    return ""
