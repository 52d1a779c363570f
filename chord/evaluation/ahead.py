"""What `chord generate` and `chord score` share: one process does the work of a model's jobs on several benchmarks.

Start-up is so paid once for a model, while a change of one benchmark still makes only that one again. A job makes its
own result, then those of its siblings, which wait for their own jobs: beside FINAL.EXT lie FINAL.ahead.EXT (the result)
and FINAL.ahead.key.json (what it was made from, its hash). Neither is an output of any job, so the workflow leaves them
alone. A result is taken only if its key is the one that the job works out for itself and its bytes have the hash that
was written down; anything else is removed and made afresh.
"""

import argparse
import fcntl
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from chord.config.project import add_study
from chord.errors import UserError
from chord.provenance.files import this_process, write_atomically
from chord.provenance.manifest import Recording, command_of, read_manifest


class Result(NamedTuple):
    """The content of an output, and what its manifest says of it and of the process that made it."""

    content: str
    told: Mapping[str, Any] = {}
    ran_on: Mapping[str, Any] = {}


class Wanted(NamedTuple):
    """A result that is wanted at `final`: the key of all that decides it, and what makes it."""

    final: Path
    key: str
    make: Callable[[], Result]


def parser_of(verb: str, about: str, shape: str) -> argparse.ArgumentParser:
    """The options that both verbs have. `shape` is the form of `--ahead`: a name and paths, joined by `=`."""

    def sibling(text: str) -> tuple[Any, ...]:
        name, *paths = text.split("=")
        if len(paths) != shape.count("=") or not all([name, *paths]):
            raise argparse.ArgumentTypeError(f"found {text!r}, expected {shape}")
        return name, *map(Path, paths)

    parser = argparse.ArgumentParser(prog=verb, description=about)
    add_study(parser)
    parser.add_argument("--benchmark", required=True, help="name of the benchmark in the study")
    parser.add_argument("--problems", type=Path, required=True, help="problems of the benchmark, JSON lines")
    parser.add_argument("--manifest", type=Path, required=True, help="JSON: where the result comes from")
    parser.add_argument(
        "--ahead", type=sibling, action="append", default=[], metavar=shape, help="another benchmark of this model"
    )
    return parser


def key_of(parts: Mapping[str, Any]) -> str:
    """One hash for all that decides a result; equal parts give equal keys, in any order."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def make_own(wanted: Wanted, recording: Recording) -> bool:
    """Put the job's own result in its place: the one that lies ready, else a new one. Returns whether it is new."""
    recording.extra["key"] = wanted.key
    with claimed(wanted.final, wait=True):
        ready = _ready(wanted)
        if ready:
            content, note = ready
            write_atomically(wanted.final, content)
            recording.extra |= note["told"] | {"made_ahead_by": note["made_by"]}
        for place in reversed(_places(wanted.final)):
            place.unlink(missing_ok=True)
        if ready:
            return False
        result = wanted.make()
        write_atomically(wanted.final, result.content)
        recording.extra |= {**result.ran_on, **result.told}
    return True


def make_others(verb: str, siblings: Iterable[tuple[Any, ...]], wanted_of: Callable[..., Wanted | None]) -> None:
    """Make the results of siblings that no process has made or makes; `wanted_of` gets what stood in `--ahead`."""
    for name, *paths in siblings:
        try:
            wanted = wanted_of(name, *paths)
            if wanted is None:
                continue
            with claimed(wanted.final, wait=False) as mine:
                if mine and not _is_done(wanted):
                    _leave(wanted, verb)
        except UserError as error:
            print(f"{verb}: {name} is left to its own job: {error}", file=sys.stderr)


@contextmanager
def claimed(final: Path, wait: bool) -> Generator[bool]:
    """Whether this process makes `final` now: not while another one does. With `wait`, once the other one has ended.

    Two jobs of one model that run at the same time thus share the benchmarks between them, and make none twice.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    place = final.with_suffix(".ahead.lock")
    handle = _locked(place, wait)
    try:
        yield handle is not None
    finally:
        if handle is not None:
            place.unlink(missing_ok=True)
            os.close(handle)


def _locked(place: Path, wait: bool) -> int | None:
    """The lock on a file that its holder removes at the end; None if somebody else has it and `wait` is not wanted."""
    while True:
        handle = os.open(place, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            if place.exists() and os.path.samestat(os.fstat(handle), place.stat()):
                return handle
        except BlockingIOError:
            os.close(handle)
            return None
        except FileNotFoundError:
            pass  # removed by its holder since `exists`
        os.close(handle)


def _leave(wanted: Wanted, verb: str) -> None:
    """Make a result and leave it for its own job."""
    began = time.monotonic()
    made = wanted.make()
    seconds = round(time.monotonic() - began, 3)
    result, note = _places(wanted.final)
    note.unlink(missing_ok=True)
    write_atomically(result, made.content)
    me = this_process()
    made_by = {"command": command_of(verb), "host": me.host, "pid": me.pid, "seconds": seconds, **made.ran_on}
    sha256 = hashlib.sha256(made.content.encode()).hexdigest()
    told = {"key": wanted.key, "sha256": sha256, "told": dict(made.told), "made_by": made_by}
    write_atomically(note, json.dumps(told, indent=1) + "\n")


def _is_done(wanted: Wanted) -> bool:
    """Whether its job would have nothing to make: its manifest records this key, or a result lies ready."""
    if _ready(wanted) is not None:
        return True
    try:
        recorded = read_manifest(wanted.final.with_suffix(".manifest.json")).extra.get("key")
    except UserError:
        return False
    return wanted.final.exists() and recorded == wanted.key


def _ready(wanted: Wanted) -> tuple[bytes, dict[str, Any]] | None:
    """The result that lies ready and the note beside it; None where there is none, or one that does not match."""
    result, place = _places(wanted.final)
    try:
        note, content = json.loads(place.read_bytes()), result.read_bytes()
        matches = (note["key"], note["sha256"]) == (wanted.key, hashlib.sha256(content).hexdigest())
        return (content, note) if matches else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None  # nothing there, or a note that was cut off


def _places(final: Path) -> tuple[Path, Path]:
    """Where the result and its note lie: beside `final`, so on the same disk."""
    if not final.suffix:
        raise UserError(f"{final}: found a name without an ending, expected one like answers.jsonl or scores.json")
    return final.with_suffix(f".ahead{final.suffix}"), final.with_suffix(".ahead.key.json")
