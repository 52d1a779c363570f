"""vLLM behind HTTP: its options, a server that this process starts and ends, and what is asked of it."""

import ast
import difflib
import http.client
import importlib.metadata
import json
import os
import queue
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from chord.errors import UserError
from chord.sampling import guard
from chord.sampling.protocol import Request

# --- vllm options --------------------------------------------------------------------------------

# The engine options of the vLLM that is installed: which there are, and a refusal of those that it lacks.
#
# They are the fields of its EngineArgs, read from the source without importing it, so that a mistake is told at once.

Option: TypeAlias = "str | int | float | bool | list[str] | dict[str, Option]"
# What this project says itself, by other keys; pickled weights and code that comes with a model are never loaded.
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

# vLLM 0.32 draws a token also for the first part of a prompt that was divided between passes, and then takes the draw
# back: on GPUs alone, so that on a CPU a request with a seed of its own would end the engine (its gpu_model_runner.py).
ON_A_CPU: dict[str, Option] = {"enable_chunked_prefill": False}


def vllm_version() -> str:
    """The version of the vLLM that is installed. Raises UserError if there is none."""
    try:
        return importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        raise UserError("found no package vllm, expected one; install it as envs/README.md or README.md says") from None


@cache
def engine_options() -> frozenset[str]:
    """The names of all engine options of the installed vLLM. Raises UserError if there is none."""
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
            hint = f" (nearest: `{near[0]}`)" if near else ""
            raise UserError(
                f"{where}.{name}: found an option that vLLM {vllm_version()} lacks, expected a field of its"
                f" EngineArgs{hint}"
            )


def as_arguments(options: Mapping[str, Option]) -> list[str]:
    """The options as `vllm serve` takes them on its command line."""
    arguments: list[str] = []
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            arguments.append(flag if value else f"--no-{flag[2:]}")
        elif isinstance(value, list):
            arguments += [flag, *map(str, value)]
        else:
            arguments.append(f"{flag}={json.dumps(value) if isinstance(value, dict) else value}")
    return arguments


def configured_ends_in(folder: Path) -> int | list[int] | None:
    """The tokens that end a response by the generation settings of the model in a folder; there may be others.

    A model without such a file has the settings in its config.json, as transformers takes them.
    """
    files = (folder / "generation_config.json", folder / "config.json")
    said = next((json.loads(file.read_text(encoding="utf-8")) for file in files if file.is_file()), {})
    return said.get("eos_token_id")


# --- server --------------------------------------------------------------------------------------

# vLLM servers that live as long as a block of code: replicas of one model on loopback, their logs, their end.
#
# Each replica is `vllm serve` under a `chord.sampling.guard`, which ends it with all its processes when the block ends,
# whether well, by an exception or a signal, and when this process is killed. Ports are held from the choice on until
# the
# server listens, so nobody else gets them. Every start has a secret of its own, without which a server answers nobody.

NAME = "served"  # how requests call the model
LOOPBACK = "127.0.0.1"
READY_SECONDS = 1800.0
POLL_SECONDS = 0.2
LOG_LINES, LOG_CHARACTERS = 20, 4000
# Whoever was started by torchrun or Slurm hands these down; a server is a world of its own.
_OF_ANOTHER_WORLD = (
    "RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE GROUP_RANK ROLE_RANK MASTER_ADDR MASTER_PORT TORCHELASTIC_RUN_ID"
)
_ERROR = re.compile(r"(?!.*\bWARNING\b).*\b\w*(Error|Exception|Interrupt)\b: \S")


class ServerError(UserError):
    """A server that did not start, or is gone; the message has the end of its log."""


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
class Server:
    """One replica that was started; `key` is the secret that it wants to hear."""

    port: int
    key: str
    log: Path
    devices: str | None
    guard: subprocess.Popen[bytes]
    log_from: int
    _lifeline: int
    _held: socket.socket | None

    def check(self) -> None:
        """Raises ServerError, with the end of its log, if the server is gone."""
        code = self.guard.poll()
        if code is not None:
            raise ServerError(f"{self.log}: the server ended (exit code {code}); {self.told()}")

    def told(self) -> str:
        """What the log of this start says first of an error, and its end."""
        with suppress(FileNotFoundError), self.log.open("rb") as file:
            file.seek(self.log_from)
            lines = [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
            first = next((line for line in lines if _ERROR.match(line)), None)
            end = lines[-LOG_LINES:]
            shown = end if first is None or first in end else [first, "...", *end]
            return "its log says:\n" + "\n".join(shown)[-LOG_CHARACTERS:]
        return "it has no log"

    def ask(self, method: str, path: str, body: Any = None, seconds: float = 600.0) -> tuple[int, bytes]:
        """Status and content of one answer. Raises OSError or HTTPException where no whole answer comes in time."""
        connection = http.client.HTTPConnection(LOOPBACK, self.port, timeout=seconds)
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def is_ready(self) -> bool:
        """Whether it answers, and is one of ours. Raises ServerError if it is gone."""
        self.check()
        try:
            status, said = self.ask("GET", "/v1/models", seconds=5.0)
        except (OSError, http.client.HTTPException):
            return False
        if status != 200 or NAME.encode() not in said:
            return False
        if self._held is not None:
            self._held.close()
            self._held = None
        return True

    def begin_to_stop(self) -> None:
        """Tell the guard to end the server; nothing happens the second time."""
        for held in (self._lifeline, self._held):
            if isinstance(held, int) and held >= 0:
                os.close(held)
            elif isinstance(held, socket.socket):
                held.close()
        self._lifeline, self._held = -1, None

    def stop(self) -> None:
        """End the server and every process of it, and wait until none is left."""
        self.begin_to_stop()
        try:
            code = self.guard.wait(timeout=3 * guard.GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            code = -signal.SIGKILL
        if code < 0:  # the guard itself was killed, so what it guarded is left to us
            with suppress(ProcessLookupError):
                os.killpg(self.guard.pid, signal.SIGKILL)
            self.guard.wait()


@contextmanager
def serving(model: Path, settings: Settings, logs: Path) -> Iterator[list[Server]]:
    """Replicas of the model in a folder, all ready; they end with the block. Logs are `logs`/vllm-N.log, appended to.

    Raises UserError before anything starts for an option that vLLM lacks, a folder without a model or too few
    devices, and ServerError for a server that ends, or is not ready in time.
    """
    check_options(settings.options, settings.where)
    for needed in ("config.json", "*.safetensors", "tokenizer.json"):
        if not any(model.glob(needed)):
            raise UserError(f"{model}: found no {needed}, expected the folder of a model with its tokenizer")
    groups = device_groups(visible_devices(), settings)
    logs.mkdir(parents=True, exist_ok=True)
    servers: list[Server] = []
    with ExitStack() as stack:
        stack.callback(_stop, servers)
        for index, devices in enumerate(groups):
            servers.append(_start(str(model), settings, devices, logs / f"vllm-{index}.log"))
        wait_until_ready(servers, settings.ready_seconds)
        yield servers


def wait_until_ready(servers: Sequence[Server], seconds: float) -> None:
    """Returns once every server answers; raises ServerError when one ends, or is not ready after `seconds`."""
    deadline = time.monotonic() + seconds
    waiting = list(servers)
    while waiting := [server for server in waiting if not server.is_ready()]:
        for server in servers:
            server.check()
        if time.monotonic() > deadline:
            raise ServerError(f"{waiting[0].log}: the server was not ready after {seconds:g} s; {waiting[0].told()}")
        time.sleep(POLL_SECONDS)


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
    ours = ["serve", model, "--host", LOOPBACK, "--port", str(port), "--served-model-name", NAME]
    ours += ["--generation-config", "vllm"]  # else the model's own file would change what requests ask for
    ours += ["--load-format", "safetensors", "--tensor-parallel-size", str(settings.tensor_parallel)]
    if devices is None and settings.tensor_parallel == 1 and "distributed_executor_backend" not in settings.options:
        ours += ["--distributed-executor-backend", "uni"]  # else one more process imports all of vLLM
    options = settings.options if devices else {**ON_A_CPU, **settings.options}
    return [sys.executable, "-m", "vllm.entrypoints.cli.main", *ours, *as_arguments(options)]


def environment(settings: Settings, devices: str | None, key: str) -> dict[str, str]:
    """The variables of a server: those of this process, no report of use to anyone, its devices, its secret."""
    variables = {name: value for name, value in os.environ.items() if name not in _OF_ANOTHER_WORLD.split()}
    variables |= {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "VLLM_API_KEY": key}
    if devices is None:
        # The first is for the executor `uni`; unbound, replicas and whatever else runs here share the cores.
        variables |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0" if settings.tensor_parallel == 1 else "1"}
        variables |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(settings.threads)}
    else:
        variables |= {"CUDA_VISIBLE_DEVICES": devices}
    return variables | dict(settings.environment)


def _start(model: str, settings: Settings, devices: str | None, log: Path) -> Server:
    held = _port_held()
    key, port = secrets.token_hex(16), held.getsockname()[1]
    reading, writing = os.pipe()
    guarded = [sys.executable, "-m", guard.__name__, str(os.getpid()), str(reading)]
    try:
        with log.open("ab") as file:
            began = file.tell()
            started = subprocess.Popen(
                [*guarded, *command(model, port, settings, devices)],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=environment(settings, devices, key) | {"PYTHONPATH": _python_path()},
                pass_fds=(reading,),
                start_new_session=True,
            )
    except BaseException:
        os.close(writing)
        held.close()
        raise
    finally:
        os.close(reading)
    return Server(port, key, log, devices, started, began, writing, held)


def _python_path() -> str:
    """That of this process, with the project in front, so that the guard is found from any folder."""
    project = str(Path(guard.__file__).parents[2])
    given = os.environ.get("PYTHONPATH", "")
    return project + (os.pathsep + given if given else "")


def _port_held() -> socket.socket:
    """A socket bound to a free port. The server binds beside it (both say SO_REUSEADDR and this one never listens)."""
    held = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind((LOOPBACK, 0))
    return held


def _stop(servers: Sequence[Server]) -> None:
    """All at once, so that replicas end side by side."""
    for server in servers:
        server.begin_to_stop()
    for server in servers:
        server.stop()


# --- completions ---------------------------------------------------------------------------------

# Many questions to served replicas: each is asked once, of whichever replica is free, and answered under its seed.
#
# Prompts go as tokens, so that no text is read as a special token on the way. A refusal, or a server that is gone, ends
# everything with a reason; what may be a moment's trouble is tried again.

SEEDS = 2**63  # vLLM takes seeds from 0 to below this one
TRIES = 3
PAUSE_SECONDS = 1.0


class Completion(NamedTuple):
    """The tokens of a response; with `finish` "stop" the last one is an end token."""

    ids: list[int]
    finish: str  # "stop" or "length"


@dataclass(frozen=True)
class Wish:
    """How every response is sampled. `end_ids` alone end one; `at_once` questions wait at each replica."""

    max_tokens: int
    temperature: float
    top_p: float
    end_ids: tuple[int, ...]
    at_once: int
    seconds: float = 3600.0


class Malformed(Exception):
    """An answer that is none: an error of the server, or content that is not what was asked for."""


def context_of(server: Server) -> int:
    """How many tokens of prompt and response together the server takes."""
    status, said = server.ask("GET", "/v1/models", seconds=60.0)
    try:
        return int(json.loads(said)["data"][0]["max_model_len"])
    except (ValueError, KeyError, IndexError, TypeError):
        raise ServerError(f"{server.log}: found {status} {said[:200]!r}, expected a model with its length") from None


def complete(servers: Sequence[Server], requests: Sequence[Request], wish: Wish) -> list[Completion]:
    """One completion for each request, in order. Raises UserError for what a server refuses, ServerError for its end.

    Threads do the waiting; they are not waited for when something ends this, for instance SIGTERM.
    """
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[int, Completion | Exception]] = queue.SimpleQueue()
    for index in range(len(requests)):
        waiting.put(index)
    ended = threading.Event()

    def work(server: Server) -> None:
        while not ended.is_set():
            try:
                index = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                done.put((index, _answered(server, requests[index], wish, ended)))
            except (UserError, OSError) as error:
                done.put((index, error))
                return

    for server in servers:
        for _ in range(min(wish.at_once, len(requests))):
            threading.Thread(target=work, args=(server,), daemon=True).start()
    results: dict[int, Completion] = {}
    try:
        while len(results) < len(requests):
            index, result = done.get()
            if isinstance(result, Exception):
                raise result
            results[index] = result
    finally:
        ended.set()
    return [results[index] for index in range(len(requests))]


def _answered(server: Server, request: Request, wish: Wish, ended: threading.Event) -> Completion:
    """The answer to one request, tried again where an answer is late, lost or malformed."""
    trouble = ""
    for tried in range(TRIES):
        if tried and ended.wait(PAUSE_SECONDS * 2**tried):
            break
        try:
            status, said = server.ask("POST", "/v1/completions", _body(request, wish), wish.seconds)
            if 400 <= status < 500:
                raise UserError(f"{request.id}: vLLM refuses it ({status}: {said[:500].decode(errors='replace')})")
            return _read(status, said, wish.end_ids)
        except (OSError, http.client.HTTPException, Malformed) as error:
            trouble = f"{type(error).__name__}: {error}"
            time.sleep(PAUSE_SECONDS)  # so that the end of a server that dies is seen as that
            server.check()
    raise ServerError(
        f"{server.log}: found no answer to {request.id} in {TRIES} tries ({trouble}), expected one; {server.told()}"
    )


def _body(request: Request, wish: Wish) -> dict[str, Any]:
    return {
        "model": NAME,
        "prompt": list(request.prompt_ids),
        "max_tokens": wish.max_tokens,
        "temperature": wish.temperature,
        "top_p": wish.top_p,
        "seed": request.seed % SEEDS,
        "stop_token_ids": list(wish.end_ids),
        "ignore_eos": True,
        "return_token_ids": True,
    }


def _read(status: int, said: bytes, end_ids: Sequence[int]) -> Completion:
    """The one completion in an answer. Raises Malformed for anything else."""
    if status != 200:
        raise Malformed(f"status {status}, {said[:200]!r}")
    try:
        choice = json.loads(said)["choices"][0]
        ids, finish = [int(token) for token in choice["token_ids"]], choice["finish_reason"]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise Malformed(f"{type(error).__name__} in {said[:200]!r}") from None
    if finish not in ("stop", "length") or (finish == "stop" and (not ids or ids[-1] not in end_ids)):
        raise Malformed(f"a response that ended by '{finish}' with token {ids[-1:]}")
    return Completion(ids, finish)
