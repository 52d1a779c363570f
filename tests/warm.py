"""Runs `python -m MODULE ...` like subprocess.run, but forked from a process that has large packages loaded already.

Nothing of the project is loaded there: a command loads it from its own folder, as it would without this. Loading torch
and transformers takes 7 seconds of processor time, Snakemake 2; a fork takes hundredths. Not for tests that look a
process up in /proc: its command line and environment are there those of the process it was forked from.
"""

import atexit
import ctypes
import fcntl
import gc
import importlib
import importlib.util
import io
import json
import os
import runpy
import select
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO, NoReturn

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])

from tests.warm_python import JOBS, NUMBER, READ_ON_LOADING, ask, server_for

SESSION = "CHORD_TEST_WARM"  # see `begin`
PLANNING = ["snakemake.cli", "snakemake.api", "snakemake.workflow", "snakemake.executors.local", "snakemake.assets"]
PLANNING += ["snakemake.profiles", "snakemake.report.html_reporter", "snakemake_executor_plugin_slurm", "smart_open"]
PLANNING += ["matplotlib.figure", "matplotlib.backends.backend_agg", "matplotlib.backends.backend_svg", "rich.table"]
COMPUTING = ["torch", "transformers", "transformers.models.llama.modeling_llama", "safetensors.torch", "accelerate"]
COMPUTING += ["tensorboard.summary.writer.event_file_writer", "math_verify", "datasets", "jinja2.sandbox", "tqdm"]
COMPUTING += ["lm_eval.tasks", "lm_eval.evaluator", "lm_eval.models.huggingface", "reasoning_gym"]
BOTH = ["pydantic.json_schema", "pydantic.main", "pydantic.type_adapter", "pydantic.types", "yaml"]
PACKAGES = {"planning": PLANNING + BOTH, "computing": COMPUTING + BOTH}
SELDOM = (50_000, 20, 20)  # Python looks for garbage after as many new objects; at 700 a tenth of all time goes there


class Process:
    """One command that runs; the attributes and methods of subprocess.Popen that tests use, with the same meaning."""

    def __init__(self, line: socket.socket, command: Sequence[str], said: list[IO[bytes]]) -> None:
        self.args, self._line, self._said = list(command), line, said
        self.pid = int(_received(line, NUMBER))
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, once it has ended."""
        if self.returncode is None:
            if not select.select([self._line], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            self.returncode = int(_received(self._line, NUMBER))
            self._line.close()
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it printed to standard output and to standard error, once it has ended."""
        self.wait(timeout)
        return self.said()

    def said(self) -> tuple[str, str]:
        """What it has printed so far."""
        texts = []
        for file in self._said:
            file.seek(0)
            texts.append(file.read().decode("utf-8", errors="replace"))
        return texts[0], texts[1]

    def lines(self) -> Iterator[str]:
        """Each line that it prints to standard error, as it comes, until it ends."""
        seen = 0
        while True:
            ended = self.poll() is not None
            *whole, _ = self.said()[1].split("\n")
            yield from whole[seen:]
            seen = len(whole)
            if ended:
                return
            time.sleep(0.01)

    def send_signal(self, number: int) -> None:
        """Sends it a signal, if it still runs."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


def start(
    command: Sequence[str],
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    together: bool = False,
    jobs: bool = False,
) -> Process:
    """`[sys.executable, "-m", MODULE, ...]` or `[sys.executable, "-c", CODE, ...]`, started in the folder `cwd`.

    Standard error goes in with the rest if `together`; the jobs of a Snakemake are forked too if `jobs`. Where an
    environment is asked for that packages which are loaded already would not see, it is refused with ValueError; `run`
    then starts it without this.
    """
    environment, folder = dict(os.environ if env is None else env), begin()
    asked_for = _asked_for(environment)
    python, *words = command
    server = server_for(words, asked_for, folder) if python == sys.executable and words[0] in ("-m", "-c") else None
    if server is None:
        raise ValueError(f"{command}: this, or its environment, cannot be forked from a process that runs")
    if jobs:
        environment[JOBS] = folder
        serve(server_for(["-c", ""], asked_for, folder) or server)
    out = tempfile.TemporaryFile()  # noqa: SIM115 # both are closed with the Process
    errors = out if together else tempfile.TemporaryFile()  # noqa: SIM115
    with open(os.devnull) as nothing:
        files = [nothing.fileno(), out.fileno(), errors.fileno()]
        line = ask(serve(server), words, os.path.abspath(cwd or "."), environment, files)
    return Process(line, command, [out, errors])


def run(
    command: Sequence[str],
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = 600,
    together: bool = False,
    jobs: bool = False,
) -> subprocess.CompletedProcess[str]:
    """What the command prints, and its exit code; see `start`. One that cannot be forked is started as ever.

    Raises subprocess.TimeoutExpired after `timeout` seconds; the process is killed then.
    """
    try:
        process = start(command, cwd, env, together, jobs)
    except ValueError:
        errors = subprocess.STDOUT if together else subprocess.PIPE
        return subprocess.run(
            command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=errors, text=True, timeout=timeout
        )
    try:
        out, err = process.communicate(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, None if together else err)


def _asked_for(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without what packages that are loaded in this process have set for themselves."""
    began: dict[str, str] = json.loads((Path(begin()) / "environment.json").read_text())
    kept = {name for name, value in environment.items() if os.environ.get(name) != value or name in began}
    others = {
        name: value for name, value in environment.items() if name in kept or not name.startswith(READ_ON_LOADING)
    }
    changed = {name for name in began if environment.get(name) == os.environ.get(name)}
    return others | {name: began[name] for name in changed}


def _received(line: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        more = line.recv(size - len(found))
        if not more:
            raise ConnectionError("the process that forks has ended")
        found += more
    return found


def begin() -> str:
    """The folder of the servers from which all processes of a run of pytest fork, and of the `python` of jobs.

    First called where pytest shares out the tests, before it starts the processes that run them.
    """
    if SESSION not in os.environ:
        folder = Path(tempfile.mkdtemp(prefix="warm-"))
        read = {name: value for name, value in os.environ.items() if name.startswith(READ_ON_LOADING)}
        (folder / "environment.json").write_text(json.dumps(read))
        (folder / "owner").write_text(str(os.getpid()))
        script = shlex.quote(str(Path(__file__).with_name("warm_python.py")))
        (folder / "python").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -IS {script} "$@"\n')
        (folder / "python").chmod(0o755)
        os.environ[SESSION] = str(folder)
        atexit.register(_end, os.getpid(), folder)
    return os.environ[SESSION]


def _end(owner: int, folder: Path) -> None:
    """The servers see for themselves that their owner has ended."""
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


@cache
def serve(name: str) -> str:
    """The socket of the server with these packages, started by whichever process of the tests needs it first."""
    folder = Path(begin())
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / name).exists():
            command = [sys.executable, __file__, str(folder), name]
            server = subprocess.Popen(command, stdout=subprocess.PIPE, cwd="/", start_new_session=True)
            assert server.stdout and server.stdout.readline() == b"ready\n", command
            server.stdout.close()
    return str(folder / name)


# --- the process that forks --------------------------------------------------------------------


def _next_command(folder: Path, name: str) -> tuple[dict, list[int]]:
    """Loads the packages and forks for each request; comes back in the fork, with the command and its three files."""
    for package in PACKAGES[name]:
        importlib.import_module(package)
    gc.freeze()
    gc.set_threshold(*SELDOM)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(folder / name))
        listening.listen(100)
        ends = os.pidfd_open(int((folder / "owner").read_text()))
        print("ready", flush=True)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        while True:
            ready, _, _ = select.select([listening, ends], [], [])
            if ends in ready:
                os._exit(0)
            line, _ = listening.accept()
            with line:
                if os.fork():
                    continue
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                _enter_namespaces(struct.unpack("3i", line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0])
                size, files, _, _ = socket.recv_fds(line, 8, 3)
                request = json.loads(_received(line, int.from_bytes(size, "big")))
                child = os.fork()
                if child == 0:
                    return request, list(files)
                line.sendall(b"%*d" % (NUMBER, child))
                if line in select.select([line, os.pidfd_open(child)], [], [])[0]:
                    os.kill(child, signal.SIGKILL)  # who asked for it has ended
                _, status = os.waitpid(child, 0)
                with suppress(OSError):
                    line.sendall(b"%*d" % (NUMBER, os.waitstatus_to_exitcode(status)))
                os._exit(0)


def _enter_namespaces(asker: int) -> None:
    """Goes where the process is that asks, as on a node of tests/cluster/slurm.py; what is forked then is there too."""
    for kind in ("ipc", "net", "pid", "uts", "mnt"):
        theirs = f"/proc/{asker}/ns/{kind}"
        if os.stat(theirs).st_ino != os.stat(f"/proc/self/ns/{kind}").st_ino:
            place = os.open(theirs, os.O_RDONLY)
            if ctypes.CDLL(None, use_errno=True).setns(place, 0):
                raise OSError(ctypes.get_errno(), f"cannot enter {theirs}")
            os.close(place)


def _become(request: dict, files: list[int]) -> None:
    """The command, to its end, as if it had been started in its folder."""
    for to, (file, name) in enumerate(zip(files, ("stdin", "stdout", "stderr"), strict=True)):
        os.dup2(file, to)
        os.close(file)
        old = getattr(sys, name)  # which may know that it can, or cannot, be rewound
        plain = io.FileIO(to, "rb" if to == 0 else "wb", closefd=False)
        buffer = io.BufferedReader(plain) if to == 0 else io.BufferedWriter(plain)
        text = io.TextIOWrapper(buffer, old.encoding, old.errors, line_buffering=to > 0, write_through=to > 0)
        setattr(sys, name, text)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    more = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = [request["folder"], *more, *sys.path[1:]]
    tempfile.tempdir = None
    flag, what, *arguments = request["words"]
    sys.argv = [what if flag == "-m" else flag, *arguments]
    sys.orig_argv = [sys.executable, *request["words"]]
    if JOBS in os.environ:
        sys.executable = os.path.join(os.environ[JOBS], "python")  # Snakemake puts its folder first on the PATH of jobs
    if more and importlib.util.find_spec("sitecustomize"):
        importlib.import_module("sitecustomize")  # as Python does before all else
    if flag == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})


def _end_with(code: object) -> NoReturn:
    """Ends as sys.exit does, but takes nothing apart: that would touch, so copy, all that the packages loaded hold."""
    if not isinstance(code, int | None):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue] # waits for threads
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit((code or 0) & 0xFF)


if __name__ == "__main__":
    try:
        _become(*_next_command(Path(sys.argv[1]), sys.argv[2]))
    except SystemExit as ended:
        _end_with(ended.code)
    _end_with(None)
