"""`chord fetch` against a hub on this machine: what arrives is pinned to the byte, whatever happens on the way."""

import fcntl
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chord.config.project import load
from chord.config.sets import repositories
from chord.errors import ConfigError
from tests import warm
from tests.hub_server import Hub, serving
from tests.projects import ROOT, study_file

REPOSITORY = "datasets/made-up/sums"
LARGE = bytes(range(256)) * 50_000  # 12.8 MB; huggingface_hub writes 10 MiB at a time
WANTED = {"data/train-0.parquet": LARGE, "data/train-1.parquet": b"small"}
FILES = WANTED | {"README.md": b"made up", "run.py": b"exit()"}
TOKEN = "hf_abcdefghijklmnop"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving(Hub()) as hub:
        yield hub


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The demo with problems and traces of a made-up dataset."""
    split = {"task": "published", "size": 40}
    dataset = {"repository": "made-up/sums", "revision": "main", "files": ["data/train-*.parquet"]}
    columns = {name: name for name in ("question", "answer", "generations", "verified")}
    task = {"source": "hub", "dataset": "sums", "filters": {"generations": 1}, "prompt": "{question}"}
    changes = {"datasets": {"sums": dataset | {"columns": columns}}, "tasks__published": task}
    changes |= {"data__train": split, "data__expert": split, "data__validation": split | {"size": 128}}
    study_file(tmp_path / "project", "demo", expert={"source": "published", "name": "made-up expert"}, **changes)
    return tmp_path / "project"


def command(project: Path, hub: Hub, *arguments: str) -> list[str]:
    place = ("--root", str(project), "--mirror", hub.address)
    return [sys.executable, "-m", "chord", "fetch", "--study", "demo", *place, *arguments]


def environment(**more: str) -> dict[str, str]:
    unwanted = ("HF_HUB_OFFLINE", "HF_TOKEN", "HF_ENDPOINT", "CHORD_HUB")
    return {name: value for name, value in os.environ.items() if name not in unwanted} | more


def fetch(project: Path, hub: Hub, *arguments: str, code: int = 0, **more: str) -> str:
    """What is printed where all goes well; with another exit code the complaints."""
    done = warm.run(command(project, hub, *arguments), cwd=ROOT, env=environment(**more), timeout=200)
    assert done.returncode == code, done.stderr
    assert "hf_" not in done.stdout + done.stderr and "Traceback" not in done.stderr
    return "".join(line for line in done.stderr.splitlines(True) if line.startswith("chord")) if code else done.stdout


def started(project: Path, hub: Hub) -> subprocess.Popen[str]:
    return subprocess.Popen(command(project, hub), cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True)


def fetched(project: Path, commit: str) -> dict[str, bytes]:
    folder = project / "hub" / REPOSITORY / commit
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def lock_file(project: Path) -> Path:
    return project / "config" / "locks" / "demo.json"


def pinned(project: Path) -> Any:
    return json.loads(lock_file(project).read_text())["repositories"]


def test_models_of_other_arms_and_served_experts_are_fetched_with_the_studys_own() -> None:
    needed = {name: repositories(load(ROOT, name).study) for name in ("math", "tools")}
    models = {name: [one.name for one in found if one.kind == "model"] for name, found in needed.items()}
    assert models["math"] == ["Qwen/Qwen2.5-7B-Instruct", "Qwen/Qwen2.5-3B-Instruct", "Qwen/Qwen2.5-7B"]
    assert models["tools"] == ["meta-llama/Llama-3.2-3B-Instruct", "Qwen/Qwen2.5-72B-Instruct"]
    assert all("*.safetensors" in one.required for found in needed.values() for one in found if one.kind == "model")


def test_a_lock_file_is_read_with_the_study_and_a_damaged_one_is_told(project: Path) -> None:
    commit, file = "0123456789" * 4, {"data/train-0.parquet": {"size": 3, "sha256": "0" * 64}}
    one = {"kind": "dataset", "name": "made-up/sums", "revision": "main", "commit": commit, "files": file}
    lock_file(project).parent.mkdir(exist_ok=True)

    def write(**changes: str) -> None:
        lock_file(project).write_text(json.dumps({"study": "demo", "repositories": [one | changes]}))

    write()
    loaded = load(project)
    (wanted,) = repositories(loaded.study)
    assert loaded.lock and (found := loaded.lock.find(wanted)) and found.commit == commit
    assert loaded.lock.find(wanted._replace(revision="v2")) is None
    assert loaded.lock.find(wanted._replace(required=("data/test.jsonl",))) is None
    for changes, said in (
        ({"commit": "main"}, 'repositories.0.commit is "main"'),
        ({"token": "secret"}, "repositories.0.token is not a key here"),
        (None, "found an empty file, expected a whole lock file of `chord fetch --study demo`"),
    ):
        lock_file(project).write_text("") if changes is None else write(**changes)
        with pytest.raises(ConfigError) as refused:
            load(project)
        assert str(refused.value).startswith(f"config/locks/demo.json: {said}")


def test_what_arrives_is_pinned_and_a_second_time_nothing_is_brought(project: Path, hub: Hub) -> None:
    commit = hub.push(REPOSITORY, FILES)
    fetch(project, hub)
    assert fetched(project, commit) == WANTED
    told = {name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in WANTED.items()}
    one = {"kind": "dataset", "name": "made-up/sums", "revision": "main", "commit": commit, "files": told}
    assert pinned(project) == [one]
    before, asked = lock_file(project).read_bytes(), len(hub.asked)
    assert "as in config/locks/demo.json" in fetch(project, hub)
    assert all(path.startswith("api/") for path, _, _ in hub.asked[asked:])
    assert lock_file(project).read_bytes() == before


def test_a_branch_that_moved_on_changes_nothing_until_it_is_asked_for(project: Path, hub: Hub) -> None:
    old = hub.push(REPOSITORY, FILES)
    fetch(project, hub)
    new = hub.push(REPOSITORY, FILES | {"data/train-1.parquet": b"other"})
    fetch(project, hub)
    assert pinned(project)[0]["commit"] == old
    hub.commits[REPOSITORY].pop(old)
    told = fetch(project, hub, code=2)
    assert f"found no revision {old}, expected it on the hub; it is pinned by the lock file" in told
    fetch(project, hub, "--update")
    assert pinned(project)[0]["commit"] == new
    assert fetched(project, new)["data/train-1.parquet"] == b"other"


def test_another_folder_may_be_named_for_what_is_fetched(project: Path, hub: Hub, tmp_path: Path) -> None:
    commit = hub.push(REPOSITORY, FILES)
    fetch(project, hub, CHORD_HUB=str(tmp_path / "scratch"))
    assert (tmp_path / "scratch" / REPOSITORY / commit / "data/train-1.parquet").read_bytes() == b"small"
    assert not (project / "hub").exists()


def test_other_bytes_under_the_pinned_commit_are_refused_and_not_kept(project: Path, hub: Hub) -> None:
    commit = hub.push(REPOSITORY, FILES)
    fetch(project, hub)
    (project / "hub" / REPOSITORY / commit / "data/train-1.parquet").unlink()
    hub.commits[REPOSITORY][commit]["data/train-1.parquet"] = b"evil!"
    before = lock_file(project).read_bytes()
    told = fetch(project, hub, code=2)
    assert "as in the lock file: the hub has other bytes now; it was not kept" in told
    assert fetched(project, commit) == {"data/train-0.parquet": LARGE}
    assert lock_file(project).read_bytes() == before


@pytest.mark.parametrize("name", WANTED)
def test_a_file_damaged_on_the_way_is_refused_and_pins_nothing(name: str, project: Path, hub: Hub) -> None:
    commit = hub.push(REPOSITORY, FILES)
    hub.damaged = {name}
    told = fetch(project, hub, code=2)
    assert f"{name}: found " in told and "it was damaged on the way; it was not kept" in told
    assert name not in fetched(project, commit)
    assert not lock_file(project).exists()
    hub.damaged = set()
    fetch(project, hub)
    assert fetched(project, commit) == WANTED


def test_a_killed_download_goes_on_where_it_ended(project: Path, hub: Hub) -> None:
    commit = hub.push(REPOSITORY, FILES)
    hub.stops_after = 11_000_000
    part = project / "hub" / REPOSITORY / commit / "data" / "train-0.parquet.part"
    with started(project, hub) as child:
        for _ in range(600):
            if part.exists() and part.stat().st_size:
                break
            time.sleep(0.1)
        child.kill()
    there = part.stat().st_size
    assert 0 < there < len(LARGE)
    hub.stops_after, asked = None, len(hub.asked)
    fetch(project, hub)
    ranges = [wanted for path, wanted, _ in hub.asked[asked:] if path.endswith("train-0.parquet")]
    assert set(ranges) == {f"bytes={there}-"}
    assert fetched(project, commit) == WANTED


def test_a_file_that_another_process_brings_meanwhile_is_not_brought_again(project: Path, hub: Hub) -> None:
    commit = hub.push(REPOSITORY, FILES)
    part = project / "hub" / REPOSITORY / commit / "data" / "train-0.parquet.part"
    part.parent.mkdir(parents=True)
    with part.open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        child = started(project, hub)
        assert child.stderr and "train-0.parquet (1 of 2" in child.stderr.readline()
        time.sleep(0.5)
        held.write(LARGE)
        held.flush()
        part.rename(part.with_suffix(""))
    _, told = child.communicate(timeout=100)
    assert child.returncode == 0, told
    assert not any(path.endswith("train-0.parquet") for path, _, _ in hub.asked)
    assert fetched(project, commit) == WANTED


def test_offline_checks_what_is_there_and_names_what_is_not(project: Path, hub: Hub) -> None:
    commit = hub.push(REPOSITORY, FILES)
    assert "found no lock file config/locks/demo.json" in fetch(project, hub, code=2, HF_HUB_OFFLINE="1")
    fetch(project, hub)
    asked = len(hub.asked)
    assert "2 files of 1 repositories are here" in fetch(project, hub, "--offline")
    folder = project / "hub" / REPOSITORY / commit / "data"
    (folder / "train-0.parquet").unlink()
    (folder / "train-1.parquet").write_bytes(b"smalL")
    missing, altered = fetch(project, hub, "--offline", code=2).splitlines()
    assert f"train-0.parquet: found no such file, expected {len(LARGE)} bytes" in missing
    assert "train-1.parquet: found SHA-256 " in altered and "the file was altered; run `chord fetch" in altered
    (folder / "train-1.parquet").write_bytes(b"smaller")
    assert "found 7 bytes, expected 5 as in the lock file" in fetch(project, hub, "--offline", code=2)
    assert len(hub.asked) == asked
    fetch(project, hub)
    assert fetched(project, commit) == WANTED


def test_the_token_opens_a_closed_repository_and_is_in_no_file_and_no_message(project: Path, hub: Hub) -> None:
    hub.push(REPOSITORY, FILES)
    hub.closed_without[REPOSITORY] = TOKEN
    told = fetch(project, hub, code=2)
    assert "found it closed, expected access; accept its terms and set HF_TOKEN" in told
    fetch(project, hub, code=2, HF_TOKEN="hf_wrong")
    fetch(project, hub, HF_TOKEN=TOKEN)
    assert {token for path, _, token in hub.asked if path.startswith("datasets/")} == {TOKEN}
    assert not any(TOKEN.encode() in path.read_bytes() for path in project.rglob("*") if path.is_file())


def test_a_repository_or_a_file_that_is_not_there_is_one_line(project: Path, hub: Hub) -> None:
    told = fetch(project, hub, code=2)
    assert "dataset made-up/sums: found no such repository" in told
    hub.push(REPOSITORY, {"README.md": b"made up"})
    told = fetch(project, hub, code=2)
    assert "found no data/train-*.parquet, expected it there" in told and told.count("\n") == 1


ROOM = """
import shutil
from types import SimpleNamespace
shutil.disk_usage = lambda place: SimpleNamespace(free=1 << 29)
from chord.data import fetch
from chord.provenance.cli import run_verb
run_verb("chord fetch", fetch.main)
"""


def test_a_disk_without_room_is_told_before_anything_is_brought(project: Path, hub: Hub) -> None:
    hub.push(REPOSITORY, FILES)
    code = [sys.executable, "-c", ROOM, *command(project, hub)[4:]]
    done = subprocess.run(code, cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True, timeout=100)
    assert done.returncode == 2
    assert "found 0.5 GiB free, expected 1.0 GiB for what study demo lacks" in done.stderr
    assert not (project / "hub").exists()
