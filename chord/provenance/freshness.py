"""Whether what lies in results/ is still what the present code, settings, pins and files would make, and why not.

The Snakefile asks before every run, `chord why` tells a person, `chord audit` judges. What made a file is in the
manifest beside it; nothing here believes a time stamp alone, except that a file not touched since its manifest was
written is as it was (`chord audit` reads every byte instead).
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from chord.provenance import environment as env
from chord.provenance.digest import PROJECT, deciding_code
from chord.provenance.files import UserError
from chord.provenance.hashing import TIMESTAMP, content_hash, size_bytes
from chord.provenance.manifest import FORMAT, as_plain, roots_of

SHOWN_CHARACTERS, SHOWN_LINES = 60, 12


class Expected(NamedTuple):
    """What should decide a job today; see the fields of `Manifest` with these names."""

    verb: str
    without: tuple[str, ...]
    step: str
    decided_by: Mapping[str, Any]


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
        manifest = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) and manifest.get("format") == FORMAT else None


def changes(manifest: Mapping[str, Any], expected: Expected, root: Path = PROJECT) -> list[Change]:
    """What of code, settings and pins is not as it was when the manifest was written. Looks at no result."""
    if manifest["verb"] != expected.verb or manifest["step"] != expected.step:
        made = f"{manifest['verb']} ({manifest['step']})"
        return [Change("manifest", "verb", made, f"{expected.verb} ({expected.step})")]
    code = deciding_code(expected.verb, expected.without, root)
    pinned = env.pinned(root, expected.step)
    decided = as_plain(expected.decided_by)
    return [
        *_code(manifest["code"]["modules"], code),
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


def _code(old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[Change]:
    for module in sorted({*old, *new}):
        if old.get(module) != new.get(module):
            yield Change("code", module, old.get(module, "nothing")[:8], new.get(module, "nothing")[:8])


# --- what lies there ---------------------------------------------------------------------------


class Place(NamedTuple):
    """One recorded file or folder: where it is now, its size and hash as recorded."""

    path: Path
    bytes: int
    sha256: str


class Made(NamedTuple):
    """A manifest that can be read, and what it says of files."""

    path: Path
    content: Mapping[str, Any]
    inputs: dict[str, Place]
    outputs: dict[str, Place]

    @property
    def since(self) -> int:
        """When the manifest was written, in ns since 1970."""
        return self.path.stat().st_mtime_ns


def made(path: Path) -> Made | None:
    """The manifest in `path` with its places; None where it cannot be read."""
    content = read(path)
    if content is None:
        return None
    roots = roots_of(path)

    def placed(part: str) -> dict[str, Place]:
        return {
            name: Place(roots.get(one["root"], Path()) / one["path"], one["bytes"], one["sha256"])
            for name, one in content[part].items()
        }

    return Made(path, content, placed("inputs"), placed("outputs"))


def survey(study: Path, expected: Mapping[str, Expected], run_texts: Mapping[str, str]) -> dict[str, list[Change]]:
    """What is stale in results/STUDY and why, by manifest (or run.json) relative to it; nothing for what is not there.

    `expected` and `run_texts`: see `chord.jobs`. Where all is as it was, times of files are put in order, since
    Snakemake goes by them: no input is left newer than what was made of it.
    """
    stale: dict[str, list[Change]] = {}
    for key, text in run_texts.items():
        if (study / key).exists() and (found := _text_changes(study / key, text)):
            stale[key] = found
    jobs: dict[str, Made] = {}
    for key in expected:
        if not (study / key).exists():
            continue
        if job := made(study / key):
            jobs[key] = job
        else:
            stale[key] = [Change("manifest", Path(key).name, "one that can be read", "damaged or of another format")]
    now: dict[Path, str] = {}
    edited = {key: list(_edited(job.outputs, job.since, now)) for key, job in jobs.items()}
    for key, job in jobs.items():
        found = changes(job.content, expected[key]) + edited[key] + list(_other_inputs(job, now))
        if found:
            stale[key] = found
    put_times_in_order({key: job for key, job in jobs.items() if key not in stale})
    return stale


def _text_changes(path: Path, text: str) -> list[Change]:
    """How run.json differs from what the configuration says now."""
    found = path.read_text("utf-8", errors="replace").rstrip("\n")
    if found == text:
        return []
    try:
        return differences("settings", json.loads(found), json.loads(text)) or [
            Change("output", path.name, "as written", "laid out otherwise, by hand")
        ]
    except ValueError:
        return [Change("output", path.name, "the recipe as JSON", "text that is not JSON")]


def _edited(outputs: Mapping[str, Place], since: int, now: dict[Path, str]) -> Iterator[Change]:
    """Which outputs are gone or not what their job wrote; `now` learns the present hash of each."""
    for place in outputs.values():
        if not os.path.lexists(place.path):
            yield Change("output", place.path.name, "as made", "gone")
            continue
        now[place.path] = _present(place, since)
        if now[place.path] != place.sha256:
            yield Change("output", place.path.name, f"{place.sha256[:8]} as made", f"{now[place.path][:8]} by hand")


def _other_inputs(job: Made, now: dict[Path, str]) -> Iterator[Change]:
    """Which inputs are there and not what the job read."""
    for name, place in job.inputs.items():
        if os.path.lexists(place.path):
            found = now.get(place.path) or _present(place, job.since)
            if found != place.sha256:
                yield Change("input", name, place.sha256[:8], found[:8])


def _present(place: Place, since: int) -> str:
    """The hash of what lies there; as recorded, without reading it, where nobody wrote to it since."""
    try:
        if not place.path.is_symlink() and newest(place.path) <= since and size_bytes(place.path) == place.bytes:
            return place.sha256
        return content_hash(place.path)
    except (OSError, UserError) as error:
        return f"none: {error}"


def newest(path: Path) -> int:
    """When a file, or any file in a folder, was last written, in ns; Snakemake's own mark does not count."""
    if not path.is_dir():
        return path.lstat().st_mtime_ns
    files = (Path(inside, name) for inside, _, names in os.walk(path) for name in names if name != TIMESTAMP)
    return max((file.lstat().st_mtime_ns for file in files), default=0)


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


# --- times -------------------------------------------------------------------------------------


def put_times_in_order(jobs: Mapping[str, Made]) -> None:
    """Raises the times of outputs that are older than an input, job by job along the graph; changes no content."""
    maker = {place.path: key for key, job in jobs.items() for place in job.outputs.values()}
    maker |= {job.path: key for key, job in jobs.items()}
    done: set[str] = set()
    for key in jobs:
        waiting = [key]
        while waiting:
            job = jobs[waiting[-1]]
            makers = {maker[place.path] for place in job.inputs.values() if place.path in maker}
            if first := makers - done - set(waiting):
                waiting.append(min(first))
                continue
            done.add(waiting.pop())
            with suppress(OSError):  # a read-only copy stays as it is
                _raise_times(job)


def _raise_times(job: Made) -> None:
    files = [place.path for place in job.outputs.values()]
    files += [*job.path.parent.glob("*.benchmark.tsv")]
    after = max((_mark(place.path) for place in job.inputs.values() if place.path.exists()), default=0)
    for file in files:
        if _mark(file) < after:
            for one in (file, file / TIMESTAMP) if file.is_dir() else (file,):
                if one.exists():
                    os.utime(one, ns=(after, after))
    written = max([after, *(max(newest(file), _mark(file)) for file in files)], default=0)
    if job.since < written:
        os.utime(job.path, ns=(written, written))


def _mark(path: Path) -> int:
    """The time that Snakemake goes by: for a folder that of its mark inside."""
    mark = path / TIMESTAMP
    return (mark if path.is_dir() and mark.exists() else path).stat().st_mtime_ns
