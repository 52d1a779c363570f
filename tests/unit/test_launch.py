"""A training's processes on one node and on several: who meets where, and how the one that ends the others is named."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from snakemake.iocontainers import Wildcards

from chord.cluster import launch, sizing
from chord.cluster.sizing import Requests
from chord.config.project import load
from chord.config.study import Execution, Vllm
from chord.errors import UserError
from chord.sampling.vllm_server import Settings, device_groups
from chord.training import weight_sync

SAYS = "import os, sys, signal, time\nrank = os.environ['RANK']\nprint('rank', rank, 'of', os.environ['WORLD_SIZE'])\n"
BUFFERED = {"PYTHONUNBUFFERED": ""}  # else Python writes a line in pieces, which torchrun's tee passes on one by one


def launched(folder: Path, *options: str, **environment: str) -> subprocess.Popen[str]:
    """Processes of code.py on this machine; the arguments of the code have names of torchrun's too."""
    command = [sys.executable, "-m", "chord", "launch", *options, "--logs", str(folder / "logs"), "--", sys.executable]
    command += [str(folder / "code.py"), "--run", "a", "-m"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=os.environ | BUFFERED | environment, **pipes)


def ended(folder: Path, code: str) -> tuple[int, str, str]:
    """Exit code and words of two processes of the same code."""
    (folder / "code.py").write_text(SAYS + code)
    process = launched(folder, "--per-node", "2")
    said, complained = process.communicate(timeout=120)
    return process.returncode, said, complained


def test_each_process_has_its_rank_and_what_it_says_is_heard_while_it_runs_and_kept(tmp_path: Path) -> None:
    heard = tmp_path / "heard"
    waits = f"sys.stdout.flush()\nfor _ in range(300):\n    os.path.exists({str(heard)!r}) and sys.exit(0)\n"
    (tmp_path / "code.py").write_text(SAYS + waits + "    time.sleep(0.1)\nsys.exit('nobody heard')\n")
    process = launched(tmp_path, "--per-node", "2")
    assert process.stdout is not None
    said = sorted(process.stdout.readline().partition(":")[2] for _ in range(2))
    heard.touch()
    assert process.communicate(timeout=60) and process.returncode == 0
    kept = sorted(log.read_text() for log in (tmp_path / "logs").rglob("stdout.log"))
    assert kept == said == ["rank 0 of 2\n", "rank 1 of 2\n"]


def test_a_process_that_is_killed_ends_the_others_and_is_named_with_its_log(tmp_path: Path) -> None:
    last = "print('my last words', file=sys.stderr, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    code, _, complained = ended(tmp_path, f"if rank == '1':\n    {last}\ntime.sleep(100)\n")
    assert code == 1
    named = r"chord launch: (rank 1 \(local rank 1 on \S+, process \d+\) was ended by SIGKILL; its log: (\S+))"
    told = re.search(named, complained)
    assert told, complained
    assert f" {told[1]}\n" in (tmp_path / "logs/failures.log").read_text()
    assert "my last words" in Path(told[2]).read_text()


@pytest.mark.parametrize(("codes", "wanted"), [((75, 75), 75), ((0, 3), 1)])
def test_what_is_to_be_continued_keeps_its_exit_code(tmp_path: Path, codes: tuple[int, int], wanted: int) -> None:
    code, _, complained = ended(tmp_path, f"sys.exit({codes}[int(rank)])\n")
    assert code == wanted, complained


def test_before_its_time_is_up_every_process_is_told_and_the_ranks_end_it(tmp_path: Path) -> None:
    saves = "signal.signal(signal.SIGUSR1, lambda *_: sys.exit(75))\nprint('ready', flush=True)\ntime.sleep(100)\n"
    (tmp_path / "code.py").write_text(SAYS + saves)
    told = launched(tmp_path, "--per-node", "2")
    while sum("ready" in log.read_text() for log in (tmp_path / "logs").rglob("stdout.log")) < 2:
        time.sleep(0.1)
    ranks = Path(f"/proc/{told.pid}/task/{told.pid}/children").read_text().split()
    for process in (told.pid, *map(int, ranks)):  # as Slurm does
        os.kill(process, signal.SIGUSR1)
    assert told.communicate(timeout=60) and told.returncode == 75


def test_the_nodes_of_a_job_meet_at_the_first_one_and_jobs_do_not_meet_each_other(monkeypatch) -> None:
    monkeypatch.setattr(
        launch.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, stdout="gpu07\ngpu08\n")
    )
    slurm = {"SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "gpu[07-08]", "SLURM_JOB_ID": "4711", "SLURM_NODEID": "1"}
    assert launch.place_in(slurm) == launch.Place(1, 2, "gpu07:24711")
    assert launch.place_in(slurm | {"SLURM_NODEID": "0", "SLURM_JOB_ID": "4712"}).meeting == "gpu07:24712"
    for alone in ({}, {"SLURM_NNODES": "1", "SLURM_NODEID": "0", "SLURM_JOB_ID": "5"}):
        node, nodes, meeting = launch.place_in(alone)
        assert (node, nodes, meeting.split(":")[0]) == (0, 1, "127.0.0.1")


DEMO = load(Path(__file__).parents[2], "demo")
TWO_SERVERS = {"placement": "server", "replicas": 2}


def execution(vllm: dict | None) -> Execution:
    """That of the demo, with this vLLM to sample with."""
    return DEMO.study.execution.model_copy(update={"sampler": "vllm", "vllm": Vllm(**vllm)} if vllm else {})


def launcher(vllm: dict | None, **resources: object) -> str:
    """What goes before the command of a training that is sent with these resources."""
    study = DEMO.study.model_copy(update={"execution": execution(vllm)})
    requests = Requests(DEMO.model_copy(update={"study": study}), None, True, None)
    return requests.launcher(Wildcards(fromdict={"study": "demo", "arm": "grpo", "seed": "1"}), resources, 2)


def test_a_training_on_several_gpus_or_nodes_is_launched_with_a_rank_for_each_gpu_that_learns() -> None:
    one_node = "python -m chord launch --per-node 4 --beside 2 --logs results/demo/runs/grpo/seed-1/ranks -- "
    assert launcher(None, gres="gpu:1") == launcher(TWO_SERVERS, gres="gpu:3") == "", "one GPU learns"
    assert launcher(TWO_SERVERS, gres="gpu:h100:4") == one_node
    each = "--nodes=2 --ntasks=2 --ntasks-per-node=1 --cpus-per-task=8 --kill-on-bad-exit=1"
    two_nodes = launcher(TWO_SERVERS, gres="gpu:4", nodes=2, cpus_per_task=8)
    assert two_nodes == f"srun {each} {one_node}"
    assert "srun --nodes=2 --ntasks=2 --ntasks-per-node=1 --cpus-per-task=2 " in launcher(None, nodes=2)


@pytest.mark.parametrize(
    ("gres", "vllm", "divided"),
    [
        ("gpu:8", None, (8, 0)),
        ("gpu", None, (1, 0)),
        (None, None, (1, 0)),
        ("gpu:8", TWO_SERVERS, (8, 2)),
        ("gpu:h100:8", {"placement": "server"}, (8, 1)),
        ("gpu:8", {"placement": "server", "address": "node7:8000"}, (8, 0)),
        (None, TWO_SERVERS, (1, 0)),
        ("gpu:1", {"placement": "server"}, (1, 0)),  # which the training refuses, and names
    ],
)
def test_ranks_are_for_the_gpus_that_no_server_has(gres, vllm, divided: tuple[int, int]) -> None:
    assert sizing.divided(gres, execution(vllm)) == divided


def test_servers_get_the_last_gpus_and_ranks_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_sync, "visible_devices", lambda: [str(number) for number in range(8)])
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "6")
    assert device_groups(weight_sync.devices_beside_the_learner(), Settings(replicas=2)) == ["6", "7"]
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    with pytest.raises(UserError, match="found server with 8 GPUs for 8 ranks"):
        weight_sync.devices_beside_the_learner()


def test_the_first_node_starts_fewer_processes_where_servers_have_gpus_beside_them(tmp_path: Path) -> None:
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho 127.0.0.1\n")
    (tmp_path / "scontrol").chmod(0o755)
    (tmp_path / "code.py").write_text(SAYS + "print('local', os.environ['LOCAL_WORLD_SIZE'])\n")
    slurm = {"SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_ID": str(os.getpid())}
    slurm |= {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    nodes = [launched(tmp_path, "--per-node", "2", "--beside", "1", **slurm, SLURM_NODEID=node) for node in "01"]
    said = [sorted(re.findall(r"rank \d of \d|local \d", node.communicate(timeout=300)[0])) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0]
    assert said == [["local 1", "rank 0 of 3"], ["local 2", "local 2", "rank 1 of 3", "rank 2 of 3"]]


def test_a_first_node_without_a_process_is_refused(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["chord launch", "--per-node", "2", "--beside", "2", "--logs", "x", "--", "true"])
    with pytest.raises(SystemExit):
        launch.main()
    assert "found --beside 2 of --per-node 2, expected a process on the first node" in capsys.readouterr().err
