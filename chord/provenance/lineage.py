"""What was made from what, by the manifests of a study; and what its files hold now. Judges nothing."""

import hashlib
import json
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import NamedTuple

from chord.errors import UserError
from chord.provenance.files import content_hash, files_below, size_bytes, write_atomically
from chord.provenance.ledger import ledger_for
from chord.provenance.manifest import ENDING, Content, Manifest, read_manifest, roots_of

# --- the graph -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Job:
    """One manifest, with the files that it names by where they are now."""

    path: Path
    manifest: Manifest

    @cached_property
    def inputs(self) -> dict[Path, Content]:
        """What the job read."""
        return self._placed(self.manifest.inputs)

    @cached_property
    def outputs(self) -> dict[Path, Content]:
        """What the job wrote."""
        return self._placed(self.manifest.outputs)

    def _placed(self, contents: Mapping[str, Content]) -> dict[Path, Content]:
        roots = _roots_of(os.path.abspath(self.path.parent))
        return {_path(os.path.join(roots.get(one.root, ""), one.path)): one for one in contents.values()}

    def is_at_home(self, study: Path) -> bool:
        """Whether the command names the manifest where it is now. A copy of a manifest never counts as the maker."""
        place = self.path.relative_to(study).as_posix()
        return any(word.endswith(place) for word in self.manifest.command)


@cache
def _roots_of(folder: str) -> dict[str, str]:
    return {root: str(path) for root, path in roots_of(Path(folder, "any")).items()}


@cache
def _path(path: str) -> Path:
    """One object for each path: many jobs read the same file, and a Path is slow to make and to hash."""
    return Path(os.path.abspath(path))


class Reading(NamedTuple):
    """A job that read a file, and what the file was then."""

    job: Job
    content: Content


@dataclass(frozen=True)
class Lineage:
    """Jobs of a study by their manifests; of manifests that cannot be read, the reasons."""

    study: Path
    jobs: dict[Path, Job]
    unreadable: dict[Path, str] = field(default_factory=dict[Path, str])

    @property
    def project(self) -> Path:
        """The folder that holds results/ and, in a whole copy, config/."""
        return self.study.parent.parent

    @cached_property
    def makers(self) -> dict[Path, Job]:
        """The job that made each file; of two that say so, the one whose manifest lies where it was written."""
        found: dict[Path, Job] = {}
        for job in sorted(self.jobs.values(), key=lambda job: (job.is_at_home(self.study), job.manifest.started)):
            found.update(dict.fromkeys(job.outputs, job))
        return dict(sorted(found.items()))

    @cached_property
    def readings(self) -> dict[Path, list[Reading]]:
        """The jobs that read each file."""
        found: dict[Path, list[Reading]] = {}
        for job in self.jobs.values():
            for path, content in job.inputs.items():
                found.setdefault(path, []).append(Reading(job, content))
        return found

    def behind(self, files: Iterable[Path]) -> list[Path]:
        """The files and all that they were made from, causes first. A manifest is among them where a job read it."""
        order: dict[Path, None] = {}
        seen: set[Path] = set()
        waiting: list[tuple[Path, bool]] = [(file, False) for file in reversed(list(files))]
        while waiting:
            file, done = waiting.pop()
            if done:
                order[file] = None
            elif file not in seen:
                seen.add(file)
                maker = self.makers.get(file)
                waiting.append((file, True))
                waiting += [(before, False) for before in reversed(list(maker.inputs if maker else ()))]
        return list(order)

    def place(self, path: Path) -> str:
        """The path relative to the study, as ledgers and `Today` name it."""
        return path.relative_to(self.study).as_posix()

    def shown(self, path: Path) -> str:
        """The path relative to the project where it lies in it."""
        return path.relative_to(self.project).as_posix() if path.is_relative_to(self.project) else str(path)


def study_of(path: Path) -> Path:
    """The folder results/STUDY that `path` is or lies in. Raises UserError for a place outside of any."""
    ledger = ledger_for(path / "any")
    if ledger is None:
        raise UserError(f"{path}: found no folder results/STUDY above it, expected a place in the results of a study")
    return ledger.parent.parent


def read_lineage(study: Path, keys: Iterable[str] | None = None) -> Lineage:
    """The graph of a study, or of the manifests at `keys` alone, relative to it, as far as they are there."""
    study = Path(os.path.abspath(study))
    paths = manifests_in(study) if keys is None else [path for key in keys if (path := study / key).exists()]
    jobs: dict[Path, Job] = {}
    unreadable: dict[Path, str] = {}
    for path in paths:
        try:
            jobs[path] = Job(path, read_manifest(path))
        except UserError as error:
            unreadable[path] = str(error).removeprefix(f"{path}: ").partition(", expected")[0]
    return Lineage(study, _once(study, jobs) if keys is None else jobs, unreadable)


def _once(study: Path, jobs: dict[Path, Job]) -> dict[Path, Job]:
    """The jobs without manifests that a link shows a second time, or shows of elsewhere.

    A folder of results may be a link, to a larger disk: a manifest in it is named by its command, or lies beside what
    its job made. Behind any other link it does not count.
    """
    real = {path: os.path.realpath(path) for path in jobs}
    beside = {path for path, job in jobs.items() if any(output.parent == path.parent for output in job.outputs)}
    home = beside | {path for path, job in jobs.items() if job.is_at_home(study)}
    at_home, top = {real[path] for path in home}, os.path.realpath(study)
    linked = {path for path in jobs if real[path] != os.path.join(top, path.relative_to(study))}
    return {path: job for path, job in jobs.items() if path in home or not (path in linked or real[path] in at_home)}


def manifests_in(folder: Path) -> Iterator[Path]:
    """Every manifest below `folder`, in order of name; links are followed."""
    return (path for path in files_below(folder) if path.name.endswith(ENDING) and not path.name.startswith("."))


# --- what files hold now -------------------------------------------------------------------------

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
    """Hashes files of one study as streams. `read` is called with the number of bytes that are done.

    With `quick`, a file whose size, times and inode are those of an earlier reading keeps the hash in `kept`. That file
    is no evidence of anything and may be deleted.
    """

    study: Path
    quick: bool = False
    read: Callable[[int], object] = lambda count: None
    bytes_read: int = 0
    kept: Path | None = None
    _known: dict[str, list[int | str]] = field(default_factory=dict[str, list[int | str]])
    _is_new: bool = False

    def __post_init__(self) -> None:
        self.kept = self.kept or self.study / KEPT
        if self.quick:
            self._known = _read_known(self.kept)

    def now(self, path: Path, recorded: str | None = None) -> Now:
        """The content of a file or folder, or of what a link leads to.

        Where a kept hash is not the `recorded` one, the bytes are read.
        """
        found = _now(path, self._known_or_read if self.quick else self._read)
        is_other = recorded is not None and found.sha256 not in (None, recorded)
        return _now(path, self._read) if self.quick and is_other else found

    def keep(self) -> None:
        """Leave new hashes for a later `quick` reading, where they can be written."""
        if self.kept and self._is_new:
            with suppress(OSError, UserError):
                write_atomically(self.kept, json.dumps(self._known, sort_keys=True) + "\n")

    def _known_or_read(self, path: Path) -> str:
        known, stamp = self._known.get(self._place(path)), _stamp(path)
        if known and known[:4] == stamp:
            self.read(stamp[0])
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
            self._known[self._place(path)] = [*stamp, digest.hexdigest()]
            self._is_new = True
        return digest.hexdigest()

    def _place(self, path: Path) -> str:
        study = f"{self.study}{os.sep}"
        return name.removeprefix(study) if (name := str(path)).startswith(study) else os.path.relpath(path, self.study)


def _stamp(path: Path) -> list[int]:
    """Size, times and inode: other numbers after any write, whatever was put in the file's place."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def _now(path: Path, of_file: Callable[[Path], str]) -> Now:
    with suppress(OSError):  # told below
        if stat.S_ISREG((found := path.stat()).st_mode):
            return Now(of_file(path), found.st_size, None)
    if not os.path.lexists(path):
        return Now(None, 0, None)
    try:
        return Now(content_hash(path, of_file), size_bytes(path), None)
    except UserError as error:
        return Now(None, 0, str(error).partition("found ")[2].partition(", expected")[0])
    except OSError as error:
        return Now(None, 0, f"no way to read {error.filename}: {error.strerror}")


def _read_known(file: Path) -> dict[str, list[int | str]]:
    """Four numbers and a hash by path; nothing where the file is damaged or not there."""
    try:
        found: dict[str, list[int | str] | None] | None = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    entries = found.items() if isinstance(found, dict) else ()
    return {name: entry for name, entry in entries if isinstance(entry, list) and len(entry) == 5}
