"""Property: a run folder has one owner at any time, a living one is named, a dead one is followed by exactly one."""

import json
import os
import re
import signal
import socket
import time
from pathlib import Path

import pytest

from chord.errors import UserError
from chord.provenance import files as leases
from chord.provenance.files import Lease
from tests.projects import started

HOLD = """
import sys, time
from pathlib import Path
from chord.provenance.files import Lease
lease = Lease.acquire(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.readline()
"""


def forge(folder: Path, silent_for: float = 0.0, **fields: object) -> None:
    """A lease as this process would hold it, but for `fields`, last touched `silent_for` seconds ago."""
    with Lease.acquire(folder):
        found = json.loads((folder / "lease.json").read_text())
    (folder / "lease.json").write_text(json.dumps({**found, **fields}))
    os.utime(folder / "lease.json", (time.time() - silent_for,) * 2)


def test_the_second_owner_is_refused_and_told_who_is_the_first(tmp_path):
    with started(HOLD, tmp_path, SLURM_JOB_ID="4711") as first:
        first.stdout.readline()
        with pytest.raises(UserError) as refused:
            Lease.acquire(tmp_path)
        first.stdin.close()
    who = f"process {first.pid} on {re.escape(socket.gethostname())}"
    said = who + r", job 4711, since 20..-..-..T..:..:..[+]00:00, expected"
    assert re.search(said, str(refused.value))
    assert str(tmp_path) in str(refused.value)


def test_a_process_cannot_take_a_folder_twice_but_can_take_it_again(tmp_path):
    with Lease.acquire(tmp_path), pytest.raises(UserError, match=f"process {os.getpid()} on"):
        Lease.acquire(tmp_path)
    with Lease.acquire(tmp_path / "other"), Lease.acquire(tmp_path):
        pass


@pytest.mark.parametrize("buried", [True, False])
def test_an_owner_that_was_killed_is_followed_at_once(tmp_path, buried):
    with started(HOLD, tmp_path) as first:
        first.stdout.readline()
        os.kill(first.pid, signal.SIGKILL)
        if buried:
            first.wait()
        else:
            os.waitid(os.P_PID, first.pid, os.WEXITED | os.WNOWAIT)
        began = time.monotonic()
        with Lease.acquire(tmp_path) as lease:
            lease.check()
        assert time.monotonic() - began < 2


def test_a_process_that_got_the_number_of_the_dead_owner_is_not_taken_for_it(tmp_path):
    forge(tmp_path, started="12345")
    with Lease.acquire(tmp_path):
        pass


@pytest.mark.parametrize("other", [{"host": "elsewhere"}, {"machine": "another-boot"}])
def test_an_owner_elsewhere_lives_while_it_is_not_silent_for_two_minutes(tmp_path, other):
    forge(tmp_path, silent_for=115, **other)
    with pytest.raises(UserError, match=r"found it in use by"):
        Lease.acquire(tmp_path)
    forge_silence = time.time() - 125
    os.utime(tmp_path / "lease.json", (forge_silence, forge_silence))
    with Lease.acquire(tmp_path):
        pass


def test_the_owner_shows_that_it_lives(tmp_path, monkeypatch):
    monkeypatch.setattr(leases, "HEARTBEAT_SECONDS", 0.02)
    path = tmp_path / "lease.json"
    with Lease.acquire(tmp_path):
        os.utime(path, (1, 1))
        deadline = time.monotonic() + 10
        while path.stat().st_mtime < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert time.time() - path.stat().st_mtime < 10


def test_of_many_that_find_a_dead_owner_exactly_one_follows(tmp_path):
    code = """
import os, sys, time
from pathlib import Path
from chord.errors import UserError
from chord.provenance.files import Lease
print("ready", flush=True)
for line in sys.stdin:
    while time.time() < float(line.split()[1]):
        pass
    try:
        lease = Lease.acquire(Path(line.split()[0]))
        print("won", flush=True)
    except UserError as error:
        print("refused" if "found it in use by process" in str(error) else error, flush=True)
"""
    racers = [started(code) for _ in range(8)]
    for racer in racers:
        racer.stdout.readline()
    for round_number in range(10):
        folder = tmp_path / str(round_number)
        forge(folder, started="12345")
        at = time.time() + 0.05
        for racer in racers:
            racer.stdin.write(f"{folder} {at}\n")
            racer.stdin.flush()
        said = [racer.stdout.readline().strip() for racer in racers]
        assert sorted(said) == ["refused"] * 7 + ["won"]
    for racer in racers:
        racer.communicate()


@pytest.mark.parametrize("end", ["", "raise SystemExit(3)", "raise ValueError", "lease.release()"])
def test_a_process_that_ends_gives_its_folder_back(tmp_path, end):
    with started(HOLD + end, tmp_path) as first:
        first.stdout.readline()
        first.stdin.close()
        first.wait(timeout=30)
    assert not (tmp_path / "lease.json").exists()


def test_a_forked_child_that_ends_does_not_give_the_folder_back(tmp_path):
    code = """
import os, sys
from pathlib import Path
from chord.provenance.files import Lease
with Lease.acquire(Path(sys.argv[1])) as lease:
    if os.fork() == 0:
        sys.exit()
    os.wait()
    lease.check()
    print("still held")
"""
    with started(code, tmp_path) as process:
        said, errors = process.communicate(timeout=30)
    assert (said, errors) == ("still held\n", "")
    assert not (tmp_path / "lease.json").exists()


def test_an_owner_that_was_thought_dead_learns_it_and_leaves_its_follower_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(leases, "HEARTBEAT_SECONDS", 0.02)
    path = tmp_path / "lease.json"
    with Lease.acquire(tmp_path) as suspended:
        follower = json.dumps({**json.loads(path.read_text()), "host": "elsewhere", "token": "another"})
        path.write_text(follower)
        os.utime(path, (1, 1))
        time.sleep(0.2)
        with pytest.raises(UserError, match=r"owned by process .* on elsewhere"):
            suspended.check()
        assert path.stat().st_mtime == 1
    assert path.read_text() == follower


def test_an_owner_elsewhere_that_falls_silent_is_waited_for_and_followed(tmp_path, monkeypatch):
    monkeypatch.setattr(leases, "POLL_SECONDS", 0.05)
    forge(tmp_path, silent_for=leases.SILENCE_SECONDS - 1.5, host="elsewhere")
    began = time.monotonic()
    with Lease.acquire(tmp_path, wait_if_unseen=True) as lease:
        lease.check()
    assert 0.5 < time.monotonic() - began < 30


def test_an_owner_elsewhere_that_shows_that_it_lives_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(leases, "POLL_SECONDS", 0.05)
    forge(tmp_path, silent_for=60, host="elsewhere")
    with started(HOLD.replace("Path(sys.argv[1])", "Path(sys.argv[1]), wait_if_unseen=True"), tmp_path) as waiter:
        time.sleep(2)
        assert waiter.poll() is None, "it may be dead: nobody has heard of it for a minute"
        os.utime(tmp_path / "lease.json")
        assert waiter.wait(timeout=30) == 1
        assert "found it in use by process" in waiter.stderr.read()
    with started(HOLD, tmp_path / "here") as first, pytest.raises(UserError, match="in use by process"):
        first.stdout.readline()
        Lease.acquire(tmp_path / "here", wait_if_unseen=True)


def test_a_damaged_lease_is_respected_until_it_is_old(tmp_path):
    (tmp_path / "lease.json").write_text('{"host": "el')
    with pytest.raises(UserError, match=r"lease\.json is damaged"):
        Lease.acquire(tmp_path)
    os.utime(tmp_path / "lease.json", (1, 1))
    with Lease.acquire(tmp_path):
        pass
