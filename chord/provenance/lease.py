"""One owner for a run folder at a time, on one machine or many; a dead owner is followed by exactly one other.

`lease.json` names the owner and is there only while somebody owns the folder. Taking and giving back happen under a
short lock (flock on `lease.lock`), so two processes cannot both find a dead owner and both follow it. The owner
touches `lease.json` every few seconds. Seen from its own machine an owner is dead when its process is gone; seen from
another, when it has not touched the file for two minutes by the clock of the file system.
"""

import atexit
import json
import os
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from chord.errors import UserError
from chord.provenance.files import Process, lives, lock, this_process, write_atomically
from chord.reach import decides_nothing

HEARTBEAT_SECONDS = 10.0
SILENCE_SECONDS = 120.0
POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Owner:
    """Who holds a folder; `token` is new for each holding."""

    host: str
    machine: str
    pid: int
    started: str
    job: str | None
    since: str
    token: str

    def __str__(self) -> str:
        job = f", job {self.job}" if self.job else ""
        return f"process {self.pid} on {self.host}{job}, since {self.since}"


@decides_nothing("who may work now is no part of what is made")
class Lease:
    """A folder owned by this process until `release`, the end of a `with` block, or the end of the process."""

    def __init__(self, folder: Path, owner: Owner) -> None:
        self.folder = folder
        self.owner = owner
        self._path = folder / "lease.json"
        self._released = threading.Event()
        self._heart = threading.Thread(target=self._beat, name=f"lease of {folder}", daemon=True)
        self._heart.start()
        atexit.register(self.release)

    @classmethod
    def acquire(cls, folder: Path, wait: bool = False, wait_if_unseen: bool = False) -> Self:
        """The lease of `folder`, which is made if need be. Raises UserError naming a living owner, or waits for it.

        With `wait_if_unseen` an owner on another machine is waited for until it shows that it lives, then refused, or
        has been silent for two minutes: after the death of a node its job is soon started again on another one.
        """
        folder.mkdir(parents=True, exist_ok=True)
        me = this_process()
        since = datetime.now(UTC).isoformat(timespec="seconds")
        owner = Owner(**asdict(me), job=os.environ.get("SLURM_JOB_ID"), since=since, token=uuid.uuid4().hex)
        touched: float | None = None
        while True:
            with _locked(folder):
                found = _living_owner(folder)
                if found is None:
                    write_atomically(folder / "lease.json", json.dumps(asdict(owner)) + "\n")
                    return cls(folder, owner)
            other, unseen_since = found
            in_doubt = unseen_since is not None and touched in (None, unseen_since)
            touched = unseen_since
            if not (wait or (wait_if_unseen and in_doubt)):
                raise UserError(
                    f"{folder}: found it in use by {other}, expected no other owner; wait for it or stop it"
                )
            time.sleep(POLL_SECONDS)

    def check(self) -> None:
        """Raises UserError if another took the folder, for instance while this process was suspended for minutes."""
        found = _read(self._path)
        if found is None or found.token != self.owner.token:
            whom = f"owned by {found}" if found else "without its lease"
            raise UserError(f"{self.folder}: found it {whom}, expected this process to own it; nothing more is written")

    def release(self) -> None:
        """Give the folder back; nothing happens the second time, in a forked child, or if another took it."""
        atexit.unregister(self.release)
        if self._released.is_set() or os.getpid() != self.owner.pid:
            return
        self._released.set()
        self._heart.join()
        with suppress(FileNotFoundError), _locked(self.folder):
            found = _read(self._path)
            if found is not None and found.token == self.owner.token:
                self._path.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def _beat(self) -> None:
        while not self._released.wait(HEARTBEAT_SECONDS):
            with suppress(OSError):
                found = _read(self._path)
                if found is not None and found.token == self.owner.token:
                    os.utime(self._path)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    handle = os.open(folder / "lease.lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        lock(handle, folder)
        yield
    finally:
        os.close(handle)


def _living_owner(folder: Path) -> tuple[Owner | str, float | None] | None:
    """Who owns the folder and still lives; and when it last said so, where nobody here can see. Under the lock."""
    path = folder / "lease.json"
    try:
        touched = path.stat().st_mtime
    except FileNotFoundError:
        return None
    owner = _read(path)
    alive = lives(Process(owner.host, owner.machine, owner.pid, owner.started)) if owner else None
    if alive is not None:
        return (owner, None) if owner and alive else None
    os.utime(folder / "lease.lock")  # the file server's clock, which also stamps the owner's touches
    if (folder / "lease.lock").stat().st_mtime - touched >= SILENCE_SECONDS:
        return None
    return owner or "an owner whose lease.json is damaged", touched


def _read(path: Path) -> Owner | None:
    try:
        return Owner(**json.loads(path.read_bytes()))
    except (FileNotFoundError, ValueError, TypeError):
        return None
