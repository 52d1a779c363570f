"""Manifests against the ledger: each must be the one that its attempt wrote, where it wrote it, and the newest one."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chord.provenance import ledger as ledgers
from chord.provenance.ledger import Break
from chord.provenance.manifest import Manifest

EVENTS = ("start", "end", "torn")


@dataclass(frozen=True)
class Attempts:
    """What a ledger tells. `starts` by the hash of the line, `ends` by attempt, `newest` by manifest."""

    lines: int = 0
    broken: Break | None = None
    is_missing: bool = False
    starts: dict[str, dict[str, Any]] = field(default_factory=dict)
    ends: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    newest: dict[str, dict[str, Any]] = field(default_factory=dict)
    odd: tuple[int, ...] = ()  # lines, from 1, that tell of no attempt though the chain holds

    @property
    def outcomes(self) -> dict[str, int]:
        """How many attempts ended how; those that have no end were killed or still run."""
        found: dict[str, int] = {}
        for start in self.starts.values():
            end = self.ends.get(start.get("attempt", ""), [{"outcome": "without an end"}])[-1]
            found[str(end.get("outcome"))] = found.get(str(end.get("outcome")), 0) + 1
        return found


def read_attempts(ledger: Path) -> Attempts:
    """The ledger as far as it can be read; also a broken one, so that the first bad link can be named."""
    if not ledger.is_file():
        return Attempts(is_missing=True)
    entries = ledgers.entries(ledger)
    starts = {sha: entry for sha, entry in entries if entry["event"] == "start"}
    by_attempt = {entry.get("attempt"): entry for entry in starts.values()}
    ends: dict[str, list[dict[str, Any]]] = {}
    newest: dict[str, dict[str, Any]] = {}
    for _, entry in entries:
        if entry["event"] != "end":
            continue
        attempt = str(entry.get("attempt"))
        ends.setdefault(attempt, []).append(entry)
        if entry.get("outcome") == "ok" and attempt in by_attempt:
            newest[str(by_attempt[attempt].get("manifest"))] = entry
    return Attempts(len(entries), ledgers.check(ledger), False, starts, ends, newest, _odd(ledger, entries, by_attempt))


def _odd(ledger: Path, entries: Sequence[tuple[str, dict[str, Any]]], attempts: Container[str]) -> tuple[int, ...]:
    """What stands after the last whole line; events of no kind that is written here; ends of attempts without a start.

    A torn line that the next one vouches for is not odd: an attempt died there, and that is told.
    """
    numbers = {sha: number for number, sha in enumerate(ledgers.line_hashes(ledger), start=1)}
    last = numbers[entries[-1][0]] if entries else 0
    return (
        *(
            numbers[sha]
            for sha, entry in entries
            if entry["event"] not in EVENTS or (entry["event"] == "end" and str(entry.get("attempt")) not in attempts)
        ),
        *(number for number in numbers.values() if number > last),
    )


def fault(attempts: Attempts, place: str, manifest: Manifest, sha256: str) -> str | None:
    """Why the manifest at `place` (relative to the study) is not the one that the ledger vouches for; or None."""
    attempt = manifest.attempt
    start = attempts.starts.get(attempt.ledger_line_sha256 or "")
    if start is None:
        return (
            f"found attempt {attempt.id[:12]}, whose line is not in the ledger, expected it there:"
            " the line was edited or removed, the ledger was made anew, or the manifest comes from elsewhere"
        )
    claimed: Mapping[str, Any] = {"attempt": attempt.id, "verb": manifest.verb, "manifest": place}
    for key, value in claimed.items():
        if start.get(key) != value:
            return f"found {key} {value}, expected {start.get(key)} as its line of the ledger says: edited or copied"
    ends = attempts.ends.get(attempt.id, [])
    if len(ends) != 1:
        return f"found {len(ends) or 'no'} ends of attempt {attempt.id[:12]} in the ledger, expected one"
    if ends[0].get("outcome") != "ok":
        return f"found attempt {attempt.id[:12]} ended as {ends[0].get('outcome')}, expected ok"
    if ends[0].get("manifest_sha256") != sha256:
        recorded = str(ends[0].get("manifest_sha256"))[:12]
        return f"found SHA-256 {sha256[:12]}, expected {recorded} as the ledger says: edited after it was written"
    if attempts.newest[place]["attempt"] != attempt.id:
        newer = str(attempts.newest[place]["attempt"])[:12]
        return f"found attempt {attempt.id[:12]}, expected {newer}, the newest in the ledger: an old one was put back"
    return None
