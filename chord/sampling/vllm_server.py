"""vLLM's environment and options wherever it runs here, servers of it that a block of code starts, and their client.

    python -m chord.sampling.vllm_server STARTER LIFELINE COMMAND ...

guards one server: see `guard`.
"""

import ast
import ctypes
import difflib
import http.client
import importlib.metadata
import json
import os
import re
import secrets
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeAlias

from chord.errors import UserError
from chord.records import Sampled

# --- environment and options ---------------------------------------------------------------------

Option: TypeAlias = "str | int | float | bool | list[str] | dict[str, Option]"
SEEDS = 2**63  # vLLM takes seeds from 0 to below this one
# Options that have a key of their own, or none: pickled weights and code that comes with a model are never loaded.
OURS = {
    "model": "the model's own key",
    "revision": "the model's own key",
    "served_model_name": "nothing: it is chosen here",
    "tensor_parallel_size": "the key `tensor_parallel`",
    "data_parallel_size": "the key `replicas`",
    "load_format": "nothing: only safetensors are loaded",
    "trust_remote_code": "nothing: no code that comes with a model is run",
    "hf_token": "the environment variable HF_TOKEN",
}
ONE_DEVICE = "nothing: each job of answers has one device; run several jobs at once"
OURS_HERE = OURS | dict.fromkeys(("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size"), ONE_DEVICE)

# vLLM 0.32 draws a token also for the first part of a prompt that was divided between passes, and takes the draw back,
# but on GPUs alone: on a CPU a request with a seed of its own would end the engine (its gpu_model_runner.py).
ON_A_CPU: dict[str, Option] = {"enable_chunked_prefill": False}
CPU_CACHE_BYTES = 2**30  # ours: of keys and values; vLLM would take a share of the machine's whole memory

# No reports of use to anyone; and unbound, so that whatever else runs here shares the cores.
EVERYWHERE = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
GUEST = EVERYWHERE | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}  # of an engine that lives in this process


def vllm_version() -> str:
    """The version of the vLLM that is installed. Raises UserError if there is none."""
    try:
        return importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        raise UserError("found no package vllm, expected one; install it as docs/install.md says") from None


@cache
def engine_options() -> frozenset[str]:
    """The names of all engine options of the installed vLLM. Raises UserError if there is none.

    They are the fields of its EngineArgs, read from the source, since importing vLLM takes long.
    """
    found = find_spec("vllm")
    if found is None or found.origin is None:
        raise UserError("found no package vllm, expected one to serve or sample with; install it, or choose without it")
    source = Path(found.origin).parent / "engine" / "arg_utils.py"
    tree = ast.parse(source.read_text(encoding="utf-8"), filename=str(source))
    names = {
        item.target.id
        for part in tree.body
        if isinstance(part, ast.ClassDef) and part.name in ("EngineArgs", "AsyncEngineArgs")
        for item in part.body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    }
    if "model" not in names:
        raise UserError(f"{source}: found no fields of EngineArgs, expected vLLM as of 0.32; install that")
    return frozenset(names)


def check_options(options: Mapping[str, Option], where: str, ours: Mapping[str, str] = OURS) -> None:
    """Raises UserError, with `where` in front, for an option that this vLLM lacks or that is not the caller's."""
    known = engine_options()
    for name in options:
        if name in ours:
            raise UserError(f"{where}.{name}: found an option that is set elsewhere, expected {ours[name]}")
        if name not in known:
            near = difflib.get_close_matches(name.replace("-", "_"), known - ours.keys(), n=1)
            field_of = f"a field of its EngineArgs{f' (nearest: `{near[0]}`)' if near else ''}"
            raise UserError(f"{where}.{name}: found an option that vLLM {vllm_version()} lacks, expected {field_of}")


def engine_settings(options: Mapping[str, Option], dtype: str, rows: int) -> dict[str, Any]:
    """What an engine in this process gets; `options` have been checked, and have the last word."""
    import torch

    settings: dict[str, Any] = {"dtype": dtype, "max_num_seqs": rows, "seed": 0}
    settings |= {"load_format": "safetensors", "generation_config": "vllm"}
    if not torch.cuda.is_available():
        settings |= {"distributed_executor_backend": "uni", "enforce_eager": True}
        settings |= {"kv_cache_memory_bytes": CPU_CACHE_BYTES, **ON_A_CPU}
    return settings | dict(options)


def check_batch_invariance(where: str) -> None:
    """Raises UserError, with `where` in front, if this device has no batch-invariant kernels."""
    import torch

    on_gpu = torch.cuda.is_available()
    if not on_gpu or torch.cuda.get_device_capability() < (8, 0):
        device = torch.cuda.get_device_name() if on_gpu else "a CPU"
        raise UserError(
            f"{where}: found true, expected false on {device}: vLLM {vllm_version()} has batch-invariant kernels only"
            " for NVIDIA GPUs of compute capability 8.0 and above"
        )


def prepare_process(batch_invariant: bool, **more: str) -> None:
    """Sets what vLLM reads when it is imported into this process; `more` are variables besides."""
    os.environ.update(GUEST, VLLM_BATCH_INVARIANT=str(int(batch_invariant)), **more)
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")


@contextmanager
def refusals_of(what: str) -> Generator[None]:
    """Within it an engine starts: what vLLM refuses is a UserError, with `what` in front."""
    try:
        yield
    except (ValueError, TypeError, NotImplementedError) as error:
        found = " ".join(str(error).split())
        raise UserError(f"{what}: vLLM {vllm_version()} refuses these settings: {found:.600}") from None


def check_model(folder: Path) -> None:
    """Raises UserError for a folder that holds no model with its tokenizer."""
    for needed in ("config.json", "*.safetensors", "tokenizer.json"):
        if not any(folder.glob(needed)):
            raise UserError(f"{folder}: found no {needed}, expected the folder of a model with its tokenizer")


def configured_ends_in(folder: Path) -> int | list[int] | None:
    """The tokens that end a response by the generation settings of the model in a folder; there may be others.

    Where that file is missing they are those of config.json, as in transformers.
    """
    files = (folder / "generation_config.json", folder / "config.json")
    found = next((file for file in files if file.is_file()), None)
    return json.loads(found.read_text(encoding="utf-8")).get("eos_token_id") if found else None


# --- client --------------------------------------------------------------------------------------

SECONDS = 3600.0  # for one answer; a server that is gone says so at once
TRIES = 3
PAUSE_SECONDS = 1.0


class ServerError(UserError):
    """A server that did not start, does not answer, or is gone; the message says where to look."""


class Malformed(Exception):
    """An answer that is none: an error of the server, or content that is not what was asked for."""


@dataclass
class Endpoint:
    """Where a server listens, and the secret that it wants to hear."""

    host: str
    port: int
    key: str

    @property
    def name(self) -> str:
        """What errors call it."""
        return f"{self.host}:{self.port}"

    def check(self) -> None:
        """Raises ServerError if the server is known to be gone."""

    def reason(self) -> str:
        """What can be said of its end."""
        return "see its log"

    def ask(self, path: str, body: Any = None, seconds: float = SECONDS) -> tuple[int, bytes]:
        """Status and content of one answer. Raises OSError or HTTPException where no whole answer comes in time."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=seconds)
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        try:
            method, content = ("GET", None) if body is None else ("POST", json.dumps(body))
            connection.request(method, path, content, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def read(self, path: str, body: Any = None) -> Any:
        """The JSON of one answer; None for one without content. Raises ServerError for any other than a good one."""
        try:
            status, said = self.ask(path, body)
        except (OSError, http.client.HTTPException) as error:
            raise ServerError(f"{self.name}: {path}: found no vLLM server ({error}); {self.reason()}") from None
        if status != 200:
            raise ServerError(f"{self.name}: {path}: found answer {status}, {said[:300]!r}, expected 200")
        return json.loads(said) if said else None

    def model(self) -> dict[str, Any]:
        """Its model: the name is `id`, and `max_model_len` the tokens of prompt and response together."""
        return self.read("/v1/models")["data"][0]


def complete(
    servers: Sequence[Endpoint], asked: Sequence[tuple[str, dict[str, Any]]], at_once: int, seconds: float = SECONDS
) -> list[Sampled]:
    """A response to each (name, body of /v1/completions), in order; each server has `at_once` of them at one time.

    A question goes to whichever server is free, and again where an answer is late, lost or malformed: its seed decides
    it. Raises UserError for what a server refuses, and ServerError for its end.
    """
    waiting: SimpleQueue[int] = SimpleQueue()
    for index in range(len(asked)):
        waiting.put(index)
    done: SimpleQueue[tuple[int, Sampled | Exception]] = SimpleQueue()
    ended = threading.Event()

    def work(server: Endpoint) -> None:
        with suppress(Empty):
            while not ended.is_set():
                index = waiting.get_nowait()
                result = RuntimeError(f"{asked[index][0]}: found no answer, expected one; the reason stands above")
                try:
                    result = _answered(server, *asked[index], seconds)
                except UserError as error:
                    result = error
                finally:
                    done.put((index, result))

    # Daemons, so that the end of this process, by SIGTERM for one, does not wait for answers.
    for server in ([*servers] * at_once)[: len(asked)]:
        threading.Thread(target=work, args=(server,), daemon=True).start()
    results: dict[int, Sampled] = {}
    try:
        while len(results) < len(asked):
            index, result = done.get()
            if isinstance(result, Exception):
                raise result
            results[index] = result
    finally:
        ended.set()
    return [results[index] for index in range(len(asked))]


def _answered(server: Endpoint, name: str, body: dict[str, Any], seconds: float) -> Sampled:
    trouble = ""
    for tried in range(TRIES):
        try:
            status, said = server.ask("/v1/completions", body, seconds)
            if 400 <= status < 500:
                raise UserError(f"{name}: vLLM refuses it ({status}: {said[:500].decode(errors='replace')})")
            return _read(status, said, body)
        except (OSError, http.client.HTTPException, Malformed) as error:
            trouble = f"{type(error).__name__}: {error}"
            time.sleep(PAUSE_SECONDS * 2**tried)  # so that the end of a server that dies is seen as that
            server.check()
    tries = f"found no answer to {name} in {TRIES} tries ({trouble})"
    raise ServerError(f"{server.name}: {tries}, expected one; {server.reason()}")


def _read(status: int, said: bytes, body: Mapping[str, Any]) -> Sampled:
    """The one response in an answer. Raises Malformed for anything else."""
    if status != 200:
        raise Malformed(f"status {status}, {said[:200]!r}")
    try:
        choice = json.loads(said)["choices"][0]
        ids, finish = [int(token) for token in choice["token_ids"]], choice["finish_reason"]
        logp: list[float] = choice["logprobs"]["token_logprobs"] if "logprobs" in body else []
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise Malformed(f"{type(error).__name__} in {said[:200]!r}") from None
    if finish not in ("stop", "length") or (finish == "stop" and (not ids or ids[-1] not in body["stop_token_ids"])):
        raise Malformed(f"a response that ended by '{finish}' with token {ids[-1:]}")
    if "logprobs" in body and len(logp) != len(ids):
        raise Malformed(f"{len(logp)} log-probabilities of {len(ids)} tokens")
    return Sampled(ids, logp, finish)


# --- servers -------------------------------------------------------------------------------------

# Replicas of one model on loopback. Each is `vllm serve` under a `guard`, which ends it with all its processes when the
# block of code ends, by an exception and a signal too, and when this process is killed. Every start has a secret of its
# own, without which a server answers nobody.

NAME = "served"  # how requests call the model
LOOPBACK = "127.0.0.1"
READY_SECONDS = 1800.0
POLL_SECONDS = 0.2
GRACE_SECONDS = 10.0
LOG_LINES, LOG_CHARACTERS = 20, 4000
# torchrun and Slurm set these; a server is a world of its own.
_OF_ANOTHER_WORLD = (
    "RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE GROUP_RANK ROLE_RANK MASTER_ADDR MASTER_PORT TORCHELASTIC_RUN_ID"
)
_ERROR = re.compile(r"(?!.*\bWARNING\b).*\b\w*(Error|Exception|Interrupt)\b: \S")


@dataclass(frozen=True)
class Settings:
    """How servers are started. `options` are fields of vLLM's EngineArgs; `where` is what errors call them.

    `threads` are for each replica on a CPU; `environment` is added to that of this process.
    """

    replicas: int = 1
    tensor_parallel: int = 1
    options: Mapping[str, Option] = field(default_factory=dict[str, Option])
    where: str = "vllm"
    threads: int = 1
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    ready_seconds: float = READY_SECONDS


@dataclass
class Server(Endpoint):
    """One replica that was started here. Its guard ends it when `lifeline` closes; `held` keeps the port until then."""

    log: Path
    log_from: int
    devices: str | None
    guard: subprocess.Popen[bytes]
    lifeline: socket.socket
    held: socket.socket

    @property
    def name(self) -> str:
        """Its log."""
        return str(self.log)

    def check(self) -> None:
        """Raises ServerError, with the end of its log, if the server is gone."""
        code = self.guard.poll()
        if code is not None:
            raise ServerError(f"{self.log}: the server ended (exit code {code}); {self.reason()}")

    def reason(self) -> str:
        """What the log of this start says first of an error, and its end."""
        with suppress(FileNotFoundError), self.log.open("rb") as file:
            file.seek(self.log_from)
            lines = [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
            first = next((line for line in lines if _ERROR.match(line)), None)
            end = lines[-LOG_LINES:]
            shown = end if first is None or first in end else [first, "...", *end]
            return "its log says:\n" + "\n".join(shown)[-LOG_CHARACTERS:]
        return "it has no log"

    def is_ready(self) -> bool:
        """Whether it answers, and is one of ours. Raises ServerError if it is gone."""
        self.check()
        try:
            status, said = self.ask("/v1/models", seconds=5.0)
        except (OSError, http.client.HTTPException):
            return False
        if status != 200 or NAME.encode() not in said:
            return False
        self.held.close()
        return True

    def stop(self) -> None:
        """End the server and every process of it, and wait until none is left."""
        self.lifeline.close()
        self.held.close()
        with suppress(subprocess.TimeoutExpired):
            self.guard.wait(timeout=3 * GRACE_SECONDS)
        if self.guard.returncode is None or self.guard.returncode < 0:  # a guard that was killed leaves the rest to us
            with suppress(ProcessLookupError):
                os.killpg(self.guard.pid, signal.SIGKILL)
            self.guard.wait()


@contextmanager
def serving(
    model: Path, settings: Settings, logs: Path, devices: Sequence[str] | None = None
) -> Generator[list[Server]]:
    """Replicas of the model in a folder, all ready; they end with the block. Logs are `logs`/vllm-N.log, appended to.

    They share `devices`, by default all that are visible. Raises UserError before anything starts for an option that
    vLLM lacks, a folder without a model or too few devices; ServerError for a server that ends, or is late.
    """
    check_options(settings.options, settings.where)
    check_model(model)
    groups = device_groups(visible_devices() if devices is None else devices, settings)
    logs.mkdir(parents=True, exist_ok=True)
    servers: list[Server] = []
    try:
        for index, group in enumerate(groups):
            servers.append(_start(str(model), settings, group, logs / f"vllm-{index}.log"))
        deadline = time.monotonic() + settings.ready_seconds
        waiting = servers
        while waiting := [server for server in waiting if not server.is_ready()]:
            for server in servers:
                server.check()
            if time.monotonic() > deadline:
                late = f"the server was not ready after {settings.ready_seconds:g} s; {waiting[0].reason()}"
                raise ServerError(f"{waiting[0].log}: {late}")
            time.sleep(POLL_SECONDS)
        yield servers
    finally:
        for server in servers:
            server.lifeline.close()  # so that all end side by side
        for server in servers:
            server.stop()


def visible_devices() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES (Slurm sets it) names them; none on a CPU."""
    import torch

    if not torch.cuda.is_available():
        return []
    named = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
    return [name.strip() for name in named.split(",")]


def device_groups(devices: Sequence[str], settings: Settings) -> list[str | None]:
    """CUDA_VISIBLE_DEVICES of each replica. Without GPUs each has None, and tensor parallel ranks share the CPU."""
    replicas, size = settings.replicas, settings.tensor_parallel
    if not devices:
        return [None] * replicas
    if len(devices) < replicas * size:
        raise UserError(
            f"{settings.where}: found {len(devices)} GPUs ({','.join(devices)}), expected {replicas * size}:"
            f" {replicas} replicas of {size}; ask for more GPUs or for fewer replicas"
        )
    return [",".join(devices[index * size : (index + 1) * size]) for index in range(replicas)]


def command(model: str, port: int, settings: Settings, devices: str | None) -> list[str]:
    """What a person would type to start this server: `vllm serve` with everything said."""
    words = [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", model]
    words += ["--host", LOOPBACK, "--port", str(port), "--served-model-name", NAME]
    words += ["--generation-config", "vllm"]  # else the model's own file would change what requests ask for
    words += ["--load-format", "safetensors", "--tensor-parallel-size", str(settings.tensor_parallel)]
    if devices is None and settings.tensor_parallel == 1 and "distributed_executor_backend" not in settings.options:
        words += ["--distributed-executor-backend", "uni"]  # else one more process imports all of vLLM
    for name, value in (settings.options if devices else {**ON_A_CPU, **settings.options}).items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, list):
            words += [f"--{flag}", *map(str, value)]
        else:
            words.append(f"--{flag}={json.dumps(value) if isinstance(value, dict) else value}")
    return words


def environment(settings: Settings, devices: str | None, key: str) -> dict[str, str]:
    """The variables of a server: those of this process, its devices, its secret, and where it finds this project."""
    variables = {name: value for name, value in os.environ.items() if name not in _OF_ANOTHER_WORLD.split()}
    project = str(Path(__file__).parents[2])
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, (project, variables.get("PYTHONPATH"))))
    variables |= EVERYWHERE | {"HF_HUB_OFFLINE": "1", "VLLM_API_KEY": key}
    if devices is None:
        variables["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0" if settings.tensor_parallel == 1 else "1"  # 0: executor `uni`
        variables["OMP_NUM_THREADS"] = str(settings.threads)
    else:
        variables["CUDA_VISIBLE_DEVICES"] = devices
    return variables | dict(settings.environment)


def _start(model: str, settings: Settings, devices: str | None, log: Path) -> Server:
    held, (ours, theirs) = _port_held(), socket.socketpair()
    port, key = held.getsockname()[1], secrets.token_hex(16)
    guarded = [sys.executable, "-m", guard.__module__, str(os.getpid()), str(theirs.fileno())]
    with theirs, log.open("ab") as file:
        began = file.tell()
        started = subprocess.Popen(
            [*guarded, *command(model, port, settings, devices)],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=environment(settings, devices, key),
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
        )
    return Server(LOOPBACK, port, key, log, began, devices, started, ours, held)


def _port_held() -> socket.socket:
    """A socket bound to a free port, which nobody else gets until the server listens.

    The server binds beside it: both say SO_REUSEADDR, and this one never listens.
    """
    held = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind((LOOPBACK, 0))
    return held


# --- guard ---------------------------------------------------------------------------------------

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def guard(arguments: Sequence[str]) -> int:
    """Runs a command and ends it, with every process below it, when whoever started it is gone. Linux only.

    `arguments` are the process number of the starter, one end of a connection, and the command. The starter holds the
    other end, which closes however the starter ends, also by kill -9. Processes whose parent died come to this one (it
    is a subreaper), so none is missed. Gives the exit code of the command.
    """
    starter, lifeline, command = int(arguments[0]), int(arguments[1]), arguments[2:]
    signals: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, frame: signals.append(number))
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    # Should the guard itself be killed, the kernel kills the command.
    last_will = partial(_prctl, _PR_SET_PDEATHSIG, signal.SIGKILL)
    child = subprocess.Popen(command, preexec_fn=last_will, stdin=subprocess.DEVNULL)
    while child.poll() is None and not signals and os.getppid() == starter:
        if select.select([lifeline], [], [], POLL_SECONDS)[0]:
            break
    _end(child)
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def _end(child: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the command, and SIGKILL to all that is left of it when the time of grace is over."""
    deadline = time.monotonic() + GRACE_SECONDS
    if child.poll() is None:
        child.terminate()
    while below(os.getpid()) and time.monotonic() < deadline:
        if child.poll() is not None:
            deadline = min(deadline, time.monotonic() + GRACE_SECONDS / 5)  # its own processes should end with it
        time.sleep(POLL_SECONDS / 4)
    while left := below(os.getpid()):
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(POLL_SECONDS / 4)
    child.wait()


def below(pid: int) -> list[int]:
    """Every living process below `pid`; dead ones that only wait for their parent do not count."""
    children: defaultdict[int, list[int]] = defaultdict(list)
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, parent = entry.read_text().rpartition(")")[2].split()[:2]
            if state not in "ZX":
                children[int(parent)].append(int(entry.parent.name))
    found = children[pid]
    for one in found:  # which grows
        found += children[one]
    return found


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


if __name__ == "__main__":
    sys.exit(guard(sys.argv[1:]))
