"""Property: what stands under its final name is whole, whatever happens; a verb fails in one line; a hash sees all."""

import errno
import hashlib
import os
import signal
import subprocess
import threading
import time
import tracemalloc
from pathlib import Path

import pytest

from chord.errors import UserError
from chord.provenance import cli, files
from chord.provenance.files import (
    atomic_folder,
    content_hash,
    file_sha256,
    files_below,
    size_bytes,
    tree_hash,
    write_atomically,
)
from tests.projects import started


def python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs `code` in a process of its own."""
    with started(code, *arguments) as process:
        said = process.communicate(timeout=60)
    return subprocess.CompletedProcess(code, process.returncode, *said)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- files and folders -------------------------------------------------------------------------


def put(path: Path, text: str) -> None:
    """A file, or a folder `model` with one."""
    if path.name == "model":
        with atomic_folder(path) as folder:
            (folder / text).write_text(text)
    else:
        write_atomically(path, text)


def holds(path: Path, text: str) -> bool:
    return path.read_text() == text if path.is_file() else names(path) == [text]


@pytest.mark.parametrize("can_exchange", [True, False])
@pytest.mark.parametrize("name", ["a.txt", "model"])
def test_what_is_written_takes_the_place_of_what_was_there_and_nothing_is_left_beside_it(
    tmp_path, monkeypatch, name, can_exchange
):
    if not can_exchange:
        monkeypatch.setattr(files, "_exchange", lambda *_: False)
    path = tmp_path / "new" / name
    for text in ("first µ", "second"):
        put(path, text)
        assert holds(path, text)
    assert names(path.parent) == [name]


@pytest.mark.parametrize("name", ["a.txt", "model"])
def test_a_full_disk_leaves_what_was_there_and_nothing_beside_it(tmp_path, monkeypatch, name):
    put(tmp_path / name, "old")

    def full(_handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        put(tmp_path / name, "new")
    assert holds(tmp_path / name, "old")
    assert names(tmp_path) == [name]


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("a.txt", "files.os.replace = lambda *_: kill()\nfiles.write_atomically(path, 'half')"),
        ("model", "with files.atomic_folder(path) as folder:\n    (folder / 'half').write_text('x')\n    kill()"),
    ],
)
def test_a_process_killed_while_writing_leaves_what_was_there_and_the_next_writer_clears_up(tmp_path, name, code):
    put(tmp_path / name, "old")
    head = "import os, signal, sys\nfrom pathlib import Path\nfrom chord.provenance import files\n"
    head += "path, kill = Path(sys.argv[1]), lambda: os.kill(os.getpid(), signal.SIGKILL)\n"
    assert python(head + code, tmp_path / name).returncode == -signal.SIGKILL
    assert holds(tmp_path / name, "old")
    assert len(names(tmp_path)) == 2
    put(tmp_path / name, "new")
    assert holds(tmp_path / name, "new")
    assert names(tmp_path) == [name]


def test_an_error_leaves_the_old_folder_as_it_was(tmp_path):
    put(tmp_path / "model", "old")
    with pytest.raises(ValueError, match="no"), atomic_folder(tmp_path / "model") as folder:
        (folder / "weights").write_text("new")
        raise ValueError("no")
    assert holds(tmp_path / "model", "old")
    assert names(tmp_path) == ["model"]


def test_what_a_living_process_is_writing_is_left_alone(tmp_path):
    with atomic_folder(tmp_path / "model") as outer:
        (outer / "weights").write_text("x")
        with atomic_folder(tmp_path / "model") as inner:
            (inner / "weights").write_text("y")
        assert (outer / "weights").exists()
    assert (tmp_path / "model" / "weights").read_text() == "x"


def test_what_another_machine_left_goes_after_a_day_and_other_names_stay(tmp_path):
    young, old = tmp_path / ".a.new.elsewhere+7+1+0", tmp_path / ".a.new.elsewhere+8+1+0"
    others = [tmp_path / ".a.new.notes", tmp_path / ".ab.new.elsewhere+8+1+0"]
    for path in (young, old, *others):
        path.write_text("x")
        os.utime(path, (time.time() - 23 * 3600,) * 2)
    os.utime(old, (time.time() - 25 * 3600,) * 2)
    write_atomically(tmp_path / "a", "x")
    assert not old.exists()
    assert young.exists()
    assert all(path.exists() for path in others)


def test_a_reader_sees_a_whole_folder_at_every_moment_of_being_replaced(tmp_path):
    model = tmp_path / "model"
    with atomic_folder(model) as folder:
        (folder / "weights").write_text("0" * 1000)
    absent = []
    done = threading.Event()

    def look():
        while not done.is_set():
            if not model.exists():
                absent.append(time.time())

    reader = threading.Thread(target=look)
    reader.start()
    for number in range(100):
        with atomic_folder(model) as folder:
            (folder / "weights").write_text(str(number % 10) * 1000)
    done.set()
    reader.join()
    assert absent == []


def test_a_link_or_a_file_in_the_place_of_a_folder_and_a_folder_in_that_of_a_file_are_refused(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "file").write_text("x")
    for name in ("link", "file"):
        with pytest.raises(UserError, match="found a file or a link"), atomic_folder(tmp_path / name):
            pass
    with pytest.raises(UserError, match="found a folder, expected a file"):
        write_atomically(tmp_path / "elsewhere", "x")


# --- verbs -------------------------------------------------------------------------------------

VERB = """
import os, sys, time
from pathlib import Path
from chord.errors import UserError
from chord.provenance.cli import run_verb
from chord.provenance.files import atomic_folder
def main():
    {body}
run_verb("chord.test", main)
"""


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ("return None", 0, ""),
        ("return 85", 85, ""),
        ("raise UserError('a.txt: found nothing')", 2, "chord.test: a.txt: found nothing\n"),
        ("from chord.errors import RecordError; raise RecordError('b: found x')", 2, "chord.test: b: found x\n"),
        ("from chord.errors import ConfigError; raise ConfigError('1\\n2')", 2, "chord.test: 1\nchord.test: 2\n"),
        ("raise OSError(28, 'full', 'a')", 2, f"chord.test: a: {cli._DISK[errno.ENOSPC]}\n"),
    ],
)
def test_what_the_user_can_mend_is_said_without_a_traceback(body, code, said):
    done = python(VERB.format(body=body))
    assert (done.returncode, done.stderr) == (code, said)


def test_an_error_of_ours_keeps_its_traceback():
    done = python(VERB.format(body="return {}['x']"))
    assert done.returncode == 1
    assert "KeyError" in done.stderr and "Traceback" in done.stderr


def test_a_reader_that_goes_away_ends_a_verb_quietly():
    with started(VERB.format(body="[print('x' * 1000) for _ in range(100_000)]")) as verb:
        verb.stdout.read(10)
        verb.stdout.close()
        assert verb.stderr.read() == ""
        assert verb.wait(timeout=30) == 128 + signal.SIGPIPE


def test_a_verb_that_is_told_to_end_clears_up_what_it_was_writing(tmp_path):
    body = """
    with atomic_folder(Path(sys.argv[1])) as folder:
        (folder / 'half').write_text('x')
        print('ready', flush=True)
        time.sleep(60)
"""
    with started(VERB.format(body=body), tmp_path / "model") as verb:
        verb.stdout.readline()
        assert len(names(tmp_path)) == 1
        verb.terminate()
        assert verb.wait(timeout=30) == 128 + signal.SIGTERM
    assert names(tmp_path) == []


def test_a_child_that_is_told_to_end_does_not_clear_up_for_its_parent(tmp_path):
    body = """
    with atomic_folder(Path(sys.argv[1])) as folder:
        ready, tell = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(tell, b'x')
            time.sleep(20)
            os._exit(1)
        os.read(ready, 1)
        os.kill(child, 15)
        os.waitpid(child, 0)
        (folder / 'whole').write_text('x')
"""
    done = python(VERB.format(body=body), tmp_path / "model")
    assert (done.returncode, done.stderr) == (0, "")
    assert names(tmp_path / "model") == ["whole"]


# --- hashes ------------------------------------------------------------------------------------


def test_a_folder_has_the_hash_worked_out_by_hand(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b").write_bytes(b"B")
    (tmp_path / "a").write_bytes(b"A")

    def sha(content: bytes) -> str:
        return hashlib.sha256(content).hexdigest()

    sub = sha(f"tree\nfile {sha(b'B')} b\n".encode())
    assert tree_hash(tmp_path) == sha(f"tree\nfile {sha(b'A')} a\nfolder {sub} sub\n".encode())
    assert content_hash(tmp_path) == tree_hash(tmp_path)
    assert size_bytes(tmp_path) == 2


def test_every_change_of_a_folder_changes_its_hash_and_touching_does_not(tmp_path):
    def make(folder: Path) -> Path:
        (folder / "sub" / "empty").mkdir(parents=True)
        (folder / "sub" / "b").write_bytes(b"B")
        (folder / "a").write_bytes(b"A")
        return folder

    edits = [
        lambda folder: (folder / "a").write_bytes(b"X"),
        lambda folder: (folder / "a").rename(folder / "c"),
        lambda folder: (folder / "a").unlink(),
        lambda folder: (folder / "new").write_bytes(b""),
        lambda folder: (folder / "sub" / "b").rename(folder / "b"),
        lambda folder: (folder / "sub" / "empty").rmdir(),
        lambda folder: ((folder / "a").write_bytes(b"B"), (folder / "sub" / "b").write_bytes(b"A")),
        lambda folder: ((folder / "a").unlink(), (folder / "a").mkdir()),
    ]
    plain = make(tmp_path / "plain")
    seen = {tree_hash(plain)}
    for number, edit in enumerate(edits):
        edit(make(tmp_path / str(number)))
        seen.add(tree_hash(tmp_path / str(number)))
    assert len(seen) == len(edits) + 1
    os.utime(plain / "a", (1, 1))
    (plain / "a").chmod(0o600)
    assert tree_hash(plain) in seen


def test_the_mark_that_snakemake_leaves_in_a_folder_does_not_change_its_hash(tmp_path):
    (tmp_path / "a").write_bytes(b"A")
    before = tree_hash(tmp_path)
    (tmp_path / ".snakemake_timestamp").touch()
    assert tree_hash(tmp_path) == before


def test_a_name_cannot_be_made_to_look_like_two_entries(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    (two / "a").write_bytes(b"A")
    (two / "b").write_bytes(b"B")
    (one / f"a\nfile {file_sha256(two / 'b')} b").write_bytes(b"A")
    assert tree_hash(one) != tree_hash(two)


def test_a_link_has_the_hash_of_what_it_leads_to(tmp_path):
    plain, linked, disk = (tmp_path / name for name in ("plain", "linked", "disk"))
    for folder in (plain, linked):
        (folder / "sub").mkdir(parents=True)
        (folder / "sub" / "a").write_bytes(b"A")
    (linked / "sub").rename(disk)
    (linked / "sub").symlink_to(disk)
    (disk / "a").rename(tmp_path / "file")
    (disk / "a").symlink_to(tmp_path / "file")
    assert content_hash(linked) == content_hash(plain)
    assert size_bytes(linked) == size_bytes(plain) == 1
    assert [file.relative_to(linked).as_posix() for file in files_below(linked)] == ["sub/a"]
    (tmp_path / "file").write_bytes(b"B")
    assert content_hash(linked) != content_hash(plain)


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("folder", "folder/link: found a link to nothing"),
        ("circle", "circle/up/circle: found a link back to a folder above it"),
        ("one", "one/link/link: found a link back to a folder above it"),
        ("itself", "itself: found a link that leads to itself"),
        ("pipe", "pipe: found a device, a pipe"),
        ("absent", "absent: found nothing there"),
    ],
)
def test_links_to_nothing_circles_pipes_and_absent_things_are_refused_by_name(tmp_path, place, said):
    for name, link, target in (("folder", "link", "gone"), ("circle", "up", ".."), ("one", "link", "../two")):
        (tmp_path / name).mkdir()
        (tmp_path / name / link).symlink_to(target)
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "link").symlink_to("../one")
    (tmp_path / "itself").symlink_to("itself")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match=said):
        content_hash(tmp_path / place)
    assert list(files_below(tmp_path / "one")) == []


def test_a_big_file_is_read_in_pieces(tmp_path):
    with (tmp_path / "big").open("wb") as file:
        file.truncate(200 * 2**20)
    tracemalloc.start()
    file_sha256(tmp_path / "big")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 2**20
