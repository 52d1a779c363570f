"""Hashes of what stands on the disk now: each file is read once, as a stream, and said to whoever counts bytes.

Nothing is believed, unless `quick` is asked for: then a file whose size, times and inode are those of the last reading
keeps its hash. Only then is anything written: provenance/hashes.json of the study, where that can be.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from chord.provenance.files import UserError, write_atomically
from chord.provenance.hashing import content_hash, size_bytes

CHUNK_BYTES = 1 << 20
KEPT = Path("provenance", "hashes.json")


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
    """Reads the files of one study. `read` is told how many bytes were done with."""

    study: Path
    quick: bool = False
    read: Callable[[int], object] = lambda count: None
    bytes_read: int = 0
    _kept: dict[str, list[int | str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.quick:
            with suppress(OSError, ValueError):
                self._kept = dict(json.loads((self.study / KEPT).read_bytes()))

    def now(self, path: Path) -> Now:
        """The content of a file or folder; a link to elsewhere, also above it in the study, has none of its own."""
        if not os.path.lexists(path):
            return Now(None, 0, None)
        if link := self._link(path):
            where = "" if link == path else f" in the place of {link.relative_to(self.study).as_posix()}"
            return Now(None, 0, f"a symbolic link{where}")
        try:
            return Now(content_hash(path, self._file), size_bytes(path), None)
        except UserError as error:
            return Now(None, 0, str(error).partition("found ")[2].partition(", expected")[0])
        except PermissionError as error:
            return Now(None, 0, f"no permission to read {error.filename}")

    def keep(self) -> None:
        """Leave the hashes for a later `quick` reading; a study that cannot be written is left alone."""
        with suppress(OSError):
            write_atomically(self.study / KEPT, json.dumps(self._kept, sort_keys=True) + "\n")

    def _link(self, path: Path) -> Path | None:
        """The first symbolic link on the way from the study to `path`; the study itself may be one."""
        above = [folder for folder in path.parents if folder != self.study and folder.is_relative_to(self.study)]
        return next((place for place in (*reversed(above), path) if place.is_symlink()), None)

    def _file(self, path: Path) -> str:
        stat = path.stat()
        name = os.path.relpath(path, self.study)
        stamp = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
        known = self._kept.get(name)
        if self.quick and known and known[:4] == stamp:
            self.read(stat.st_size)
            return str(known[4])
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
                self.bytes_read += len(chunk)
                self.read(len(chunk))
        self._kept[name] = [*stamp, digest.hexdigest()]
        return digest.hexdigest()


def total_bytes(paths: Iterable[Path]) -> int:
    """Bytes in all of them that are there."""
    return sum(size_bytes(path) for path in paths if path.exists())
