"""`chord fetch` against a hub on this machine: what arrives is pinned to the byte, whatever happens on the way."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import warm
from tests.hub_server import Hub, serving
from tests.unit.test_hub_config import hub_study

ROOT = Path(__file__).parents[2]
REPOSITORY = "datasets/made-up/sums"
LARGE = bytes(range(256)) * 50_000  # 12.8 MB; huggingface_hub writes 10 MiB at a time
FILES = {"data/train-0.parquet": LARGE, "data/train-1.parquet": b"small", "README.md": b"made up", "run.py": b"exit()"}
TOKEN = "hf_abcdefghijklmnop"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving(Hub()) as hub:
        yield hub


@pytest.fixture
def project(tmp_path: Path) -> Path:
    hub_study(tmp_path / "project")
    return tmp_path / "project"


def command(project: Path, hub: Hub, *arguments: str) -> list[str]:
    return [
        *(sys.executable, "-m", "chord", "fetch", "--study", "demo", "--root", str(project)),
        *("--mirror", hub.address, *arguments),
    ]


def environment(**more: str) -> dict[str, str]:
    unwanted = ("HF_HUB_OFFLINE", "HF_TOKEN", "HF_ENDPOINT", "CHORD_HUB")
    return {name: value for name, value in os.environ.items() if name not in unwanted} | more


def fetch(project: Path, hub: Hub, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return warm.run(command(project, hub, *arguments), cwd=ROOT, env=environment(**more), timeout=200)


def fetched(project: Path, commit: str) -> dict[str, bytes]:
    folder = project / "hub" / REPOSITORY / commit
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def lock_file(project: Path) -> Path:
    return project / "config" / "locks" / "demo.json"


def test_what_arrives_is_pinned_and_a_second_time_nothing_is_brought(project: Path, hub: Hub) -> None:
    commit = hub.push(REPOSITORY, FILES)
    done = fetch(project, hub)
    assert done.returncode == 0, done.stderr
    assert fetched(project, commit) == {name: FILES[name] for name in FILES if name.endswith(".parquet")}
    (pinned,) = json.loads(lock_file(project).read_text())["repositories"]
    assert (pinned["commit"], pinned["revision"]) == (commit, "main")
    assert pinned["files"] == {
        name: {"size": len(FILES[name]), "sha256": hashlib.sha256(FILES[name]).hexdigest()}
        for name in ("data/train-0.parquet", "data/train-1.parquet")
    }
    before, asked = lock_file(project).read_bytes(), len(hub.asked)
    again = fetch(project, hub)
    assert again.returncode == 0 and "as in config/locks/demo.json" in again.stdout
    assert [path for path, _, _ in hub.asked[asked:] if not path.startswith("api/")] == []
    assert lock_file(project).read_bytes() == before


def test_a_branch_that_moved_on_changes_nothing_until_it_is_asked_for(project: Path, hub: Hub) -> None:
    old = hub.push(REPOSITORY, FILES)
    assert fetch(project, hub).returncode == 0
    new = hub.push(REPOSITORY, FILES | {"data/train-1.parquet": b"other"})
    assert fetch(project, hub).returncode == 0
    assert json.loads(lock_file(project).read_text())["repositories"][0]["commit"] == old
    assert fetch(project, hub, "--update").returncode == 0
    assert json.loads(lock_file(project).read_text())["repositories"][0]["commit"] == new
    assert fetched(project, new)["data/train-1.parquet"] == b"other"


def test_a_pinned_commit_that_is_gone_is_refused(project: Path, hub: Hub) -> None:
    old = hub.push(REPOSITORY, FILES)
    assert fetch(project, hub).returncode == 0
    hub.commits[REPOSITORY].pop(old)
    hub.push(REPOSITORY, FILES | {"more": b"1"})
    done = fetch(project, hub)
    assert done.returncode == 2
    assert f"found no revision {old}, expected it on the hub; it is pinned by the lock file" in done.stderr


def test_other_bytes_under_the_pinned_commit_are_refused_and_not_kept(project: Path, hub: Hub) -> None:
    commit = hub.push(REPOSITORY, FILES)
    assert fetch(project, hub).returncode == 0
    file = project / "hub" / REPOSITORY / commit / "data" / "train-1.parquet"
    file.unlink()
    hub.commits[REPOSITORY][commit]["data/train-1.parquet"] = b"evil!"
    before = lock_file(project).read_bytes()
    done = fetch(project, hub)
    assert done.returncode == 2
    assert "as in the lock file: the hub has other bytes now; it was not kept" in done.stderr
    assert not file.exists() and not file.with_name("train-1.parquet.part").exists()
    assert lock_file(project).read_bytes() == before


@pytest.mark.parametrize("name", ["data/train-0.parquet", "data/train-1.parquet"])
def test_a_file_damaged_on_the_way_is_refused_and_pins_nothing(name: str, project: Path, hub: Hub) -> None:
    commit = hub.push(REPOSITORY, FILES)
    hub.damaged = {name}
    done = fetch(project, hub)
    assert done.returncode == 2
    assert f"{name}: found " in done.stderr and "it was damaged on the way; it was not kept" in done.stderr
    assert name not in fetched(project, commit)
    assert not lock_file(project).exists()
    hub.damaged = set()
    assert fetch(project, hub).returncode == 0
    assert fetched(project, commit)[name] == FILES[name]


def test_a_killed_download_goes_on_where_it_ended(project: Path, hub: Hub) -> None:
    commit = hub.push(REPOSITORY, FILES)
    hub.stops_after = 11_000_000
    part = project / "hub" / REPOSITORY / commit / "data" / "train-0.parquet.part"
    child = subprocess.Popen(
        command(project, hub), cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    for _ in range(600):
        if part.exists() and part.stat().st_size:
            break
        time.sleep(0.1)
    child.send_signal(signal.SIGKILL)
    child.wait()
    there = part.stat().st_size
    assert 0 < there < len(LARGE)
    hub.stops_after, asked = None, len(hub.asked)
    assert fetch(project, hub).returncode == 0
    ranges = [wanted for path, wanted, _ in hub.asked[asked:] if path.endswith("train-0.parquet")]
    assert set(ranges) == {f"bytes={there}-"}
    assert fetched(project, commit)["data/train-0.parquet"] == LARGE
    assert not part.exists()


def test_offline_checks_what_is_there_and_names_what_is_not(project: Path, hub: Hub) -> None:
    commit = hub.push(REPOSITORY, FILES)
    done = fetch(project, hub, HF_HUB_OFFLINE="1")
    assert done.returncode == 2 and "found no entry in config/locks/demo.json" in done.stderr
    assert fetch(project, hub).returncode == 0
    asked = len(hub.asked)
    done = fetch(project, hub, "--offline")
    assert done.returncode == 0 and "2 files of 1 repositories are here" in done.stdout
    file = project / "hub" / REPOSITORY / commit / "data" / "train-1.parquet"
    file.write_bytes(b"smalL")
    done = fetch(project, hub, "--offline")
    assert done.returncode == 2
    assert "train-1.parquet: found SHA-256 " in done.stderr and "the file was altered" in done.stderr
    file.unlink()
    assert "found no such file, expected 5 bytes" in fetch(project, hub, "--offline").stderr
    assert len(hub.asked) == asked
    assert fetch(project, hub).returncode == 0
    assert file.read_bytes() == b"small"


def test_the_token_opens_a_closed_repository_and_is_in_no_file_and_no_message(project: Path, hub: Hub) -> None:
    hub.push(REPOSITORY, FILES)
    hub.closed_without[REPOSITORY] = TOKEN
    done = fetch(project, hub)
    assert done.returncode == 2 and "found it closed, expected access; accept its terms and set HF_TOKEN" in done.stderr
    wrong = fetch(project, hub, HF_TOKEN="hf_wrong")
    assert wrong.returncode == 2 and "hf_wrong" not in wrong.stdout + wrong.stderr
    done = fetch(project, hub, HF_TOKEN=TOKEN)
    assert done.returncode == 0, done.stderr
    assert {token for path, _, token in hub.asked if path.startswith("datasets/")} == {TOKEN}
    assert TOKEN not in done.stdout + done.stderr
    for path in project.rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes(), path


def test_a_repository_or_a_file_that_is_not_there_is_one_line(project: Path, hub: Hub) -> None:
    done = fetch(project, hub)
    assert done.returncode == 2
    assert "dataset made-up/sums: found no such repository" in done.stderr
    hub.push(REPOSITORY, {"README.md": b"made up"})
    done = fetch(project, hub)
    assert "found no data/train-*.parquet, expected it there" in done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("chord fetch: ")]) == 1
    assert "Traceback" not in done.stderr


def test_a_disk_without_room_is_told_before_anything_is_brought(project: Path, hub: Hub) -> None:
    hub.push(REPOSITORY, FILES)
    code = subprocess.run(
        [sys.executable, "-c", ROOM, *command(project, hub)[3:]],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert code.returncode == 2
    assert "found 0.5 GiB free, expected 1.0 GiB for what study demo lacks" in code.stderr
    assert not (project / "hub").exists()


ROOM = """
import shutil, sys
from types import SimpleNamespace
shutil.disk_usage = lambda place: SimpleNamespace(free=1 << 29)
from chord.data import fetch
from chord.provenance.files import run_verb
sys.argv = ["chord fetch", *sys.argv[1:]]
run_verb("chord fetch", fetch.main)
"""


def test_another_folder_may_be_named_for_what_is_fetched(project: Path, hub: Hub, tmp_path: Path) -> None:
    commit = hub.push(REPOSITORY, FILES)
    assert fetch(project, hub, CHORD_HUB=str(tmp_path / "scratch")).returncode == 0
    assert (tmp_path / "scratch" / REPOSITORY / commit / "data/train-1.parquet").read_bytes() == b"small"
    assert not (project / "hub").exists()
