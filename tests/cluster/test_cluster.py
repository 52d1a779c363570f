"""The private Slurm of these tests: nodes with names and GPUs of their own, sudden death, and nothing left behind."""

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


def test_a_job_has_nodes_with_names_of_their_own_and_the_gpus_that_it_asked_for(cluster: Cluster) -> None:
    what = 'echo "$(hostname) $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES"'
    told = cluster.run("srun", "--nodes=2", "--partition=gpu", "--gres=gpu:2", "sh", "-c", what)
    assert sorted(told.splitlines()) == ["n1 n1 0,1", "n2 n2 0,1"]
    assert cluster.run("srun", "--gres=gpu:1", "sh", "-c", "echo $CUDA_VISIBLE_DEVICES") == "0\n"
    assert cluster.run("srun", "sh", "-c", 'echo "[$CUDA_VISIBLE_DEVICES]"') == "[]\n"


def test_a_node_dies_with_all_that_runs_on_it_and_comes_back(cluster: Cluster, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    # In a session of its own, so that no daemon could find it: only the death of the machine ends it.
    body = f"setsid sh -c 'while :; do date +%s%N > {trace}; sleep 0.1; done' & sleep 600"
    cluster.run("sbatch", "--no-requeue", "--nodelist=n2", "--output=/dev/null", "--wrap", body)
    cluster.wait_for(trace.exists, "the job writes")
    cluster.node_kill("n2")
    last = trace.read_bytes()
    time.sleep(1)
    assert trace.read_bytes() == last
    cluster.wait_for(lambda: "NODE_FAIL" in cluster.states().values(), "Slurm sees that the node is dead")
    cluster.node_start("n2")
    assert cluster.run("srun", "--nodelist=n2", "hostname") == "n2\n"


def test_jobs_run_on_while_the_controller_is_gone(cluster: Cluster, tmp_path: Path) -> None:
    done = tmp_path / "done"
    job = cluster.run("sbatch", "--parsable", "--output=/dev/null", "--wrap", f"sleep 3; touch {done}").strip()
    cluster.wait_for(lambda: cluster.states().get(job) == "RUNNING", "the job runs")
    cluster.controller_stop()
    cluster.wait_for(done.exists, "the job went on")
    cluster.controller_start()
    cluster.wait_for(lambda: cluster.states().get(job) == "COMPLETED", "the controller heard of it")


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
