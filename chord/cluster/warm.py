"""Jobs of a Snakemake on this machine are forked from one process, so that packages are loaded once, not by each job.

`python -m chord VERB` hands its command line, environment, folder and open files to the server that the variable
CHORD_FORKED_BY names, and ends as the fork that the server makes for it ends. It runs the verb itself where there is no
such server, and where a fork would be another process than this one: another Python, another environment, code or
packages that changed since the server began. The server ends with its Snakemake; jobs that run then go on.

Why not the standard library's forkserver: multiprocessing gives a fork the server's output, folder, environment and
process group, passes no signal on, and tells nobody how a fork ended once the process that began the server is gone.

Linux alone: the socket is no file (an abstract name), and the kernel ends a fork whose client is gone. All that
`run_forked` loads each job pays for, so it is little.
"""

import fcntl
import importlib  # not followed: the digest of a job begins at its verb
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NoReturn

FORKED_BY = "CHORD_FORKED_BY"  # in the environment of a job: the name of the server's socket
SWITCH = "CHORD_FORK_JOBS"  # in the environment of Snakemake; `no`: each job is a Python of its own

MODEL = ("torch", "transformers.models.llama.modeling_llama", "chord.training.policy")
LM_EVAL = ("lm_eval.evaluator", "lm_eval.tasks", "datasets", "chord.evaluation.lm_eval_models")
# By verb, what it loads beside its own module. Other verbs are not forked: `chord launch` starts processes itself.
LOADS: dict[str, tuple[str, ...]] = {
    "prepare": ("reasoning_gym",),
    "demonstrate": (),
    "unpack": (),
    "adopt": (),
    "train": MODEL,
    "validate": (),
    "choose": (),
    "generate": (*MODEL, *LM_EVAL, "chord.training.transformers_sampler"),
    "score": LM_EVAL,
    "tabulate": (),
    "plot": ("matplotlib.figure",),
    "judge": (),
    "report": (),
}
# As Snakemake sets them for a job of one thread. A job of more has another environment, so it is not forked.
THREADS = "OMP_NUM_THREADS GOTO_NUM_THREADS OPENBLAS_NUM_THREADS MKL_NUM_THREADS NUMEXPR_NUM_THREADS"
ONE_THREAD = dict.fromkeys((*THREADS.split(), "VECLIB_MAXIMUM_THREADS"), "1")
# What differs from job to job and no package reads when it is loaded.
OF_A_JOB = (FORKED_BY, "_", "SHLVL", "PWD", "OLDPWD", "TMPDIR", "TMP", "TEMPDIR", "TEMP")
HANDED_ON = {signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2}
FORKABLE = "jemalloc_bg_thd"  # the one thread that may be there: of an allocator in pyarrow, which is made for forks
NUMBER = 4  # bytes of a length or an exit code on its way


# --- a job of Snakemake ------------------------------------------------------------------------


def run_forked() -> None:
    """Ends as the verb of this command line ended in a fork; comes back where this process has to run it."""
    name = os.environ.pop(FORKED_BY, None)
    if name is None or not {*sys.argv[1:2]} & {*LOADS}:
        return
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {*HANDED_ON, signal.SIGIO})
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line, suppress(OSError):
        line.connect(f"\0{name}")
        if _user(line) == os.getuid():
            text = json.dumps(_request(mask)).encode()
            socket.send_fds(line, [len(text).to_bytes(NUMBER, sys.byteorder)], [0, 1, 2])
            line.sendall(text)
            _, fork, _, _ = socket.recv_fds(line, NUMBER, 1)
            if fork:
                _end_as(_exit_code(line, fork[0]))
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _request(mask: set[signal.Signals | int]) -> dict[str, Any]:
    """All that a fork takes over, and `same`, which the server must have as well."""
    os.umask(umask := os.umask(0o077))
    return {
        "same": _this_python(),
        "environment": dict(os.environ),
        "argv": sys.argv,
        "orig_argv": sys.orig_argv,
        "folder": os.getcwd(),
        "umask": umask,
        "group": os.getpgrp(),
        "ignored": [number for number in HANDED_ON if signal.getsignal(number) is signal.SIG_IGN],
        "mask": [*mask],
    }


def _exit_code(line: socket.socket, fork: int) -> int:
    """How the fork ended, negative where a signal ended it. On the way it is given the signals that come here.

    A terminal gives a signal to the fork itself: it is in the process group of this process.
    """
    fcntl.fcntl(line, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(line, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)  # SIGIO comes with the answer
    awaited = {signal.SIGIO, *(number for number in HANDED_ON if signal.getsignal(number) is not signal.SIG_IGN)}
    while True:
        with suppress(BlockingIOError):
            told = line.recv(NUMBER)
            select.select([fork], [], [])  # until it is gone, and all that it held
            return int.from_bytes(told, sys.byteorder, signed=True) if told else -signal.SIGKILL
        came = signal.sigwaitinfo(awaited)
        if came.si_signo != signal.SIGIO and came.si_code <= 0:  # above 0: from a terminal
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(fork, came.si_signo)


def _end_as(code: int) -> NoReturn:
    if code < 0:
        if code != -signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {-code})
        os.kill(os.getpid(), -code)
    os._exit(code)


def _user(line: socket.socket) -> int:
    """Who is at the other end."""
    return int.from_bytes(line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[4:8], sys.byteorder)


def _this_python() -> list[Any]:
    """What tells this Python, in its session, from others."""
    return [sys.executable, sys.prefix, sys.version, sys.path, list(sys.flags), sys.warnoptions, os.getsid(0)]


# --- the server --------------------------------------------------------------------------------


def start() -> str | None:
    """Starts the server of this Snakemake; gives the name of its socket, or None where jobs are to run by themselves.

    Nothing is loaded before a job needs it.
    """
    import subprocess
    import uuid

    has_gpu = os.path.exists("/dev/nvidiactl")  # to ask for a GPU before a fork leaves the fork without
    if sys.platform != "linux" or has_gpu or os.environ.get(SWITCH) == "no":
        return None
    name = f"chord-{uuid.uuid4().hex}"
    path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"  # as jobs have it
    environment = os.environ | ONE_THREAD | {"PATH": path}
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(f"\0{name}")
        listening.listen(1000)  # from here on a job waits for the server, which the end of the server ends too
        command = [sys.executable, "-m", __name__, str(listening.fileno()), str(os.getpid())]
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        subprocess.Popen(command, env=environment, pass_fds=[listening.fileno()], **streams)
    return name


class Server:
    """The process that forks; single-threaded, without a use of CUDA, of random numbers or of the network."""

    def __init__(self) -> None:
        self.python, self.environment = _this_python(), _without_own(os.environ)
        self.stamps = list(_stamps())
        self.verbs: set[str] = set()
        self.before_loading: set[str] = set()  # names in the environment

    def forks(self, request: dict[str, Any]) -> bool:
        """Whether a fork is, for this request, what a new process would be. Loads what its verb needs."""
        asked, stamps = _without_own(request["environment"]), list(_stamps())
        if (request["same"], asked, stamps) != (self.python, self.environment, self.stamps):
            return False
        self._load(*request["argv"][1:])
        return _threads() <= {FORKABLE}

    def _load(self, verb: str, *arguments: str) -> None:
        """Packages, and what the project keeps in memory: config/ by its content, the code that the verb reaches."""
        import gc
        import weakref
        from argparse import Namespace
        from pathlib import Path

        from chord import VERBS
        from chord.config.project import project_of
        from chord.errors import UserError
        from chord.evaluation.benchmarks import keep_offline
        from chord.provenance.digest import job_code
        from chord.provenance.environment import installed

        if verb in self.verbs:
            return
        if not self.verbs:
            keep_offline()  # as verbs do before they load packages of Hugging Face
            self.before_loading = {*os.environ}
        for module in (VERBS[verb].module, *LOADS[verb]):
            with suppress(ImportError):  # the fork will say it
                importlib.import_module(module)
        with suppress(UserError):  # so here
            job_code(f"chord {verb}", {})
            if "--study" in arguments:
                project_of(Namespace(root=Path("."), study=arguments[arguments.index("--study") + 1]))
        installed()
        for one in [*weakref.finalize._registry]:  # pyright: ignore
            one.atexit = False  # what packages take apart at the end of their process: a fork is not it
        gc.freeze()  # a fork that looked for garbage in all this would copy it
        self.verbs.add(verb)

    def added(self) -> dict[str, str]:
        """What packages set in the environment when they were loaded."""
        return {name: text for name, text in os.environ.items() if name not in self.before_loading}


def _threads() -> set[str]:
    """Names of the threads beside the one that forks."""
    names = set[str]()
    for number in {*os.listdir("/proc/self/task")} - {str(os.getpid())}:
        with suppress(OSError), open(f"/proc/self/task/{number}/comm", encoding="utf-8") as file:
            names.add(file.read().strip())
    return names


def _without_own(environment: Any) -> dict[str, str]:
    return {name: text for name, text in environment.items() if name not in OF_A_JOB}


def _stamps() -> Iterator[tuple[str, int, int]]:
    """Size and time of each file of this code, and of each folder of packages, in which names have versions."""
    for folder, folders, files in os.walk(os.path.dirname(os.path.dirname(__file__))):
        folders[:] = [name for name in folders if name != "__pycache__"]
        for path in (os.path.join(folder, name) for name in files):
            found = os.stat(path)
            yield path, found.st_size, found.st_mtime_ns
    for path in sys.path:
        if path.startswith(sys.prefix) and os.path.isdir(path):
            yield path, 0, os.stat(path).st_mtime_ns


def serve(listening: socket.socket, snakemake: int) -> socket.socket:
    """Forks for each request and ends with Snakemake. Comes back in a fork that is to run its verb, with its line."""
    owner = os.pidfd_open(snakemake)
    if os.getppid() != snakemake:
        sys.exit()
    for number in HANDED_ON - {signal.SIGTERM}:
        signal.signal(number, signal.SIG_IGN)  # where all processes of a terminal or a job get it, forks do too
    os.set_inheritable(listening.fileno(), False)
    server, jobs = Server(), dict[int, tuple[int, socket.socket]]()
    while True:
        ready, _, _ = select.select([listening, owner, *jobs], [], [])
        if owner in ready:
            sys.exit()
        for fork in jobs.keys() & {*ready}:
            number, line = jobs.pop(fork)
            _tell(line, os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]))  # read only where a signal ended the fork
            line.close()
            os.close(fork)
        if listening not in ready:
            continue
        line, _ = listening.accept()
        files = list[int]()
        with suppress(OSError, ValueError):
            request, files = _received(line)
            number = os.fork() if _user(line) == os.getuid() and server.forks(request) else -1
            if number == 0:
                for handle in (listening.detach(), owner, *jobs, *(one.detach() for _, one in jobs.values())):
                    os.close(handle)
                _become(request | {"added": server.added()}, files, line)
                return line
            if number > 0:
                jobs[fork := os.pidfd_open(number)] = number, line
                socket.send_fds(line, [bytes(NUMBER)], [fork])
            else:
                line.close()
        for handle in files:
            os.close(handle)


def _received(line: socket.socket) -> tuple[dict[str, Any], list[int]]:
    line.settimeout(10)
    size, files, _, _ = socket.recv_fds(line, NUMBER, 3)
    left, text = int.from_bytes(size, sys.byteorder), b""
    while len(text) < left:
        text += line.recv(left - len(text)) or b"\0" * left  # a client that is gone: no JSON
    line.settimeout(None)
    return json.loads(text), files


def _tell(line: socket.socket, code: int) -> None:
    with suppress(OSError):
        line.send(code.to_bytes(NUMBER, sys.byteorder, signed=True))


# --- a fork ------------------------------------------------------------------------------------


def _become(request: dict[str, Any], files: list[int], line: socket.socket) -> None:
    """The process of the client, in all that a verb can see, but for its number and what a program reads in /proc."""
    import tempfile

    fcntl.fcntl(line, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(line, fcntl.F_SETSIG, signal.SIGKILL)  # from the kernel, when the client is gone
    fcntl.fcntl(line, fcntl.F_SETFL, os.O_ASYNC)
    os.setpgid(0, request["group"])
    for to, (name, mode, buffering) in enumerate((("stdin", "r", -1), ("stdout", "w", -1), ("stderr", "w", 1))):
        os.dup2(files[to], to)
        os.close(files[to])
        old = getattr(sys, name)  # of another file, it may go by what that can do
        new = open(to, mode, buffering, encoding=old.encoding, errors=old.errors, closefd=False)  # noqa: SIM115
        setattr(sys, name, new)
        setattr(sys, f"__{name}__", new)
    os.chdir(request["folder"])
    os.umask(request["umask"])
    os.environ.clear()
    os.environ.update(request["environment"] | request["added"])
    tempfile.tempdir = None
    sys.argv, sys.orig_argv = request["argv"], request["orig_argv"]
    for number in HANDED_ON:
        usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, signal.SIG_IGN if number in request["ignored"] else usual)
    signal.pthread_sigmask(signal.SIG_SETMASK, request["mask"])


def _run(line: socket.socket) -> NoReturn:
    """The verb, to its end, which is told to the client.

    Takes nothing apart, as Python else does at its end: that would copy all that the packages hold.
    """
    import atexit
    import runpy  # not followed: the digest of a job begins at its verb
    import threading

    code: object = 0
    try:
        runpy.run_module("chord", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
    except BaseException as error:  # noqa: BLE001 # told as Python tells it
        sys.excepthook(type(error), error, error.__traceback__)
        code = 1
    if not isinstance(code, int | None):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()  # pyright: ignore # waits for threads
    atexit._run_exitfuncs()  # pyright: ignore
    sys.stdout.flush()
    sys.stderr.flush()
    _tell(line, (code or 0) & 0xFF)
    os._exit((code or 0) & 0xFF)


if __name__ == "__main__":
    _run(serve(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])))
