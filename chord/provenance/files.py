"""Files that are whole or absent, and verbs that fail in one line. Knows no record, no config and no maths.

What is written here first lies beside its final name as `.NAME.new.MACHINE+PID+STARTED+N`. A process that dies
leaves that behind; the next one that writes the same name removes it.
"""

import ctypes
import errno
import fcntl
import hashlib
import itertools
import os
import shutil
import signal
import socket
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import FrameType
from typing import NoReturn

from chord.errors import UserError
from chord.provenance.cli import settle_output
from chord.reach import decides_nothing

# --- files ---------------------------------------------------------------------------------------

STRANGERS_KEPT_SECONDS = 24 * 3600
_counter = itertools.count()
_DISK = {
    errno.ENOSPC: "found the disk full, expected room to write; free some space and run it again",
    errno.EFBIG: "found the limit on file sizes reached, expected room to write; raise it (ulimit -f) and retry",
    errno.EDQUOT: "found the disk quota used up, expected room to write; free some space and run it again",
    errno.EROFS: "found a read-only file system, expected one that can be written",
    errno.EACCES: "found no permission, expected to be allowed to read or write it",
}


class Terminated(SystemExit):
    """A signal asked the process to end; open folders are removed, the ledger and the lease are closed on the way."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.signal = signal.Signals(number).name


# --- whole files -------------------------------------------------------------------------------


def write_atomically(path: Path, content: str | bytes) -> None:
    """`path` holds all of `content`, on disk, or is what it was before. Makes the folder it lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path)
    beside = _beside(path)
    try:
        with beside.open("xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except IsADirectoryError:
        raise UserError(f"{path}: found a folder, expected a file or nothing; move it away") from None
    finally:
        beside.unlink(missing_ok=True)
    sync_folder(path.parent)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A new empty folder that becomes `path` when the block ends well, in place of what was there.

    Under the name `path` there is at every moment the old folder, whole, or the new one, whole (or nothing, if there
    was none before; on file systems that cannot exchange two names also for an instant between two renames).
    """
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise UserError(f"{path}: found a file or a link, expected a folder or nothing; move it away")
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path)
    beside = _beside(path)
    beside.mkdir()
    try:
        yield beside
        _sync_tree(beside)
        if not path.exists():
            beside.rename(path)
        elif not _exchange(beside, path):
            aside = _beside(path)
            path.rename(aside)
            beside.rename(path)
            shutil.rmtree(aside)
        sync_folder(path.parent)
    finally:
        if beside.exists():
            shutil.rmtree(beside)


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


def _sync_tree(folder: Path) -> None:
    for inside, _, names in os.walk(folder):
        for name in names:
            path = Path(inside, name)
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


def _beside(path: Path) -> Path:
    me = this_process()
    return path.with_name(f".{path.name}.new.{me.machine}+{me.pid}+{me.started}+{next(_counter)}")


def _remove_leftovers(path: Path) -> None:
    """Remove what dead attempts at `path` left; what another machine wrote only after a day."""
    prefix = f".{path.name}.new."
    for leftover in path.parent.iterdir():
        parts = leftover.name.removeprefix(prefix).split("+")
        if not leftover.name.startswith(prefix) or len(parts) != 4 or not parts[1].isdigit():
            continue
        writer = Process(this_process().host, parts[0], int(parts[1]), parts[2])
        with suppress(FileNotFoundError):
            alive = lives(writer)
            if alive is None:
                alive = time.time() - leftover.lstat().st_mtime < STRANGERS_KEPT_SECONDS
            if not alive:
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


# --- verbs -------------------------------------------------------------------------------------


def run_verb(name: str, main: Callable[[], int | None]) -> NoReturn:
    """Run `main` as the program `name` and exit: 0 or what it returns; 2 and one line where the user can mend it."""
    settle_output()
    _end_in_order()
    try:
        code = main() or 0
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except OSError as error:
        if error.errno not in _DISK:
            raise
        _complain(name, f"{error.filename or 'while writing'}: {_DISK[error.errno]}")
    except UserError as error:
        _complain(name, str(error))
    sys.exit(code)


def _complain(name: str, message: str) -> NoReturn:
    for line in message.splitlines() or ["failed without a message"]:
        print(f"{name}: {line}", file=sys.stderr)
    sys.exit(2)


def _end_in_order() -> None:
    """Make SIGTERM and SIGHUP raise `Terminated`; in a forked child they go on to end the process at once."""
    installed_by = os.getpid()

    def terminate(number: int, frame: FrameType | None) -> NoReturn:
        if os.getpid() != installed_by:
            os._exit(128 + number)
        signal.signal(number, signal.SIG_IGN)
        raise Terminated(number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, terminate)


# --- processes -----------------------------------------------------------------------------------

# Which process is this, does that one still live, and which ones belong to a Snakemake of a folder.
#
# Reads /proc where there is one; knows no file of ours.

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
    started = _started(process.pid)
    if started is not None:
        return started == process.started
    if Path("/proc/self/stat").exists():
        return False
    try:
        os.kill(process.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@dataclass(frozen=True)
class JobProcess:
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
    own: int | None = os.getpid()
    while own is not None and (process := found.pop(own, None)):
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
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]


# --- hashing -------------------------------------------------------------------------------------

# What a file or folder contains, as one hash. Reads every byte, believes no cache, knows no manifest.

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
