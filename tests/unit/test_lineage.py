"""The graph of a study: who made what from what, in causal order, wherever the study lies; hashes read a file once."""

import os
import shutil
from pathlib import Path

import pytest

from chord.provenance import lineage as lineages
from chord.provenance.files import tree_hash
from chord.provenance.ledger import read_attempts
from chord.provenance.lineage import Hasher, Lineage, read_lineage
from chord.provenance.manifest import JobSpec, Manifest


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Raw data -> problems -> model -> table, and a second table from the problems alone."""
    folder = tmp_path / "results/demo"
    (folder / "raw").mkdir(parents=True)
    (folder / "raw/data").write_text("raw")
    made(folder, "problems", {"raw": "raw/data"}, "problems.jsonl")
    made(folder, "train", {"problems": "problems.jsonl"}, "model/weights", "model")
    made(folder, "table", {"model": "model", "problems": "problems.jsonl"}, "table.json")
    made(folder, "other", {"problems": "problems.jsonl"}, "other.json")
    return folder


def made(folder: Path, name: str, inputs: dict[str, str], file: str, output: str = "") -> None:
    paths = {key: folder / place for key, place in inputs.items()}
    outputs = {"made": folder / (output or file)}
    with Manifest.recording(folder / f"{name}.manifest.json", JobSpec("chord.records"), inputs=paths, outputs=outputs):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(name)


def behind(lineage: Lineage, *names: str) -> list[str]:
    return [lineage.place(path) for path in lineage.behind([lineage.study / name for name in names])]


def test_what_stands_behind_a_file_comes_before_it_and_nothing_else_comes(study: Path) -> None:
    lineage = read_lineage(study)
    assert behind(lineage, "table.json") == ["raw/data", "problems.jsonl", "model", "table.json"]
    assert behind(lineage, "other.json") == ["raw/data", "problems.jsonl", "other.json"]
    assert behind(lineage, "no such file") == ["no such file"]


def test_the_graph_names_makers_and_readers(study: Path) -> None:
    lineage = read_lineage(study)
    assert lineage.makers[study / "model"].path == study / "train.manifest.json"
    assert study / "raw/data" not in lineage.makers
    readers = [reading.job.path.name for reading in lineage.readings[study / "problems.jsonl"]]
    assert sorted(readers) == ["other.manifest.json", "table.manifest.json", "train.manifest.json"]


def test_a_circle_of_manifests_ends(study: Path) -> None:
    made(study, "circle", {"table": "table.json"}, "raw/data")
    assert set(behind(read_lineage(study), "table.json")) == {"raw/data", "problems.jsonl", "model", "table.json"}


def test_a_damaged_manifest_is_told_apart_and_what_a_link_shows_of_elsewhere_is_not_counted(
    study: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "results/another"
    shutil.copytree(study, elsewhere)
    (study / "other.manifest.json").write_text("{}")
    (study / "linked").symlink_to(elsewhere)
    (study / "again").symlink_to(study)
    lineage = read_lineage(study)
    assert list(lineage.unreadable) == [study / "other.manifest.json"]
    assert len(lineage.jobs) == 3


@pytest.mark.parametrize("inside", [False, True], ids=["on another disk", "in the study"])
def test_manifests_behind_a_link_count_where_they_were_written(study: Path, tmp_path: Path, inside: bool) -> None:
    made(study, "runs/grpo/train", {"problems": "problems.jsonl"}, "runs/grpo/metrics.jsonl")
    before = read_lineage(study)
    disk = study / "a store" if inside else tmp_path / "disk"
    (study / "runs").rename(disk)
    (study / "runs").symlink_to(disk)
    (study / "latest").symlink_to("runs/grpo")
    after = read_lineage(study)
    assert after.jobs.keys() == before.jobs.keys()
    assert after.makers[study / "runs/grpo/metrics.jsonl"].path == study / "runs/grpo/train.manifest.json"


def test_attempts_are_counted_by_how_they_ended(study: Path) -> None:
    with (
        pytest.raises(ValueError),
        Manifest.recording(study / "x.json", JobSpec("chord.records"), inputs={}, outputs={}),
    ):
        raise ValueError
    assert read_attempts(study / "provenance/ledger.jsonl").outcomes == {"ok": 4, "failed": 1}
    assert read_attempts(study / "no ledger").is_missing


# --- hashes ------------------------------------------------------------------------------------


def test_a_hasher_reads_each_byte_once_and_tells_what_it_read(study: Path) -> None:
    told: list[int] = []
    hasher = Hasher(study, read=told.append)
    (study / "model/more").write_bytes(b"x" * 3_000_000)
    now = hasher.now(study / "model")
    assert now.sha256 == tree_hash(study / "model")
    assert sum(told) == hasher.bytes_read == now.bytes == 3_000_005


@pytest.mark.parametrize("act", ["edited", "replaced", "file led elsewhere", "folder led elsewhere"])
def test_a_quick_hasher_believes_what_it_kept_until_what_a_link_leads_to_changes(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    monkeypatch.setattr(lineages, "SETTLED_NS", -(10**18))  # not even what was written just now is read again
    model, disk, file, other = study / "model", tmp_path / "disk", tmp_path / "file", tmp_path / "other"
    other.mkdir()
    (model / "weights").rename(file)
    model.rename(disk)
    for link, target in ((disk / "weights", file), (model, disk)):
        link.symlink_to(target)
    first = Hasher(study, quick=True)
    before = first.now(model)
    first.keep()
    again = Hasher(study, quick=True)
    assert (again.now(model), again.bytes_read) == (before, 0)
    changed = file if act == "edited" else other / "weights"
    changed.write_text(file.read_text()[::-1])  # as long as before
    if act == "replaced":
        changed.replace(file)
    elif act != "edited":
        link, target = (disk / "weights", changed) if act.startswith("file") else (model, other)
        link.unlink()
        link.symlink_to(target)
    assert Hasher(study, quick=True).now(model).sha256 not in (None, before.sha256)


def test_what_cannot_be_read_has_no_hash_and_a_reason(study: Path) -> None:
    hasher = Hasher(study)
    assert hasher.now(study / "nothing").is_missing
    (study / "link").symlink_to("gone")
    os.mkfifo(study / "pipe")
    told = {"link": "a link to nothing", "pipe": "a device, a pipe or a socket"}
    assert {name: hasher.now(study / name)[::2] for name in told} == {name: (None, why) for name, why in told.items()}
