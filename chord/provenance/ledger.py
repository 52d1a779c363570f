"""Every attempt of a study, also the failed and the killed one, as a line that nobody can change unseen.

`provenance/ledger.jsonl` is only ever appended to. Each line holds the SHA-256 of the line before it, so that an
edited, removed, added or swapped line breaks the chain from there on; manifests hold the hash of their attempt's first
line, so that a chain made anew does not fit them. Appending takes a lock (flock) on the file. A process that dies
while it writes leaves a torn last line; the next append closes it and vouches for it in a line of its own (`torn`).
Needs a file system whose flock reaches every machine that writes (local disks, NFS 4, Lustre mounted with flock).
"""

import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from chord.errors import UserError
from chord.provenance.files import locked, sync_folder
from chord.settings import Raw

if TYPE_CHECKING:
    from chord.provenance.manifest import Manifest

LEDGER = "provenance/ledger.jsonl"  # in a study
Entry = dict[str, Any]
EVENTS = ("start", "end", "torn")
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


# --- writing -----------------------------------------------------------------------------------


def append(ledger: Path, event: str, fields: Mapping[str, Any]) -> str:
    """SHA-256 of the line added; it is on disk when this returns. Raises OSError where it cannot be written."""
    is_new = not ledger.exists()
    ledger.parent.mkdir(parents=True, exist_ok=True)
    with locked(ledger, ledger, os.O_APPEND) as handle:
        previous, before = _close_end(handle)
        line = _line(previous, event, fields)
        _write(handle, before + line + b"\n")
        os.fsync(handle)
    if is_new:
        sync_folder(ledger.parent)
    return _hash(line)


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
    size, length = os.fstat(handle).st_size, _TAIL_BYTES
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


def _line(previous: str, event: str, fields: Mapping[str, Any]) -> bytes:
    time = datetime.now(UTC).isoformat(timespec="milliseconds")
    return json.dumps({"previous": previous, "time": time, "event": event, **fields}, ensure_ascii=True).encode()


def _write(handle: int, content: bytes) -> None:
    while content:
        content = content[os.write(handle, content) :]


def _hash(line: bytes) -> str:
    return sha256(line).hexdigest()


# --- reading -----------------------------------------------------------------------------------


def read(ledger: Path) -> list[Entry]:
    """All whole lines, in order, without torn ones. Raises UserError where the chain is broken."""
    found = check(ledger)
    if found is not None:
        raise UserError(f"{ledger}, line {found.line}: {found.problem}")
    return [entry for _, entry in entries(ledger)]


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


def entries(ledger: Path) -> list[tuple[str, Entry]]:
    """Every whole line with its SHA-256, in order; also of a ledger whose chain is broken (see `check`)."""
    return [(_hash(line), entry) for line in _lines(ledger) if (entry := _entry(line)) is not None]


def _lines(ledger: Path) -> list[bytes]:
    try:
        content = ledger.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{ledger}: found no such file, expected the ledger of the study") from None
    lines = content.split(b"\n")
    return lines if lines[-1] else lines[:-1]


def _entry(line: bytes) -> Entry | None:
    try:
        entry: Raw = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and {"previous", "event", "time"} <= entry.keys() else None


# --- attempts ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Attempts:
    """What a ledger tells. `starts` by the hash of the line, `ends` by attempt, `newest` by manifest."""

    lines: int = 0
    broken: Break | None = None
    is_missing: bool = False
    starts: dict[str, Entry] = field(default_factory=dict[str, Entry])
    ends: dict[str, list[Entry]] = field(default_factory=dict[str, list[Entry]])
    newest: dict[str, Entry] = field(default_factory=dict[str, Entry])
    odd: tuple[int, ...] = ()  # lines, from 1, that tell of no attempt though the chain holds

    @property
    def outcomes(self) -> dict[str, int]:
        """How many attempts ended how; those that have no end were killed or still run."""
        without = [{"outcome": "without an end"}]
        ends = (self.ends.get(start.get("attempt", ""), without)[-1] for start in self.starts.values())
        return dict(Counter(str(end.get("outcome")) for end in ends))


def read_attempts(ledger: Path) -> Attempts:
    """The ledger as far as it can be read; also a broken one, so that the first bad link can be named.

    Odd are lines after the last whole one, events of no kind that is written here, and ends of attempts without a
    start. A torn line that the next one vouches for is not odd: an attempt died there, and that is told.
    """
    if not ledger.is_file():
        return Attempts(is_missing=True)
    lines = _lines(ledger)
    told = [(number, line, entry) for number, line in enumerate(lines, 1) if (entry := _entry(line)) is not None]
    starts = {_hash(line): entry for _, line, entry in told if entry["event"] == "start"}
    manifests = {str(entry.get("attempt")): str(entry.get("manifest")) for entry in starts.values()}
    ends: dict[str, list[Entry]] = {}
    newest: dict[str, Entry] = {}
    odd: list[int] = []
    for number, _, entry in told:
        attempt = str(entry.get("attempt"))
        if entry["event"] == "end":
            ends.setdefault(attempt, []).append(entry)
            if attempt in manifests and entry.get("outcome") == "ok":
                newest[manifests[attempt]] = entry
        if entry["event"] not in EVENTS or (entry["event"] == "end" and attempt not in manifests):
            odd.append(number)
    odd += range(told[-1][0] + 1 if told else 1, len(lines) + 1)
    return Attempts(len(told), check(ledger), False, starts, ends, newest, tuple(odd))


def fault(attempts: Attempts, place: str, manifest: "Manifest", sha256: str) -> str | None:
    """Why the manifest at `place` (relative to the study) is not the one that the ledger vouches for; or None."""
    attempt = manifest.attempt
    named = f"attempt {attempt.id[:12]}"
    start = attempts.starts.get(attempt.ledger_line_sha256 or "")
    if start is None:
        return (
            f"found {named}, whose line is not in the ledger, expected it there:"
            " the line was edited or removed, the ledger was made anew, or the manifest comes from elsewhere"
        )
    for key, value in (("attempt", attempt.id), ("verb", manifest.verb), ("manifest", place)):
        if start.get(key) != value:
            return f"found {key} {value}, expected {start.get(key)} as its line of the ledger says: edited or copied"
    ends = attempts.ends.get(attempt.id, [])
    if len(ends) != 1:
        return f"found {len(ends) or 'no'} ends of {named} in the ledger, expected one"
    if ends[0].get("outcome") != "ok":
        return f"found {named} ended as {ends[0].get('outcome')}, expected ok"
    if (recorded := ends[0].get("manifest_sha256")) != sha256:
        expected = f"expected {str(recorded)[:12]} as the ledger says: edited after it was written"
        return f"found SHA-256 {sha256[:12]}, {expected}"
    if (newer := attempts.newest[place]["attempt"]) != attempt.id:
        return f"found {named}, expected {str(newer)[:12]}, the newest in the ledger: an old one was put back"
    return None
