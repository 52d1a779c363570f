"""Property: the ledger keeps every attempt whatever dies when, and shows every change that was made by hand."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chord.errors import UserError
from chord.provenance import ledger as ledgers
from chord.provenance.ledger import append, check, ledger_for, line_hashes, read

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture
def ledger(tmp_path):
    """Five attempts, `name` a to e."""
    path = tmp_path / "provenance" / "ledger.jsonl"
    for name in "abcde":
        append(path, "start", {"name": name})
    return path


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True)


def lines_of(ledger: Path) -> list[bytes]:
    return ledger.read_bytes().splitlines(keepends=True)


def test_each_line_holds_the_hash_of_the_line_before(ledger):
    entries = read(ledger)
    assert [entry["name"] for entry in entries] == list("abcde")
    assert [entry["previous"] for entry in entries] == ["0" * 64, *line_hashes(ledger)[:-1]]
    assert append(ledger, "end", {}) == line_hashes(ledger)[-1]


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
def test_a_line_changed_by_hand_is_found_with_its_number(ledger, tamper, line):
    ledger.write_bytes(b"".join(tamper(lines_of(ledger))))
    found = check(ledger)
    assert found is not None
    assert found.line == line
    with pytest.raises(UserError, match=f"line {line}: found "):
        read(ledger)


def test_a_chain_made_anew_is_whole_but_has_other_hashes(ledger):
    before = line_hashes(ledger)
    ledger.unlink()
    for name in "abXde":
        append(ledger, "start", {"name": name})
    assert check(ledger) is None
    assert not set(before[2:]) & set(line_hashes(ledger))


@pytest.mark.parametrize("kept", [1, 40, -2])
def test_a_line_torn_by_a_dying_process_is_told_and_nothing_else_is_lost(ledger, kept):
    whole = lines_of(ledger)
    ledger.write_bytes(b"".join(whole[:-1]) + whole[-1][:kept])
    assert check(ledger) is None
    assert [entry["name"] for entry in read(ledger)] == list("abcd")
    append(ledger, "start", {"name": "f"})
    assert check(ledger) is None
    assert [entry.get("name", entry["event"]) for entry in read(ledger)] == [*"abcd", "torn", "f"]


def test_a_line_that_only_misses_its_end_is_kept(ledger):
    ledger.write_bytes(ledger.read_bytes()[:-1])
    append(ledger, "start", {"name": "f"})
    assert [entry["name"] for entry in read(ledger)] == list("abcdef")


def test_torn_lines_in_a_row_are_told_together_and_guarded_like_the_others(ledger):
    with ledger.open("ab") as file:
        file.write(b'{"previous": "12\n\n\x00\x00\x00{"prev')
    append(ledger, "start", {"name": "f"})
    assert check(ledger) is None
    ledger.write_bytes(ledger.read_bytes().replace(b"\x00\x00\x00", b"\x00\x00"))
    assert check(ledger) == ledgers.Break(6, "found text that is not an attempt, expected a line of JSON")


@pytest.mark.parametrize("torn", [b'{"previous": "12\n', b"\n", b'{"previous": "12\n\n'])
def test_a_process_that_dies_while_it_closes_a_torn_line_is_followed_by_a_whole_chain(ledger, torn):
    with ledger.open("ab") as file:
        file.write(torn)
    append(ledger, "start", {"name": "f"})
    assert check(ledger) is None
    assert [entry.get("name", entry["event"]) for entry in read(ledger)] == [*"abcde", "torn", "f"]


def test_a_ledger_that_begins_with_a_torn_line_goes_on(tmp_path):
    ledger = tmp_path / "ledger.jsonl"
    ledger.write_bytes(b'{"previous": "00')
    append(ledger, "start", {"name": "a"})
    append(ledger, "start", {"name": "b"})
    assert check(ledger) is None
    assert [entry["event"] for entry in read(ledger)] == ["torn", "start", "start"]


def test_a_line_longer_than_one_read_is_found_again(ledger):
    append(ledger, "start", {"name": "x" * 300_000})
    append(ledger, "start", {"name": "g"})
    assert check(ledger) is None
    assert len(read(ledger)) == 7


def test_a_process_killed_in_the_middle_of_a_line_is_followed_by_a_whole_chain(ledger):
    code = """
import os, signal, sys
from pathlib import Path
from chord.provenance import ledger
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
    assert check(ledger) is None
    assert [entry.get("name", entry["event"]) for entry in read(ledger)] == [*"abcde", "torn", "g"]


def test_jobs_that_end_at_once_all_get_a_line(tmp_path):
    ledger = tmp_path / "ledger.jsonl"
    code = """
import sys
from pathlib import Path
from chord.provenance.ledger import append
for number in range(25):
    append(Path(sys.argv[1]), "end", {"writer": sys.argv[2], "number": number, "padding": "x" * 5000})
"""
    writers = [start(code, ledger, writer) for writer in range(6)]
    for writer in writers:
        with writer:
            assert writer.wait(timeout=60) == 0
    entries = read(ledger)
    assert sorted((entry["writer"], entry["number"]) for entry in entries) == [
        (str(writer), number) for writer in range(6) for number in range(25)
    ]


def test_writers_killed_at_any_moment_leave_a_whole_chain(tmp_path):
    ledger = tmp_path / "ledger.jsonl"
    code = """
import sys
from pathlib import Path
from chord.provenance.ledger import append
print("ready", flush=True)
while True:
    append(Path(sys.argv[1]), "end", {"padding": "x" * 50_000})
"""
    for attempt in range(6):
        with start(code, ledger) as writer, start(code, ledger) as other:
            writer.stdout.readline()
            other.stdout.readline()
            time.sleep(0.02 + 0.01 * attempt)
            os.kill(writer.pid, signal.SIGKILL)
            os.kill(other.pid, signal.SIGKILL)
    append(ledger, "end", {})
    assert check(ledger) is None
    assert len(read(ledger)) > 6


def test_the_ledger_of_a_path_is_that_of_the_nearest_study(tmp_path):
    study = tmp_path / "results" / "demo"
    assert ledger_for(study / "runs" / "sft" / "train.manifest.json") == study / "provenance" / "ledger.jsonl"
    assert ledger_for(study / "table1.json") == study / "provenance" / "ledger.jsonl"
    inner = study / "results" / "small"
    assert ledger_for(inner / "table1.json") == inner / "provenance" / "ledger.jsonl"
    assert ledger_for(tmp_path / "elsewhere" / "table1.json") is None
    assert ledger_for(tmp_path / "results" / "README.md") is None


def test_an_absent_ledger_is_named(tmp_path):
    with pytest.raises(UserError, match=r"ledger\.jsonl: found no such file"):
        read(tmp_path / "ledger.jsonl")


def test_lines_are_plain_json_of_one_line_each(ledger):
    append(ledger, "end", {"error": "two\nlines \u2028 µ"})
    assert json.loads(ledger.read_bytes().splitlines()[-1])["error"] == "two\nlines \u2028 µ"
    assert len(ledger.read_text(encoding="ascii").splitlines()) == 6
