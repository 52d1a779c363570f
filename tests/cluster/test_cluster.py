"""The private Slurm of these tests: several at a time, and nothing left behind. What it can do its users show."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cluster.needs import why_not
from tests.cluster.slurm import Cluster, processes_of
from tests.projects import ROOT

# Stands for tests that are killed: it starts a cluster with a job, says where, and waits.
KILLED = """
import sys, time
from tests.cluster.slurm import Cluster
with Cluster(nodes=1) as cluster:
    cluster.run("sbatch", "--output=/dev/null", "--wrap", "sleep 600")
    cluster.wait_for(lambda: "RUNNING" in cluster.states().values(), "the job runs")
    print(cluster.root, flush=True)
    time.sleep(600)
"""


def test_clusters_run_side_by_side_and_leave_no_process_and_no_file(cluster: Cluster) -> None:
    with Cluster(nodes=1) as other:
        other.run("sbatch", "--wrap", "sleep 600", cwd=other.root)
        other.wait_for(lambda: "RUNNING" in other.states().values(), "the job runs")
        other.popen("sleep", "600")
        assert not set(cluster.states().values()) & {"RUNNING", "PENDING"}
        assert len(processes_of(other.root)) >= 8  # process 1, munged, slurmctld, sh, slurmd, slurmstepd, sleep, sleep
    assert processes_of(other.root) == []
    assert not other.root.exists()
    assert len(processes_of(cluster.root)) >= 8


def test_a_cluster_ends_with_the_tests_that_started_it_also_when_they_are_killed() -> None:
    if reason := why_not():
        pytest.skip(reason)
    with subprocess.Popen([sys.executable, "-c", KILLED], cwd=ROOT, stdout=subprocess.PIPE, text=True) as tests:
        assert tests.stdout
        root = Path(tests.stdout.readline().strip())
        assert len(processes_of(root)) >= 7
        tests.send_signal(signal.SIGKILL)
    end = time.monotonic() + 10
    while processes_of(root) and time.monotonic() < end:
        time.sleep(0.1)
    assert processes_of(root) == []
    shutil.rmtree(root)
