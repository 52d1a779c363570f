"""Property: the ledger keeps every attempt whatever dies when, and shows every change that was made by hand."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from chord.errors import UserError
from chord.provenance.ledger import Break, append, check, entries, ledger_for, read
from tests.projects import started


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """Five attempts, `name` a to e."""
    path = tmp_path / "provenance" / "ledger.jsonl"
    for name in "abcde":
        append(path, "start", {"name": name})
    return path


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    head = "import os, signal, sys\nfrom pathlib import Path\nfrom chord.provenance import ledger\n"
    return started(head + code, *arguments)


def hashes(ledger: Path) -> list[str]:
    return [sha for sha, _ in entries(ledger)]


def told(ledger: Path) -> list[str]:
    """The attempts of a ledger whose chain holds, by name."""
    assert check(ledger) is None
    return [entry.get("name", entry["event"]) for entry in read(ledger)]


def test_each_line_holds_the_hash_of_the_line_before(ledger: Path) -> None:
    assert told(ledger) == [*"abcde"]
    assert [entry["previous"] for entry in read(ledger)] == ["0" * 64, *hashes(ledger)[:-1]]
    assert append(ledger, "end", {}) == hashes(ledger)[-1]


@pytest.mark.parametrize(
    ("tamper", "line"),
    [
        (lambda lines: [lines[0], lines[1].replace(b'"b"', b'"x"'), *lines[2:]], 3),
        (lambda lines: [lines[0], *lines[2:]], 2),
        (lambda lines: lines[1:], 1),
        (lambda lines: [*lines[:2], lines[1], *lines[2:]], 3),
        (lambda lines: [lines[0], lines[2], lines[1], *lines[3:]], 2),
        (lambda lines: [*lines[:2], b"a note by hand\n", *lines[2:]], 3),
        (lambda lines: [*lines[:2], b'{"note": 1}\n', *lines[2:]], 3),
        (lambda lines: [*lines[:2], b"\n", *lines[2:]], 3),
        (lambda lines: [lines[0][:-2] + b"\n", *lines[1:]], 1),
        (lambda lines: [*lines[:4], lines[4].replace(b'"previous": "', b'"previous": "0')], 5),
    ],
    ids=["edited", "removed", "first removed", "doubled", "swapped", "text", "json", "blank", "cut", "last edited"],
)
def test_a_line_changed_by_hand_is_found_with_its_number(ledger: Path, tamper: Callable, line: int) -> None:
    ledger.write_bytes(b"".join(tamper(ledger.read_bytes().splitlines(keepends=True))))
    found = check(ledger)
    assert found is not None and found.line == line
    with pytest.raises(UserError, match=f"line {line}: found "):
        read(ledger)


LAST = -len('{"previous": "", "time": "2026-01-01T00:00:00.000+00:00", "event": "start", "name": "e"}\n') - 64


@pytest.mark.parametrize(
    ("end", "torn", "attempts"),
    [
        (LAST + 1, b"", [*"abcd", "torn", "f"]),
        (LAST + 40, b"", [*"abcd", "torn", "f"]),
        (-2, b"", [*"abcd", "torn", "f"]),
        (-1, b"", [*"abcdef"]),  # only the line break is missing
        (None, b'{"previous": "12\n\n\x00\x00\x00{"prev', [*"abcde", "torn", "f"]),
        # A process died while it closed a torn line.
        (None, b'{"previous": "12\n', [*"abcde", "torn", "f"]),
        (None, b"\n", [*"abcde", "torn", "f"]),
        (None, b'{"previous": "12\n\n', [*"abcde", "torn", "f"]),
        (0, b'{"previous": "00', ["torn", "f"]),
    ],
)
def test_a_line_torn_by_a_dying_process_is_told_and_nothing_else_is_lost(
    ledger: Path, end: int | None, torn: bytes, attempts: list[str]
) -> None:
    ledger.write_bytes(ledger.read_bytes()[:end] + torn)
    assert told(ledger) == [name for name in attempts if name not in ("torn", "f")]
    append(ledger, "start", {"name": "f"})
    assert told(ledger) == attempts


def test_what_a_torn_line_says_is_guarded_like_the_others(ledger: Path) -> None:
    with ledger.open("ab") as file:
        file.write(b'{"previous": "12\n\n\x00\x00\x00{"prev')
    append(ledger, "start", {"name": "f"})
    ledger.write_bytes(ledger.read_bytes().replace(b"\x00\x00\x00", b"\x00\x00"))
    assert check(ledger) == Break(6, "found text that is not an attempt, expected a line of JSON")


def test_a_line_longer_than_one_read_is_found_again(ledger: Path) -> None:
    append(ledger, "start", {"name": "x" * 300_000})
    append(ledger, "start", {"name": "g"})
    assert len(told(ledger)) == 7


def test_a_process_killed_in_the_middle_of_a_line_is_followed_by_a_whole_chain(ledger: Path) -> None:
    code = """
def half(handle, content):
    os.write(handle, content[: len(content) // 2])
    os.kill(os.getpid(), signal.SIGKILL)
ledger._write = half
ledger.append(Path(sys.argv[1]), "start", {"name": "f"})
"""
    with start(code, ledger) as process:
        assert process.wait(timeout=30) == -signal.SIGKILL
    assert not ledger.read_bytes().endswith(b"\n")
    append(ledger, "start", {"name": "g"})
    assert told(ledger) == [*"abcde", "torn", "g"]


def test_jobs_that_end_at_once_all_get_a_line(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.jsonl"
    code = """
for number in range(25):
    ledger.append(Path(sys.argv[1]), "end", {"name": f"{sys.argv[2]} {number}", "padding": "x" * 5000})
"""
    writers = [start(code, ledger, writer) for writer in range(6)]
    for writer in writers:
        with writer:
            assert writer.wait(timeout=60) == 0
    assert sorted(told(ledger)) == sorted(f"{writer} {number}" for writer in range(6) for number in range(25))


def test_writers_killed_at_any_moment_leave_a_whole_chain(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.jsonl"
    code = """
print("ready", flush=True)
while True:
    ledger.append(Path(sys.argv[1]), "end", {"padding": "x" * 50_000})
"""
    for attempt in range(6):
        with start(code, ledger) as writer, start(code, ledger) as other:
            for one in (writer, other):
                assert one.stdout and one.stdout.readline()
            time.sleep(0.02 + 0.01 * attempt)
            for one in (writer, other):
                os.kill(one.pid, signal.SIGKILL)
    append(ledger, "end", {})
    assert len(told(ledger)) > 6


def test_the_ledger_of_a_path_is_that_of_the_nearest_study(tmp_path: Path) -> None:
    study = tmp_path / "results" / "demo"
    inner = study / "results" / "small"
    for folder, path in ((study, "runs/sft/train.manifest.json"), (study, "table1.json"), (inner, "table1.json")):
        assert ledger_for(folder / path) == folder / "provenance" / "ledger.jsonl"
    assert ledger_for(tmp_path / "elsewhere" / "table1.json") is None
    assert ledger_for(tmp_path / "results" / "README.md") is None


def test_an_absent_ledger_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ledger\.jsonl: found no such file"):
        read(tmp_path / "ledger.jsonl")


def test_lines_are_plain_json_of_one_line_each(ledger: Path) -> None:
    append(ledger, "end", {"error": "two\nlines \u2028 µ"})
    assert json.loads(ledger.read_bytes().splitlines()[-1])["error"] == "two\nlines \u2028 µ"
    assert len(ledger.read_text(encoding="ascii").splitlines()) == 6
