"""Every attempt of a study, also the failed and the killed one, as a line that nobody can change unseen.

`provenance/ledger.jsonl` is only ever appended to. Each line holds the SHA-256 of the line before it, so that an
edited, removed, added or swapped line breaks the chain from there on; manifests hold the hash of their attempt's first
line, so that a chain made anew does not fit them. Appending takes a lock (flock) on the file. A process that dies
while it writes leaves a torn last line; the next append closes it and vouches for it in a line of its own (`torn`).
Needs a file system whose flock reaches every machine that writes (local disks, NFS 4, Lustre mounted with flock).
"""

import hashlib
import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from chord.provenance.files import UserError, lock, sync_folder

FIRST = "0" * 64
_TAIL_BYTES = 1 << 16


class Break(NamedTuple):
    """Where a ledger stops being whole; `line` counts from 1."""

    line: int
    problem: str


def ledger_for(path: Path) -> Path | None:
    """The ledger of the study whose results folder `path` lies in: the nearest `results/STUDY` above it, or None."""
    for folder in path.absolute().parents:
        if folder.parent.name == "results":
            return folder / "provenance" / "ledger.jsonl"
    return None


def append(ledger: Path, event: str, fields: Mapping[str, Any]) -> str:
    """SHA-256 of the line added; it is on disk when this returns. Raises OSError where it cannot be written."""
    is_new = not ledger.exists()
    ledger.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(ledger, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        lock(handle, ledger)
        previous, before = _close_end(handle)
        line = _line(previous, event, fields)
        _write(handle, before + line + b"\n")
        os.fsync(handle)
    finally:
        os.close(handle)
    if is_new:
        sync_folder(ledger.parent)
    return _hash(line)


def read(ledger: Path) -> list[dict[str, Any]]:
    """All whole lines, in order, without torn ones. Raises UserError where the chain is broken."""
    found = check(ledger)
    if found is not None:
        raise UserError(f"{ledger}, line {found.line}: {found.problem}")
    return [entry for entry in map(_entry, _lines(ledger)) if entry is not None]


def check(ledger: Path) -> Break | None:
    """The first place where the chain does not hold; None for a whole ledger.

    Torn lines are whole where the next line vouches for them, and at the very end, where nobody has come by since.
    """
    previous = FIRST
    torn: list[bytes] = []
    for number, line in enumerate(_lines(ledger), start=1):
        entry = _entry(line)
        if entry is None:
            torn.append(line)
            continue
        if torn and entry.get("torn_sha256") != _hash(b"\n".join(torn)):
            return Break(number - len(torn), "found text that is not an attempt, expected a line of JSON")
        if entry["previous"] != previous:
            found = str(entry["previous"])[:12]
            return Break(number, f"found {found} as the hash of the line before, expected {previous[:12]}")
        previous, torn = _hash(line), []
    return None


def line_hashes(ledger: Path) -> list[str]:
    """SHA-256 of every line, in order: what manifests refer to."""
    return [_hash(line) for line in _lines(ledger)]


def entries(ledger: Path) -> list[tuple[str, dict[str, Any]]]:
    """Every whole line with its SHA-256, in order; also of a ledger whose chain is broken (see `check`)."""
    return [(_hash(line), entry) for line in _lines(ledger) if (entry := _entry(line)) is not None]


def _lines(ledger: Path) -> list[bytes]:
    try:
        content = ledger.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{ledger}: found no such file, expected the ledger of the study") from None
    lines = content.split(b"\n")
    return lines if lines[-1] else lines[:-1]


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and {"previous", "event", "time"} <= entry.keys() else None


def _line(previous: str, event: str, fields: Mapping[str, Any]) -> bytes:
    time = datetime.now(UTC).isoformat(timespec="milliseconds")
    return json.dumps({"previous": previous, "time": time, "event": event, **fields}, ensure_ascii=True).encode()


def _hash(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


def _close_end(handle: int) -> tuple[str, bytes]:
    """The hash of the last line, and what has to be written before a new one: a line break, a word on torn lines."""
    last, after = _end(handle)
    close = b"" if (last + after).endswith(b"\n") or not last + after else b"\n"
    previous = _hash(last) if last else FIRST
    if after in (b"", b"\n"):
        return previous, close
    torn = after.removeprefix(b"\n") if last else after
    torn = torn.removesuffix(b"\n")
    told = _line(previous, "torn", {"torn_bytes": len(torn), "torn_sha256": _hash(torn)})
    return _hash(told), close + told + b"\n"


def _end(handle: int) -> tuple[bytes, bytes]:
    """The last whole line, and all that stands after it; reads no more of the file than it takes to find it."""
    size = os.fstat(handle).st_size
    length = _TAIL_BYTES
    while True:
        start = max(0, size - length)
        tail = os.pread(handle, size - start, start)
        lines = tail.split(b"\n")
        for index in range(len(lines) - 1, -1 if start == 0 else 0, -1):
            if _entry(lines[index]) is not None:
                return lines[index], b"".join(b"\n" + line for line in lines[index + 1 :])
        if start == 0:
            return b"", tail
        length *= 8


def _write(handle: int, content: bytes) -> None:
    while content:
        content = content[os.write(handle, content) :]
