"""A training's processes on one node and on several: who meets where, and how the one that ends the others is named."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from chord import launch

SAYS = "import os, sys, signal, time\nrank = os.environ['RANK']\nprint('rank', rank, 'of', os.environ['WORLD_SIZE'])\n"


def started(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Two processes of the same code on this machine."""
    (folder / "code.py").write_text(SAYS + code)
    command = ["-m", "chord.launch", "--per-node", "2", "--logs", str(folder / "logs"), "--", sys.executable]
    return subprocess.run(
        [sys.executable, *command, str(folder / "code.py")], capture_output=True, text=True, timeout=120
    )


def test_each_process_has_its_rank_and_what_it_says_is_heard_and_kept(tmp_path: Path) -> None:
    done = started(tmp_path, "")
    assert done.returncode == 0, done.stderr
    assert sorted(line.partition(":")[2] for line in done.stdout.splitlines()) == ["rank 0 of 2", "rank 1 of 2"]
    kept = sorted(log.read_text() for log in (tmp_path / "logs").rglob("stdout.log"))
    assert kept == ["rank 0 of 2\n", "rank 1 of 2\n"]


def test_a_process_that_is_killed_ends_the_others_and_is_named_with_its_log(tmp_path: Path) -> None:
    last = "print('my last words', file=sys.stderr, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    done = started(tmp_path, f"if rank == '1':\n    {last}\ntime.sleep(100)\n")
    assert done.returncode == 1
    told = re.search(
        r"chord\.launch: (rank 1 \(local rank 1 on \S+, process \d+\) was ended by SIGKILL; its log: (\S+))",
        done.stderr,
    )
    assert told, done.stderr
    assert f" {told[1]}\n" in (tmp_path / "logs/failures.log").read_text()
    assert "my last words" in Path(told[2]).read_text()


@pytest.mark.parametrize(("codes", "wanted"), [((75, 75), 75), ((0, 3), 1)])
def test_what_is_to_be_continued_keeps_its_exit_code(tmp_path: Path, codes: tuple[int, int], wanted: int) -> None:
    done = started(tmp_path, f"sys.exit({codes}[int(rank)])\n")
    assert done.returncode == wanted, done.stderr


def test_the_nodes_of_a_job_meet_at_the_first_one_and_jobs_do_not_meet_each_other(monkeypatch) -> None:
    monkeypatch.setattr(
        launch.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, stdout="gpu07\ngpu08\n")
    )
    slurm = {"SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "gpu[07-08]", "SLURM_JOB_ID": "4711", "SLURM_NODEID": "1"}
    assert launch.place_in(slurm) == launch.Place(1, 2, "gpu07:24711")
    assert launch.place_in(slurm | {"SLURM_NODEID": "0", "SLURM_JOB_ID": "4712"}).meeting == "gpu07:24712"


@pytest.mark.parametrize("environment", [{}, {"SLURM_NNODES": "1", "SLURM_NODEID": "0", "SLURM_JOB_ID": "5"}])
def test_alone_it_meets_itself(environment: dict[str, str]) -> None:
    node, nodes, meeting = launch.place_in(environment)
    assert (node, nodes, meeting.split(":")[0]) == (0, 1, "127.0.0.1")
