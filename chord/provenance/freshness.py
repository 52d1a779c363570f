"""Hashes of what stands on the disk now: each file is read once, as a stream, and said to whoever counts bytes.

Nothing is believed, unless `quick` is asked for: then a file whose size, times and inode are those of the last reading
keeps its hash. Only then is anything written, where that can be: hashes.json, which is no evidence of anything. It may
be deleted at any time.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from chord.errors import UserError
from chord.provenance import environment as env
from chord.provenance.digest import PROJECT, JobCode, contents, job_code, package_of
from chord.provenance.files import content_hash, size_bytes, write_atomically
from chord.provenance.manifest import JobSpec, as_plain, read_manifest, roots_of

# --- rehash --------------------------------------------------------------------------------------

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


# --- freshness -----------------------------------------------------------------------------------

# Whether what lies in results/ is still what the present code, settings, pins and files would make, and why not.
#
# The Snakefile asks before every run, `chord why` tells a person, `chord audit` judges. What made a file is in the
# manifest beside it, and contents decide, never clocks. A file is read once and then believed to be as it was for as
# long as its size, times and inode are those of that reading (`chord audit` reads every byte instead).

SHOWN_CHARACTERS, SHOWN_LINES = 60, 12
NO_HASH = "none: "
READ = Path(".snakemake", "read")  # in the project, by study: hashes of what was read, see `Hasher`


class Change(NamedTuple):
    """One thing that is not as it was when a job ran. `what`: code, settings, pins, input, output or manifest."""

    what: str
    where: str
    old: str
    new: str

    def __str__(self) -> str:
        """A clause that says it: `settings task.repeats: 4 -> 8`."""
        return f"{self.what} {self.where}: {self.old} -> {self.new}"


# --- what was decided --------------------------------------------------------------------------


def read(path: Path) -> dict[str, Any] | None:
    """The manifest as plain data; None for one that is missing, damaged or of another format."""
    try:
        return read_manifest(path).model_dump(mode="json")
    except UserError:
        return None


def changes(
    manifest: Mapping[str, Any], expected: JobSpec, root: Path = PROJECT, kept: Path | None = None
) -> list[Change]:
    """What of code, settings and pins is not as it was when the manifest was written. Looks at no result.

    `kept`: see `package_of`.
    """
    if manifest["verb"] != expected.verb or manifest["step"] != expected.step:
        made = f"{manifest['verb']} ({manifest['step']})"
        return [Change("manifest", "verb", made, f"{expected.verb} ({expected.step})")]
    pinned = env.pinned(root, expected.step)
    decided = as_plain(expected.decided_by)
    return [
        *_code(manifest["code"], job_code(expected.verb, expected.uses, root, kept)),
        *differences("settings", manifest["decided_by"], decided),
        *differences(f"pin in envs/{expected.step}.txt of", manifest["installed"]["pinned"], pinned),
    ]


def differences(what: str, old: Any, new: Any, where: str = "") -> list[Change]:
    """Every place where two pieces of plain data differ, as dotted keys."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = dict.fromkeys([*old, *new])
        return [
            change
            for key in keys
            for change in differences(what, old.get(key, ABSENT), new.get(key, ABSENT), f"{where}.{key}".lstrip("."))
        ]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [change for index, pair in pairs for change in differences(what, *pair, f"{where}.{index}".lstrip("."))]
    if old == new and isinstance(old, bool) is isinstance(new, bool):
        return []
    return [Change(what, where or "as a whole", _shown(old), _shown(new))]


class _Absent:
    """Stands where one side has no such key."""


ABSENT = _Absent()


def _shown(value: Any) -> str:
    if value is ABSENT:
        return "nothing"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 1]}…"


def _code(then: Mapping[str, Any], now: JobCode) -> Iterator[Change]:
    """The definitions that changed. One that was only moved did not: its name and content are on both sides."""
    if then["digest"] == now.digest:
        return
    found = list(code_differences(then["definitions"], now.definitions))
    yield from found or [Change("code", "which definition uses which", then["digest"][:8], now.digest[:8])]


def code_differences(then: Mapping[str, str], now: Mapping[str, str]) -> Iterator[Change]:
    """How the definitions of two `JobCode`s differ, wherever they stand."""
    old, new = contents(then), contents(now)
    same = {_moved(one) for one in old.items()} & {_moved(one) for one in new.items()}
    old, new = ({name: one for name, one in some.items() if _moved((name, one)) not in same} for some in (old, new))
    for name in sorted({*old, *new}):
        if old.get(name) != new.get(name):
            yield Change("code", name, old.get(name, "nothing"), new.get(name, "nothing"))


def _moved(definition: tuple[str, str]) -> tuple[str, str]:
    """A definition without its module."""
    return definition[0].rpartition(".")[2], definition[1]


# --- what lies there ---------------------------------------------------------------------------


class Place(NamedTuple):
    """One recorded file or folder: where it is now, and its hash as recorded."""

    path: Path
    sha256: str


class Made(NamedTuple):
    """A manifest that can be read, and what it says of files."""

    path: Path
    content: Mapping[str, Any]
    inputs: dict[str, Place]
    outputs: dict[str, Place]


def made(path: Path) -> Made | None:
    """The manifest in `path` with its places; None where it cannot be read."""
    try:
        return _made(path)
    except UserError:
        return None


def _made(path: Path) -> Made:
    content = read_manifest(path).model_dump(mode="json")
    roots = roots_of(path)

    def placed(part: str) -> dict[str, Place]:
        return {
            name: Place(roots.get(one["root"], Path()) / one["path"], one["sha256"])
            for name, one in content[part].items()
        }

    return Made(path, content, placed("inputs"), placed("outputs"))


def survey(study: Path, expected: Mapping[str, JobSpec], run_texts: Mapping[str, str]) -> dict[str, list[Change]]:
    """What is stale in results/STUDY and why, by manifest (or run.json) relative to it; nothing for what is not there.

    `expected` and `run_texts`: see `chord.steps`. Changes nothing below results/. Raises UserError for a folder that is
    a link to nothing, as where a disk is not mounted.
    """
    _refuse_links_to_nothing(study / key for key in (*run_texts, *expected))
    stale: dict[str, list[Change]] = {}
    for key, text in run_texts.items():
        if (study / key).exists() and (found := _text_changes(study / key, text)):
            stale[key] = found
    jobs: dict[str, Made] = {}
    for key in expected:
        if not (study / key).exists():
            continue
        try:
            jobs[key] = _made(study / key)
        except UserError as error:
            reason = str(error).removeprefix(f"{study / key}: found ").partition(", expected")[0]
            stale[key] = [Change("manifest", Path(key).name, "one that can be read", _shown(reason))]
    read = study.absolute().parent.parent / READ
    hasher = Hasher(study, quick=True, kept=read / f"{study.name}.json")
    now: dict[Path, str] = {}
    code = read / "code.json"
    edited = {key: list(_edited(job.outputs, now, hasher)) for key, job in jobs.items()}
    for key, job in jobs.items():
        found = changes(job.content, expected[key], kept=code) + edited[key] + list(_other_inputs(job, now, hasher))
        if found:
            stale[key] = found
    hasher.keep()
    if jobs:
        package_of(str(PROJECT), "chord", code).keep()
    return stale


def _refuse_links_to_nothing(files: Iterable[Path]) -> None:
    """Each folder above these files is there or can be made."""
    for folder in sorted({folder for file in files for folder in file.parents}):
        if folder.is_symlink() and not folder.exists():
            found = f"found a link to {os.readlink(folder)}, where there is nothing"
            raise UserError(f"{folder}: {found}, expected a folder; mount its disk, or remove the link")


def _text_changes(path: Path, text: str) -> list[Change]:
    """How run.json differs from what the configuration says now."""
    try:
        found = path.read_text("utf-8", errors="replace").rstrip("\n")
    except OSError as error:
        return [Change("output", path.name, "the recipe as JSON", f"no way to read it: {error.strerror}")]
    if found == text:
        return []
    try:
        return differences("settings", json.loads(found), json.loads(text)) or [
            Change("output", path.name, "as written", "laid out otherwise, by hand")
        ]
    except (ValueError, RecursionError):
        return [Change("output", path.name, "the recipe as JSON", "text that is not JSON")]


def _edited(outputs: Mapping[str, Place], now: dict[Path, str], hasher: Hasher) -> Iterator[Change]:
    """Which outputs are gone or not what their job wrote; `now` learns the present hash of each."""
    for place in outputs.values():
        if not os.path.lexists(place.path):
            yield Change("output", place.path.name, "as made", "gone")
            continue
        now[place.path] = _present(place, hasher)
        if now[place.path] != place.sha256:
            yield Change("output", place.path.name, f"{place.sha256[:8]} as made", f"{_short(now[place.path])} by hand")


def _other_inputs(job: Made, now: dict[Path, str], hasher: Hasher) -> Iterator[Change]:
    """Which inputs are there and not what the job read."""
    for name, place in job.inputs.items():
        if os.path.lexists(place.path):
            found = now.get(place.path) or _present(place, hasher)
            if found != place.sha256:
                yield Change("input", name, place.sha256[:8], _short(found))


def _present(place: Place, hasher: Hasher) -> str:
    """The hash of what lies there, or why it has none."""
    found = hasher.still(place.path, place.sha256)
    return found.sha256 or f"{NO_HASH}{found.problem}"


def _short(found: str) -> str:
    return found.removeprefix(NO_HASH) if found.startswith(NO_HASH) else found[:8]


def summary(stale: Mapping[str, list[Change]]) -> list[str]:
    """A line for each thing that changed, with how many jobs it makes stale; for `run.json` the job that reads it."""
    jobs: dict[str, list[str]] = {}
    for key, found in stale.items():
        for change in found:
            jobs.setdefault(str(change), []).append(key)
    lines = []
    for change, keys in list(jobs.items())[:SHOWN_LINES]:
        more = f" and {len(keys) - 2} more" if len(keys) > 2 else ""
        lines.append(f"stale: {change} ({', '.join(map(_job_name, keys[:2]))}{more})")
    if len(jobs) > SHOWN_LINES:
        lines.append(f"stale: {len(jobs) - SHOWN_LINES} changes more; `chord why TARGET` tells all")
    return lines


def _job_name(key: str) -> str:
    return key.removesuffix(".manifest.json")
