"""What a file or folder contains, as one hash. Reads every byte, believes no cache, knows no manifest."""

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

from chord.provenance.files import UserError

# Snakemake puts it into every folder that a job made, after the job; it is no part of what was made.
TIMESTAMP = ".snakemake_timestamp"


def file_sha256(path: Path) -> str:
    """SHA-256 of the bytes of a file of any size, in hex."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise UserError(f"{path}: found no such file, expected one that can be read; make it first") from None
    except IsADirectoryError:
        raise UserError(f"{path}: found a folder, expected a file") from None


def tree_hash(folder: Path, of_file: Callable[[Path], str] = file_sha256) -> str:
    """Merkle root over the folder's entries, sorted by name: empty folders and names count, times and modes do not.

    Snakemake's own mark in the folder is left out.

    Leaf: the file's SHA-256. Node: SHA-256 over one line `file|folder HASH NAME` an entry, names as bytes,
    a backslash before line breaks and backslashes. Raises UserError for a link or a special file.
    `of_file` reads one file; it may count on the way what it reads.
    """
    try:
        entries = sorted(
            (entry for entry in os.scandir(folder) if entry.name != TIMESTAMP),
            key=lambda entry: os.fsencode(entry.name),
        )
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{folder}: found no such folder, expected one that can be read; make it first") from None
    lines: list[bytes] = []
    for entry in entries:
        path = Path(entry.path)
        kind = "folder" if entry.is_dir(follow_symlinks=False) else "file"
        name = os.fsencode(entry.name).replace(b"\\", b"\\\\").replace(b"\n", b"\\n")
        lines.append(f"{kind} {content_hash(path, of_file)} ".encode() + name + b"\n")
    return hashlib.sha256(b"tree\n" + b"".join(lines)).hexdigest()


def content_hash(path: Path, of_file: Callable[[Path], str] = file_sha256) -> str:
    """The hash of a file, `tree_hash` of a folder. Raises UserError for a link, a device, a pipe or nothing."""
    mode = _mode(path)
    if stat.S_ISDIR(mode):
        return tree_hash(path, of_file)
    if stat.S_ISREG(mode):
        return of_file(path)
    found = "a symbolic link" if stat.S_ISLNK(mode) else "a device, a pipe or a socket"
    raise UserError(f"{path}: found {found}, expected a file or folder of its own; put a copy in its place")


def size_bytes(path: Path) -> int:
    """Bytes in a file, or in all files of a folder."""
    if path.is_dir():
        return sum(Path(inside, name).lstat().st_size for inside, _, names in os.walk(path) for name in names)
    return path.stat().st_size


def _mode(path: Path) -> int:
    try:
        return path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path}: found nothing there, expected a file or folder; make it first") from None
