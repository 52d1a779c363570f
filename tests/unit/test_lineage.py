"""The graph of a study: who made what from what, in causal order, wherever the study lies; hashes read a file once."""

import os
import shutil
from pathlib import Path

import pytest

from chord.errors import UserError
from chord.provenance import lineage as lineages
from chord.provenance.files import tree_hash
from chord.provenance.ledger import read_attempts
from chord.provenance.lineage import Hasher, Lineage, read_lineage, study_of
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


def test_a_study_that_was_moved_or_renamed_has_the_same_graph(study: Path, tmp_path: Path) -> None:
    before = behind(read_lineage(study), "table.json")
    moved = tmp_path / "else where/results/renamed"
    moved.parent.mkdir(parents=True)
    study.rename(moved)
    assert behind(read_lineage(moved), "table.json") == before


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


def test_a_place_outside_of_results_is_refused(tmp_path: Path) -> None:
    assert study_of(tmp_path / "results/demo/runs/grpo") == tmp_path / "results/demo"
    assert study_of(tmp_path / "results/demo") == tmp_path / "results/demo"
    with pytest.raises(UserError, match="found no folder results/STUDY above it"):
        study_of(tmp_path / "elsewhere")


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


def test_only_a_quick_hasher_believes_what_it_kept(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lineages, "SETTLED_NS", -(10**18))  # not even what was written just now is read again
    first = Hasher(study)
    before = first.now(study / "table.json")
    first.keep()
    quick = Hasher(study, quick=True)
    assert quick.now(study / "table.json") == before
    assert quick.bytes_read == 0
    assert Hasher(study).now(study / "table.json") == before
    (study / "table.json").write_text("tabl3")  # as long as before; another time
    assert Hasher(study, quick=True).now(study / "table.json").sha256 != before.sha256


@pytest.mark.parametrize("place", ["table.json", "model/weights", "model"])
@pytest.mark.parametrize("act", ["edited", "replaced", "led elsewhere"])
def test_a_quick_hasher_sees_what_a_link_leads_to(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, act: str
) -> None:
    monkeypatch.setattr(lineages, "SETTLED_NS", -(10**18))
    disk = tmp_path / "disk"
    shutil.move(study / place, disk)
    (study / place).symlink_to(disk)
    first = Hasher(study, quick=True)
    before = first.now(study / place)
    first.keep()
    assert Hasher(study, quick=True).now(study / place) == before
    other = tmp_path / "other"
    (shutil.copytree if disk.is_dir() else shutil.copy)(disk, other)

    def file_of(root: Path) -> Path:
        return root / "weights" if root.is_dir() else root

    changed = file_of(disk if act == "edited" else other)
    changed.write_text(changed.read_text()[::-1])  # as long as before
    if act == "replaced":
        changed.replace(file_of(disk))
    elif act == "led elsewhere":
        (study / place).unlink()
        (study / place).symlink_to(other)
    assert Hasher(study, quick=True).now(study / place).sha256 not in (None, before.sha256)


def test_what_cannot_be_read_has_no_hash_and_a_reason_and_a_link_has_the_hash_of_what_it_leads_to(
    study: Path, tmp_path: Path
) -> None:
    hasher = Hasher(study)
    assert hasher.now(study / "nothing").is_missing
    (study / "link").symlink_to(study / "table.json")
    assert hasher.now(study / "link") == hasher.now(study / "table.json")
    (tmp_path / "elsewhere").mkdir()
    (study / "folder").symlink_to(tmp_path / "elsewhere")
    (study / "model/weights").rename(study / "folder/file")
    (study / "model/weights").symlink_to("../folder/file")
    before = read_lineage(study).makers[study / "model"].outputs[study / "model"]
    assert hasher.now(study / "model")[:2] == (before.sha256, before.bytes)
    (study / "model/weights").unlink()
    (study / "model/weights").symlink_to("gone")
    assert hasher.now(study / "model").problem == "a link to nothing"
    (study / "folder/back").symlink_to(".")
    assert hasher.now(study / "folder").problem == "a link back to a folder above it"
    os.mkfifo(study / "pipe")
    assert hasher.now(study / "pipe").problem == "a device, a pipe or a socket"


def test_the_study_itself_may_be_a_link_to_a_larger_disk(study: Path, tmp_path: Path) -> None:
    linked = tmp_path / "project/results/demo"
    linked.parent.mkdir(parents=True)
    linked.symlink_to(study)
    assert Hasher(linked).now(linked / "table.json") == Hasher(study).now(study / "table.json")
