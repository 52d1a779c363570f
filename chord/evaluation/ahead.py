"""Results made ahead of their job: one process does the work of several jobs, and each job takes its own by key.

Beside FINAL.EXT lie FINAL.ahead.EXT (the result) and FINAL.ahead.key.json (what it was made from, its hash). Neither
is an output of any job, so the workflow leaves them alone. A result is taken only if its key is the one that the job
works out for itself and its bytes have the hash that was written down; anything else is removed and made afresh.
"""

import argparse
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chord.errors import UserError
from chord.provenance.files import this_process, write_atomically
from chord.provenance.manifest import command_of, read_manifest


def key_of(parts: Mapping[str, Any]) -> str:
    """One hash for all that decides a result; equal parts give equal keys, in any order."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def sibling(shape: str) -> Callable[[str], tuple[Any, ...]]:
    """A parser for one `--ahead`: a name and paths, joined by `=` as `shape` shows."""

    def parse(text: str) -> tuple[Any, ...]:
        name, *paths = text.split("=")
        if len(paths) != shape.count("=") or not all([name, *paths]):
            raise argparse.ArgumentTypeError(f"found {text!r}, expected {shape}")
        return name, *map(Path, paths)

    return parse


@contextmanager
def claimed(final: Path, wait: bool) -> Iterator[bool]:
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


def leave(final: Path, key: str, content: str, verb: str, about: Mapping[str, Any]) -> None:
    """Put down a result for the job that will want it as `final`; it is told which process made it, and `about`."""
    result, note = _places(final)
    note.unlink(missing_ok=True)
    write_atomically(result, content)
    me = this_process()
    made_by = {"command": command_of(verb), "host": me.host, "pid": me.pid, **about}
    told = {"key": key, "sha256": hashlib.sha256(content.encode()).hexdigest(), "made_by": made_by}
    write_atomically(note, json.dumps(told, indent=1) + "\n")


def is_done(final: Path, key: str) -> bool:
    """Whether a job for `final` would have nothing to make: its manifest records this key, or a result lies ready."""
    if _ready(final, key) is not None:
        return True
    try:
        recorded = read_manifest(final.with_suffix(".manifest.json")).extra.get("key")
    except UserError:
        return False
    return final.exists() and recorded == key


def take(final: Path, key: str) -> dict[str, Any] | None:
    """Move the result that lies ready for `final` into its place; which process made it, or None for no match.

    Whatever lay there is gone afterwards, so that a result that does not match is never met again.
    """
    ready = _ready(final, key)
    if ready is not None:
        write_atomically(final, ready[0])
    for place in reversed(_places(final)):
        place.unlink(missing_ok=True)
    return None if ready is None else ready[1]


def _ready(final: Path, key: str) -> tuple[bytes, dict[str, Any]] | None:
    result, note = _places(final)
    try:
        told, content = json.loads(note.read_bytes()), result.read_bytes()
        matches = (told["key"], told["sha256"]) == (key, hashlib.sha256(content).hexdigest())
        return (content, dict(told["made_by"])) if matches else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None  # nothing there, or a note that was cut off


def _places(final: Path) -> tuple[Path, Path]:
    """Where the result and its note lie: beside `final`, so on the same disk."""
    if not final.suffix:
        raise UserError(f"{final}: found a name without an ending, expected one like answers.jsonl or scores.json")
    return final.with_suffix(f".ahead{final.suffix}"), final.with_suffix(".ahead.key.json")
