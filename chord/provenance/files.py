"""Files that are whole or absent, folders with one owner at a time, and hashes of what files and folders contain.

What is written here first lies beside its final name as `.NAME.new.MACHINE+PID+STARTED+N`. A process that dies
leaves that behind; the next one that writes the same name removes it.
"""

import atexit
import ctypes
import errno
import fcntl
import hashlib
import itertools
import json
import os
import shutil
import socket
import stat
import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import NamedTuple, Self

from chord.errors import UserError
from chord.reach import decides_nothing

# --- whole files -------------------------------------------------------------------------------

STRANGERS_KEPT_SECONDS = 24 * 3600
_counter = itertools.count()


def write_atomically(path: Path, content: str | bytes) -> None:
    """`path` holds all of `content`, on disk, or is what it was before. Makes the folder it lies in."""
    with _beside(path) as beside:
        with beside.open("xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.replace(beside, path)
        except IsADirectoryError:
            raise UserError(f"{path}: found a folder, expected a file or nothing; move it away") from None


@contextmanager
def atomic_folder(path: Path) -> Generator[Path]:
    """A new empty folder that becomes `path` when the block ends well, in place of what was there.

    Under the name `path` there is at every moment the old folder, whole, or the new one, whole (or nothing, if there
    was none before; on file systems that cannot exchange two names also for an instant between two renames).
    """
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise UserError(f"{path}: found a file or a link, expected a folder or nothing; move it away")
    with _beside(path) as beside:
        beside.mkdir()
        yield beside
        _sync_tree(beside)
        if not path.exists():
            beside.rename(path)
        elif not _exchange(beside, path):
            with _beside(path) as aside:
                path.rename(aside)
                beside.rename(path)


@contextmanager
def _beside(path: Path) -> Generator[Path]:
    """A free name in the folder of `path`, which is made; what has that name in the end is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path)
    me = this_process()
    beside = path.with_name(f".{path.name}.new.{me.machine}+{me.pid}+{me.started}+{next(_counter)}")
    try:
        yield beside
        sync_folder(path.parent)
    finally:
        _remove(beside)


def _remove_leftovers(path: Path) -> None:
    """Remove what dead attempts at `path` left; what another machine wrote only after a day."""
    prefix = f".{path.name}.new."
    for leftover in path.parent.iterdir():
        parts = leftover.name.removeprefix(prefix).split("+")
        if not leftover.name.startswith(prefix) or len(parts) != 4 or not parts[1].isdigit():
            continue
        alive = lives(Process(this_process().host, parts[0], int(parts[1]), parts[2]))
        with suppress(FileNotFoundError):
            if alive is None:
                alive = time.time() - leftover.lstat().st_mtime < STRANGERS_KEPT_SECONDS
            if not alive:
                _remove(leftover)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """New and renamed names in `folder` outlive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot sync a folder
            raise
    finally:
        os.close(handle)


def _sync_tree(folder: Path) -> None:
    for inside, _, names in os.walk(folder):
        for path in (Path(inside, name) for name in names):
            if path.is_file() and not path.is_symlink():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        sync_folder(Path(inside))


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step (Linux renameat2); False where system or file system cannot."""
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    if rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
        return False
    raise OSError(number, os.strerror(number), str(other))


# --- processes -----------------------------------------------------------------------------------

# The Snakefile sets it to its folder, so that every job and all below it carry it, whatever becomes of their parents.
SNAKEMAKE_IN = "CHORD_SNAKEMAKE_IN"


@dataclass(frozen=True)
class Process:
    """A process that no other can be taken for: the start time tells it from a later one with the same number."""

    host: str
    machine: str  # boot and pid namespace: process numbers mean the same only where this is equal
    pid: int
    started: str  # clock ticks since boot; empty where there is no /proc


@decides_nothing("it tells processes apart")
def this_process() -> Process:
    """The calling process."""
    pid = os.getpid()
    return Process(socket.gethostname(), _machine(), pid, _started(pid) or "")


@decides_nothing("it tells processes apart")
def lives(process: Process) -> bool | None:
    """Whether `process` still runs; None if it belongs to another machine, where nobody here can see."""
    if (process.host, process.machine) != (socket.gethostname(), _machine()):
        return None
    if Path("/proc/self/stat").exists():
        return _started(process.pid) == process.started
    try:
        os.kill(process.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


class JobProcess(NamedTuple):
    """A process of a Snakemake job: the number of its parent, and its command line."""

    parent: int
    command: tuple[str, ...]


def job_processes(folder: Path) -> dict[int, JobProcess]:
    """Processes on this machine that a Snakemake of `folder` started, by number; not this one or those above it."""
    found: dict[int, JobProcess] = {}
    mark = f"{SNAKEMAKE_IN}={folder.resolve()}".encode()
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, parent = (place / "stat").read_text().rpartition(")")[2].split()[:2]
            if state not in "ZX" and mark in (place / "environ").read_bytes().split(b"\0"):
                words = (place / "cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
                found[int(place.name)] = JobProcess(int(parent), tuple(words))
    own = os.getpid()
    while process := found.pop(own, None):
        own = process.parent
    return found


@cache
def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot[:13]}.{os.readlink('/proc/self/ns/pid').strip('pid:[]')}"
    except OSError:
        return "no-proc"


def _started(pid: int) -> str | None:
    """Field 22 of /proc/PID/stat; None for a process that is gone, or dead and only waiting for its parent (zombie)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


# --- leases --------------------------------------------------------------------------------------

# `lease.json` names the owner of a run folder and is there only while somebody owns it. Taking and giving back happen
# under a short lock (flock on `lease.lock`), so two processes cannot both find a dead owner and both follow it. The
# owner touches `lease.json` every few seconds. Seen from its own machine an owner is dead when its process is gone;
# seen from another, when it has not touched the file for two minutes by the clock of the file system.
HEARTBEAT_SECONDS = 10.0
SILENCE_SECONDS = 120.0
POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Owner(Process):
    """Who holds a folder; `token` is new for each holding."""

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
        self._folder, self._owner, self._path = folder, owner, folder / "lease.json"
        self._released = threading.Event()
        self._heart = threading.Thread(target=self._beat, name=f"lease of {folder}", daemon=True)
        self._heart.start()
        atexit.register(self.release)

    @classmethod
    def acquire(cls, folder: Path, wait_if_unseen: bool = False) -> Self:
        """The lease of `folder`, which is made if need be. Raises UserError that names a living owner.

        With `wait_if_unseen` an owner on another machine is waited for until it shows that it lives, then refused, or
        has been silent for two minutes: after the death of a node its job is soon started again on another one.
        """
        folder.mkdir(parents=True, exist_ok=True)
        since = datetime.now(UTC).isoformat(timespec="seconds")
        job, token = os.environ.get("SLURM_JOB_ID"), uuid.uuid4().hex
        owner = Owner(**asdict(this_process()), job=job, since=since, token=token)
        seen: float | None = None
        while True:
            with locked(folder / "lease.lock", folder):
                found = _living_owner(folder)
                if found is None:
                    write_atomically(folder / "lease.json", json.dumps(asdict(owner)) + "\n")
                    return cls(folder, owner)
            other, touched = found
            if not wait_if_unseen or touched is None or seen not in (None, touched):
                raise UserError(
                    f"{folder}: found it in use by {other}, expected no other owner; wait for it or stop it"
                )
            seen = touched
            time.sleep(POLL_SECONDS)

    def check(self) -> None:
        """Raises UserError if another took the folder, for instance while this process was suspended for minutes."""
        found = _owner(self._path)
        if found != self._owner:
            whom = f"owned by {found}" if found else "without its lease"
            expected = "expected this process to own it; nothing more is written"
            raise UserError(f"{self._folder}: found it {whom}, {expected}")

    def release(self) -> None:
        """Give the folder back; nothing happens the second time, in a forked child, or if another took it."""
        atexit.unregister(self.release)
        if self._released.is_set() or os.getpid() != self._owner.pid:
            return
        self._released.set()
        self._heart.join()
        with suppress(FileNotFoundError), locked(self._folder / "lease.lock", self._folder):
            if _owner(self._path) == self._owner:
                self._path.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def _beat(self) -> None:
        while not self._released.wait(HEARTBEAT_SECONDS):
            with suppress(OSError):
                if _owner(self._path) == self._owner:
                    os.utime(self._path)


@contextmanager
def locked(path: Path, shown: Path, flags: int = 0) -> Generator[int]:
    """The handle of a file, which is made if need be, under a `lock`."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | flags, 0o666)
    try:
        lock(handle, shown)
        yield handle
    finally:
        os.close(handle)


def lock(handle: int, shown: Path) -> None:
    """An exclusive lock (flock) on an open file, until it is closed; waits for who has it."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        raise UserError(
            f"{shown}: found a file system without locks, expected one where flock works; mount it so"
        ) from None


def _living_owner(folder: Path) -> tuple[Owner | str, float | None] | None:
    """Who owns the folder and still lives; and when it last said so, where nobody here can see. Under the lock."""
    path, clock = folder / "lease.json", folder / "lease.lock"
    try:
        touched = path.stat().st_mtime
    except FileNotFoundError:
        return None
    owner = _owner(path)
    alive = lives(owner) if owner else None
    if owner and alive is not None:
        return (owner, None) if alive else None
    os.utime(clock)  # the file server's clock, which also stamps the owner's touches
    if clock.stat().st_mtime - touched >= SILENCE_SECONDS:
        return None
    return owner or "an owner whose lease.json is damaged", touched


def _owner(path: Path) -> Owner | None:
    try:
        return Owner(**json.loads(path.read_bytes()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


# --- hashing -------------------------------------------------------------------------------------

# Snakemake puts it into every folder that a job made, after the job; it is no part of what was made.
TIMESTAMP = ".snakemake_timestamp"
OWN = "a file or folder; put a copy in its place"

Identity = tuple[int, int]  # device and inode


def file_sha256(path: Path) -> str:
    """SHA-256 of the bytes of a file of any size, in hex."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise UserError(f"{path}: found no such file, expected one that can be read; make it first") from None
    except IsADirectoryError:
        raise UserError(f"{path}: found a folder, expected a file") from None


def tree_hash(
    folder: Path, of_file: Callable[[Path], str] = file_sha256, above: frozenset[Identity] = frozenset()
) -> str:
    """Merkle root over the folder's entries, sorted by name: empty folders and names count, times and modes do not.

    A link counts as what it leads to. Snakemake's own mark in the folder is left out.

    Leaf: the file's SHA-256. Node: SHA-256 over one line `file|folder HASH NAME` an entry, names as bytes,
    a backslash before line breaks and backslashes. Raises UserError for a special file, and for a link to nothing or
    to a folder `above`. `of_file` reads one file; it may count on the way what it reads.
    """
    try:
        names = sorted((name for name in os.listdir(folder) if name != TIMESTAMP), key=os.fsencode)
        here = _identity(folder)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{folder}: found no such folder, expected one that can be read; make it first") from None
    if here in above:
        raise UserError(f"{folder}: found a link back to a folder above it, expected {OWN}")
    lines: list[bytes] = []
    for name in names:
        path = folder / name
        is_folder = stat.S_ISDIR(_mode(path))
        found = tree_hash(path, of_file, above | {here}) if is_folder else content_hash(path, of_file)
        escaped = os.fsencode(name).replace(b"\\", b"\\\\").replace(b"\n", b"\\n")
        lines.append(f"{'folder' if is_folder else 'file'} {found} ".encode() + escaped + b"\n")
    return hashlib.sha256(b"tree\n" + b"".join(lines)).hexdigest()


def content_hash(path: Path, of_file: Callable[[Path], str] = file_sha256) -> str:
    """The hash of a file, `tree_hash` of a folder, links followed. Raises UserError for a device, a pipe or nothing."""
    mode = _mode(path)
    if stat.S_ISDIR(mode):
        return tree_hash(path, of_file)
    if stat.S_ISREG(mode):
        return of_file(path)
    raise UserError(f"{path}: found a device, a pipe or a socket, expected {OWN}")


def size_bytes(path: Path) -> int:
    """Bytes in a file, or in all files of a folder; links followed."""
    files = [path] if path.is_file() else files_below(path)
    return sum(os.path.getsize(file) for file in files if os.path.exists(file))


def files_below(
    folder: Path,
    enters: Callable[[Path], bool] = lambda folder: True,
    above: frozenset[Identity] = frozenset(),
) -> Iterator[Path]:
    """Every file below a folder, in order of name, those of a folder before those of its folders; links followed.

    Left out are folders that it `enters` not, that cannot be read, and links that lead to a folder `above`.
    """
    try:
        here, paths = _identity(folder), sorted(folder.iterdir())
    except OSError:
        return
    if here in above:
        return
    yield from (path for path in paths if not os.path.isdir(path))
    for path in paths:
        if os.path.isdir(path) and enters(path):
            yield from files_below(path, enters, above | {here})


def _identity(folder: Path) -> Identity:
    """What tells a folder from all others, whatever name leads to it."""
    found = folder.stat()
    return found.st_dev, found.st_ino


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            raise UserError(f"{path}: found a link to nothing, expected {OWN}") from None
        raise UserError(f"{path}: found nothing there, expected a file or folder; make it first") from None
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise UserError(f"{path}: found a link that leads to itself, expected {OWN}") from None
