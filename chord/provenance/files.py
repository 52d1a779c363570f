"""Files that are whole or absent, and verbs that fail in one line. Knows no record, no config and no maths.

What is written here first lies beside its final name as `.NAME.new.MACHINE+PID+STARTED+N`. A process that dies
leaves that behind; the next one that writes the same name removes it.
"""

import ctypes
import errno
import fcntl
import itertools
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

from chord.plain import settle_output
from chord.provenance.processes import Process, lives, this_process

STRANGERS_KEPT_SECONDS = 24 * 3600
_counter = itertools.count()
_DISK = {
    errno.ENOSPC: "found the disk full, expected room to write; free some space and run it again",
    errno.EFBIG: "found the limit on file sizes reached, expected room to write; raise it (ulimit -f) and retry",
    errno.EDQUOT: "found the disk quota used up, expected room to write; free some space and run it again",
    errno.EROFS: "found a read-only file system, expected one that can be written",
    errno.EACCES: "found no permission, expected to be allowed to read or write it",
}


class UserError(Exception):
    """Something the caller of a verb can mend; the message says what was found, what was expected, what to do."""


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
    except _mendable() as error:
        _complain(name, str(error))
    sys.exit(code)


def _mendable() -> tuple[type[Exception], ...]:
    from chord.records import RecordError
    from chord.settings import ConfigError

    return UserError, ConfigError, RecordError


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
