"""Servers: ready or refused with a reason, and never a process left, however the block, or its process, ends.

By stand-ins; vLLM itself is served in tests/unit/test_ask_expert.py.
"""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from chord.errors import UserError
from chord.sampling import vllm_server as servers
from chord.sampling.vllm_server import (
    ServerError,
    Settings,
    below,
    check_options,
    device_groups,
    engine_options,
    serving,
)
from tests import warm
from tests.tiny_model import tiny_model

ROOT = Path(__file__).parents[2]
STAND_IN = Path(__file__).with_name("stand_in_server.py")
STARTER = """
import signal, sys, time
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it
from chord.provenance.cli import run_verb
from chord.sampling import vllm_server as servers
from tests.faults import test_server
def main():
    servers.command, servers.visible_devices = test_server.stand_in({kind!r}), list
    with servers.serving(Path({model!r}), servers.Settings(), Path({logs!r})) as found:
        print(found[0].port, found[0].key, flush=True)
        time.sleep(600)
run_verb("starter", main)
"""


def stand_in(kind: str) -> Callable[..., list[str]]:
    return lambda model, port, settings, devices: [sys.executable, str(STAND_IN), str(port), kind]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("a model"))


@pytest.fixture
def start(model: Path, tmp_path: Path) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Starts a process that serves, with a stand-in, until it is killed."""
    started: list[subprocess.Popen[str]] = []

    def begin(kind: str) -> subprocess.Popen[str]:
        words = [sys.executable, "-c", STARTER.format(kind=kind, model=str(model), logs=str(tmp_path))]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        started.append(subprocess.Popen(words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def mine(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[int]]:
    """The living processes that the test started, by a variable of their environment, whoever their parent is by now.

    Not all that are below this one: it may have a Slurm cluster, whose jobs come and go.
    """
    mark = f"STARTED_BY_TEST={secrets.token_hex(8)}"
    monkeypatch.setenv(*mark.split("="))
    return lambda: [int(entry.parent.name) for entry in Path("/proc").glob("[0-9]*/environ") if has(entry, mark)]


def has(environment: Path, mark: str) -> bool:
    with suppress(OSError):
        return mark.encode() in environment.read_bytes().split(b"\0") and alive(int(environment.parent.name))
    return False


def gone(pids: list[int], seconds: float = 30.0) -> bool:
    """Whether all have ended, dead ones that nobody has asked for yet included."""
    deadline = time.monotonic() + seconds
    while (left := any(map(alive, pids))) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not left


def alive(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def listening(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


# --- the end -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "fails"), [("answers", False), ("answers", True), ("stubborn", False)])
def test_after_the_block_no_process_is_left(kind, fails, mine, model, tmp_path, monkeypatch):
    monkeypatch.setattr(servers, "command", stand_in(kind))
    with suppress(ZeroDivisionError), serving(model, Settings(replicas=2), tmp_path) as found:
        pids = mine()
        if fails:
            raise ZeroDivisionError
    assert len(pids) == 6  # for each replica a guard, the server, its child
    assert len({server.port for server in found}) == len({server.key for server in found}) == 2
    assert gone(pids, 0.0)
    assert not any(listening(server.port) for server in found)


@pytest.mark.parametrize(
    ("kind", "number"),
    [("answers", signal.SIGTERM), ("answers", signal.SIGINT), ("answers", signal.SIGKILL), ("silent", signal.SIGKILL)],
)
def test_whatever_ends_the_starter_ends_every_process_of_the_server_ready_or_not(kind, number, start):
    starter = start(kind)
    deadline = time.monotonic() + 60
    while len(pids := below(starter.pid)) < 3 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(pids) == 3 and (kind == "silent" or starter.stdout.readline())
    starter.send_signal(number)
    starter.wait(timeout=60)
    assert gone(pids)


def test_a_guard_that_is_killed_takes_the_server_with_it_and_the_block_cleans_up_the_rest(model, tmp_path, monkeypatch):
    monkeypatch.setattr(servers, "command", stand_in("answers"))
    with serving(model, Settings(), tmp_path) as (server,):
        first, second = below(server.guard.pid)
        os.kill(server.guard.pid, signal.SIGKILL)
        assert gone([first])
        with pytest.raises(ServerError, match=r"the server ended \(exit code -9\)"):
            server.guard.wait()
            server.check()
        assert alive(second)
    assert gone([second], 5.0)


# --- the beginning -----------------------------------------------------------------------------


def test_a_server_that_dies_is_told_with_its_first_error_and_the_end_of_its_log(mine, model, tmp_path, monkeypatch):
    monkeypatch.setattr(servers, "command", stand_in("dies"))
    (tmp_path / "vllm-0.log").write_text("KeyError: of an earlier start\n")
    with pytest.raises(ServerError) as caught, serving(model, Settings(), tmp_path):
        pass
    said = str(caught.value).splitlines()
    assert said[0] == f"{tmp_path}/vllm-0.log: the server ended (exit code 3); its log says:"
    assert said[1:3] == ["ValueError: found no such architecture", "..."]
    assert said[-1] == "frame 99" and len(said) == 3 + 20
    assert (tmp_path / "vllm-0.log").read_text().startswith("KeyError: of an earlier start\n")
    assert gone(mine(), 5.0)


def test_a_server_that_is_not_ready_in_time_is_ended_and_told(mine, model, tmp_path, monkeypatch):
    monkeypatch.setattr(servers, "command", stand_in("silent"))
    said = r"vllm-0.log: the server was not ready after 0.5 s; its log says"
    with pytest.raises(ServerError, match=said), serving(model, Settings(ready_seconds=0.5), tmp_path):
        pass
    assert gone(mine(), 5.0)


def test_a_port_that_is_held_is_given_to_nobody_else():
    held = servers._port_held()
    with held, socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(held.getsockname())


def test_a_folder_without_a_model_is_refused_before_anything_starts(tmp_path):
    said = r"found no config.json, expected the folder of a model"
    with pytest.raises(UserError, match=said), serving(tmp_path, Settings(), tmp_path):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("max_modle_len", r"study.vllm.max_modle_len: found an option that vLLM \S+ lacks, .*nearest: `max_model_len`"),
        ("swap_space", r"study.vllm.swap_space: found an option that vLLM \S+ lacks"),
        ("trust_remote_code", r"set elsewhere, expected nothing: no code that comes with a model is run"),
        ("tensor_parallel_size", r"set elsewhere, expected the key `tensor_parallel`"),
    ],
)
def test_an_option_that_vllm_lacks_or_that_is_ours_is_refused_before_anything_starts(name, said, model, tmp_path):
    wrong = Settings(options={name: 1}, where="study.vllm")
    with pytest.raises(UserError, match=said), serving(model, wrong, tmp_path / "logs"):
        pass
    assert not (tmp_path / "logs").exists()


def test_the_options_are_the_fields_of_the_installed_vllm():
    script = "import dataclasses, vllm; print(*(f.name for f in dataclasses.fields(vllm.AsyncEngineArgs)))"
    done = warm.run([sys.executable, "-c", script])
    assert done.returncode == 0, done.stderr
    assert engine_options() == set(done.stdout.splitlines()[-1].split())


def test_options_become_the_flags_of_vllm_serve():
    options = {"max_model_len": 64, "enforce_eager": True, "enable_prefix_caching": False, "dtype": "float32"}
    check_options(options, "here")
    typed = servers.command("m", 5000, Settings(options=options | {"a_list": ["x", "y"], "a_map": {"b": 1}}), "0")
    assert typed[typed.index("--max-model-len=64") :] == [
        *("--max-model-len=64", "--enforce-eager", "--no-enable-prefix-caching", "--dtype=float32"),
        *("--a-list", "x", "y", '--a-map={"b": 1}'),
    ]


def test_each_replica_has_its_own_gpus_and_too_few_are_refused():
    two = Settings(replicas=2, tensor_parallel=2, where="expert")
    assert device_groups(["4", "5", "GPU-a", "7", "8"], two) == ["4,5", "GPU-a,7"]
    assert device_groups([], two) == [None, None]
    with pytest.raises(UserError, match=r"expert: found 3 GPUs \(0,1,2\), expected 4: 2 replicas of 2"):
        device_groups(["0", "1", "2"], two)


def test_a_server_is_on_loopback_reports_to_nobody_and_belongs_to_no_other_world(monkeypatch):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("MASTER_PORT", "29500")
    settings = Settings(threads=2, environment={"VLLM_BATCH_INVARIANT": "1"})
    told = servers.environment(settings, None, "secret")
    assert not {"RANK", "MASTER_PORT"} & told.keys()
    assert (told["OMP_NUM_THREADS"], told["VLLM_NO_USAGE_STATS"], told["VLLM_BATCH_INVARIANT"]) == ("2", "1", "1")
    assert servers.environment(settings, "4,5", "secret")["CUDA_VISIBLE_DEVICES"] == "4,5"
    typed = servers.command("folder", 5000, settings, None)
    assert typed[typed.index("--host") + 1] == "127.0.0.1" and "secret" not in typed
    # Without a GPU vLLM would die of a seeded prompt that it divides; the options of a study have the last word.
    assert "--no-enable-chunked-prefill" in typed
    assert not any("chunked" in word for word in servers.command("folder", 5000, settings, "4,5"))
    mine = servers.command("folder", 5000, Settings(options={"enable_chunked_prefill": True}), None)
    assert "--enable-chunked-prefill" in mine and "--no-enable-chunked-prefill" not in mine
