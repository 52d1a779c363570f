"""A job that a local Snakemake forks is, in all that it does, the job that a Python of its own would run."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from chord.cluster.warm import FORKED_BY, ONE_THREAD, SWITCH
from tests.projects import copied, replace
from tests.unit.test_warm import ENDS

# In the place of a verb that loads nothing large: runs its argument.
TOLD = "import sys\n\n\ndef main() -> None:\n    exec(sys.argv[1], {'__name__': 'told'})\n"
VERB = "chord/evaluation/choose.py"
OWNER = "import time; from chord.cluster import warm; print(warm.start(), flush=True); time.sleep(600)"
STATE = """
import json, os, random, signal, sys
mask = os.umask(0)
print(json.dumps({
    "argv": sys.argv, "orig_argv": sys.orig_argv, "path": sys.path, "main": sys.modules["__main__"].__spec__.name,
    "folder": os.getcwd(), "umask": mask, "group": os.getpgrp() == os.getpgid(os.getpid()), "session": os.getsid(0),
    "environment": {k: v for k, v in os.environ.items() if k not in ("_", "SHLVL")},
    "files": [list(os.fstat(n))[:3] for n in (0, 1, 2)], "encodings": [sys.stdout.encoding, sys.stderr.errors],
    "signals": [str(signal.getsignal(n)).split(" at ")[0] for n in (1, 2, 10, 12, 15)],
    "blocked": list(map(int, signal.pthread_sigmask(0, []))),
    "open": sorted(n for n in os.listdir("/proc/self/fd") if int(n) > 20),
}))
"""
PARENT = "import os; print(os.getppid())"
WAITS = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"


def heed_signals() -> None:
    """What starts the tests may ignore some, as a shell's background jobs do, and a job would go on ignoring them."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


class Owner:
    """A process in the place of Snakemake, in a copy of the project, with its server."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        own = {name: text for name, text in os.environ.items() if name not in (SWITCH, "PYTHONPATH")}
        self.environment = own | ONE_THREAD | {"PATH": f"{os.path.dirname(sys.executable)}:{own['PATH']}"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", OWNER], cwd=folder, env=own, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout
        self.name = self.process.stdout.readline().strip()
        within(lambda: self.name in Path("/proc/net/unix").read_text())
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        self.server = int(children.read_text())

    def command(self, *words: str) -> list[str]:
        """A job as Snakemake starts it."""
        return ["bash", "-c", 'set -euo pipefail; umask 037; python -m chord "$@"; exit $?', "job", *words]

    def start(self, *words: str, **environment: str) -> subprocess.Popen[str]:
        """A job that asks for a fork, in a process group of its own."""
        return subprocess.Popen(
            ["python", "-m", "chord", *words],
            cwd=self.folder,
            env=self.environment | {FORKED_BY: self.name} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
            preexec_fn=heed_signals,
        )

    def run(self, *words: str, forked: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        """What a job printed, and how it ended."""
        asked = {FORKED_BY: self.name} if forked else {}
        return subprocess.run(
            self.command(*words),
            cwd=self.folder,
            env=self.environment | asked | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def forks(self, **environment: str) -> bool:
        """Whether the server forks a job now."""
        return self.run("choose", PARENT, **environment).stdout.strip() == str(self.server)


def within(is_so: Callable[[], object], seconds: float = 20) -> None:
    """Waits until it is so."""
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, is_so
        time.sleep(0.01)


def lives(number: int) -> bool:
    """Whether there is such a process, not dead and only waiting for its parent."""
    with suppress(OSError):
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = copied(tmp_path_factory.mktemp("forks") / "project")
    (folder / VERB).write_text(TOLD)
    return folder


def _begun(folder: Path) -> Iterator[Owner]:
    owner = Owner(folder)
    assert owner.forks()
    yield owner
    owner.process.kill()
    within(lambda: not lives(owner.server))


owner = pytest.fixture(_begun, scope="module")
mortal = pytest.fixture(_begun)  # for a test that ends its server


def test_a_fork_is_as_the_process_that_asked_for_it(owner: Owner) -> None:
    told = [json.loads(owner.run("choose", STATE, "--flag", "a b", forked=one).stdout) for one in (True, False)]
    for one in told:
        del one["files"][1], one["files"][1]  # two pipes, each new
    assert told[0] == told[1]


@pytest.mark.parametrize("code", ENDS.values(), ids=ENDS.keys())
def test_it_ends_as_any_other_with_the_same_words(owner: Owner, code: str) -> None:
    forked, alone = (owner.run("choose", code, forked=one) for one in (True, False))
    assert (forked.returncode, forked.stdout) == (alone.returncode, alone.stdout)
    assert forked.stderr.splitlines()[-1:] == alone.stderr.splitlines()[-1:]


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2", "SIGHUP", "SIGQUIT"])
def test_a_signal_goes_on_to_the_fork_once(owner: Owner, number: str) -> None:
    code = "import signal, sys, time; seen = []; print('ready', flush=True)\n"
    code = f"import signal; signal.signal(signal.{number}, lambda *_: seen.append(1)); {code}"
    code += "while not seen: time.sleep(0.01)\ntime.sleep(0.3); print(len(seen)); sys.exit(7)"
    job = owner.start("choose", code)
    assert job.stdout and job.stdout.readline() == "ready\n"
    job.send_signal(getattr(signal, number))
    assert (job.wait(20), job.stdout.read()) == (7, "1\n")


def test_what_the_whole_group_is_told_reaches_the_fork(owner: Owner) -> None:
    job = owner.start("choose", WAITS)
    assert job.stdout
    fork = int(job.stdout.readline())
    assert os.getpgid(fork) == job.pid
    os.killpg(job.pid, signal.SIGTERM)
    assert job.wait(20) == 128 + signal.SIGTERM
    assert not lives(fork)


def test_a_killed_client_takes_its_fork_with_it(owner: Owner) -> None:
    job = owner.start("choose", WAITS)
    assert job.stdout
    fork = int(job.stdout.readline())
    assert fork != job.pid and lives(fork)
    job.kill()
    within(lambda: not lives(fork))
    assert owner.forks()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_of_a_killed_fork_the_shell_says_so(owner: Owner, number: int) -> None:
    code = f"import os; os.kill(os.getpid(), {number})"
    assert owner.run("choose", code).returncode == 128 + number


def test_a_killed_server_ends_no_job_and_the_next_ones_run_by_themselves(mortal: Owner) -> None:
    job = mortal.start("choose", "import sys, time; print('ready', flush=True); time.sleep(0.5); sys.exit(5)")
    assert job.stdout and job.stdout.readline() == "ready\n"
    os.kill(mortal.server, signal.SIGKILL)
    assert job.wait(20) == 5
    told = mortal.run("choose", PARENT)
    assert told.returncode == 0 and not mortal.forks()


def test_what_is_another_process_is_not_forked(owner: Owner) -> None:
    assert not owner.forks(OMP_NUM_THREADS="2")
    assert not owner.forks(HF_HOME="/elsewhere")
    assert owner.forks(TMPDIR=str(owner.folder))
    assert owner.run("launch", "--help").returncode == 0


def test_changed_code_is_run_by_the_job_itself(folder: Path, owner: Owner) -> None:
    verb, before = folder / VERB, (folder / VERB).stat()
    verb.write_text(TOLD.replace("exec(", "print('changed'); exec("))
    told = owner.run("choose", PARENT).stdout.split()
    verb.write_text(TOLD)
    os.utime(verb, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert told[0] == "changed" and told[1] != str(owner.server)
    assert owner.forks()


def test_the_server_ends_with_a_killed_snakemake_and_leaves_jobs_alone(mortal: Owner) -> None:
    job = mortal.start("choose", "import sys, time; print('ready', flush=True); time.sleep(1); sys.exit(5)")
    assert job.stdout and job.stdout.readline() == "ready\n"
    mortal.process.kill()
    mortal.process.wait()
    within(lambda: not lives(mortal.server))
    within(lambda: mortal.name not in Path("/proc/net/unix").read_text())
    assert job.wait(20) == 5


def test_a_client_that_ends_in_the_middle_of_its_request_ends_nothing(owner: Owner) -> None:
    for request in (b"", b"\1", b"\5\0\0\0{"):
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(f"\0{owner.name}")
            line.sendall(request)
    assert owner.forks()


@pytest.mark.slow
@pytest.mark.timeout(900)
def contents(folder: Path) -> dict[Path, bytes]:
    """All files but those that wait for a sibling's job, which two jobs of a model that begin together leave behind."""
    files = (path for path in folder.rglob("*") if path.is_file() and ".ahead." not in path.name)
    return {path: path.read_bytes() for path in files}


def test_snakemake_makes_the_same_bytes_with_forked_jobs(mini_copy: Path) -> None:
    results = mini_copy / "results/demo"
    before = contents(results / "runs/grpo/seed-1")
    shutil.rmtree(results / "runs/grpo/seed-1")
    # It decides nothing, so nothing else is made again; the manifest tells who forked the training.
    parent = '        "parent": open(f"/proc/{os.getppid()}/cmdline").read(),\n        "ranks": '
    replace(mini_copy / "chord/training/train.py", '        "ranks": ', parent)
    environment = {name: text for name, text in os.environ.items() if name != SWITCH}
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "--quiet", "all", "--", "table1"]
    done = subprocess.run(command, cwd=mini_copy, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((results / "runs/grpo/seed-1/train.manifest.json").read_bytes())
    assert "chord.cluster.warm" in manifest["extra"].pop("parent")
    again = contents(results / "runs/grpo/seed-1")
    timed = (".manifest.json", "timing.jsonl", ".log")
    kept = {path for path in before if not path.name.endswith(timed) and "tensorboard" not in path.parts}
    assert {path for path in again if not path.name.endswith(timed) and "tensorboard" not in path.parts} == kept
    assert all(again[path] == before[path] for path in kept)
    assert {path.suffix for path in kept} >= {".safetensors", ".jsonl", ".json"}
    log = results / "runs/grpo/seed-1/train.log"
    assert again[log] == before[log] != b""
