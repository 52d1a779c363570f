"""Hashes of what stands on the disk now: each file is read once, as a stream, and said to whoever counts bytes.

Nothing is believed, unless `quick` is asked for: then a file whose size, times and inode are those of the last reading
keeps its hash. Only then is anything written, where that can be: hashes.json, which is no evidence of anything. It may
be deleted at any time.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from chord.provenance.files import UserError, write_atomically
from chord.provenance.hashing import content_hash, size_bytes

CHUNK_BYTES = 1 << 20
KEPT = Path("provenance", "hashes.json")
# Some file systems count whole seconds: what was written just now could be written again and look untouched.
SETTLED_NS = 2_000_000_000


class Now(NamedTuple):
    """What a path holds now; where there is no hash, `problem` says why."""

    sha256: str | None
    bytes: int
    problem: str | None

    @property
    def is_missing(self) -> bool:
        """Whether nothing is there at all."""
        return self.sha256 is None and self.problem is None


@dataclass
class Hasher:
    """Reads the files of one study. `read` is told how many bytes were done with; hashes are kept in `kept`."""

    study: Path
    quick: bool = False
    read: Callable[[int], object] = lambda count: None
    bytes_read: int = 0
    kept: Path | None = None
    _known: dict[str, list[int | str]] = field(default_factory=dict)
    _is_new: bool = False

    def __post_init__(self) -> None:
        self.kept = self.kept or self.study / KEPT
        if self.quick:
            self._known = _read_known(self.kept)

    def now(self, path: Path) -> Now:
        """The content of a file or folder, or of what a link leads to."""
        return _now(path, self._known_or_read if self.quick else self._read)

    def still(self, path: Path, sha256: str) -> Now:
        """The content, as `now`; of what was kept, only what agrees with this hash is believed."""
        found = self.now(path)
        return _now(path, self._read) if self.quick and found.sha256 not in (None, sha256) else found

    def keep(self) -> None:
        """Leave the hashes for a later `quick` reading, if there are new ones; where none can be written, none are."""
        if self.kept and self._is_new:
            with suppress(OSError, UserError):
                write_atomically(self.kept, json.dumps(self._known, sort_keys=True) + "\n")

    def _known_or_read(self, path: Path) -> str:
        known = self._known.get(os.path.relpath(path, self.study))
        if known and known[:4] == _stamp(path):
            self.read(os.path.getsize(path))
            return str(known[4])
        return self._read(path)

    def _read(self, path: Path) -> str:
        stamp, began = _stamp(path), time.time_ns()
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
                self.bytes_read += len(chunk)
                self.read(len(chunk))
        if began - stamp[2] > SETTLED_NS:
            self._known[os.path.relpath(path, self.study)] = [*stamp, digest.hexdigest()]
            self._is_new = True
        return digest.hexdigest()


def _stamp(path: Path) -> list[int]:
    """Size, times and inode: other numbers after any write, whatever was put in the file's place."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def _now(path: Path, of_file: Callable[[Path], str]) -> Now:
    if not os.path.lexists(path):
        return Now(None, 0, None)
    try:
        return Now(content_hash(path, of_file), size_bytes(path), None)
    except UserError as error:
        return Now(None, 0, str(error).partition("found ")[2].partition(", expected")[0])
    except OSError as error:
        return Now(None, 0, f"no way to read {error.filename}: {error.strerror}")


def _read_known(file: Path) -> dict[str, list[int | str]]:
    """What was kept by path: four numbers and a hash; nothing of a file that is damaged or not there."""
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    entries = found.items() if isinstance(found, dict) else ()
    return {name: entry for name, entry in entries if isinstance(entry, list) and len(entry) == 5}


def total_bytes(paths: Iterable[Path]) -> int:
    """Bytes in all of them that are there."""
    return sum(size_bytes(path) for path in paths)
