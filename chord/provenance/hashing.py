"""What a file or folder contains, as one hash. Reads every byte, believes no cache, knows no manifest."""

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from chord.provenance.files import UserError

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
