"""The graph of a study: who made what from what, in causal order, wherever the study lies; hashes read a file once."""

import os
import shutil
from pathlib import Path

import pytest

from chord.provenance.attempts import read_attempts
from chord.provenance.files import UserError
from chord.provenance.hashing import tree_hash
from chord.provenance.lineage import Lineage, read_lineage, study_of
from chord.provenance.manifest import Manifest
from chord.provenance.rehash import Hasher, total_bytes


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
    with Manifest.recording(folder / f"{name}.manifest.json", verb="chord.seeds", inputs=paths, outputs=outputs):
        (folder / file).parent.mkdir(exist_ok=True)
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


def test_a_damaged_manifest_is_told_apart_and_a_linked_folder_is_not_followed(study: Path, tmp_path: Path) -> None:
    (study / "other.manifest.json").write_text("{}")
    elsewhere = tmp_path / "results/another"
    shutil.copytree(study, elsewhere)
    (study / "linked").symlink_to(elsewhere)
    lineage = read_lineage(study)
    assert list(lineage.unreadable) == [study / "other.manifest.json"]
    assert len(lineage.jobs) == 3


def test_a_place_outside_of_results_is_refused(tmp_path: Path) -> None:
    assert study_of(tmp_path / "results/demo/runs/grpo") == tmp_path / "results/demo"
    assert study_of(tmp_path / "results/demo") == tmp_path / "results/demo"
    with pytest.raises(UserError, match="found no folder results/STUDY above it"):
        study_of(tmp_path / "elsewhere")


def test_attempts_are_counted_by_how_they_ended(study: Path) -> None:
    with pytest.raises(ValueError), Manifest.recording(study / "x.json", verb="chord.seeds", inputs={}, outputs={}):
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
    assert sum(told) == hasher.bytes_read == now.bytes == total_bytes([study / "model", study / "gone"]) == 3_000_005


def test_only_a_quick_hasher_believes_what_it_kept(study: Path) -> None:
    first = Hasher(study)
    before = first.now(study / "table.json")
    first.keep()
    quick = Hasher(study, quick=True)
    assert quick.now(study / "table.json") == before
    assert quick.bytes_read == 0
    assert Hasher(study).now(study / "table.json") == before
    (study / "table.json").write_text("tabl3")  # as long as before; another time
    assert Hasher(study, quick=True).now(study / "table.json").sha256 != before.sha256


def test_what_is_no_file_of_its_own_has_no_hash_and_a_reason(study: Path, tmp_path: Path) -> None:
    hasher = Hasher(study)
    assert hasher.now(study / "nothing").is_missing
    (study / "link").symlink_to(study / "table.json")
    assert hasher.now(study / "link").problem == "a symbolic link"
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/file").write_text("x")
    (study / "folder").symlink_to(tmp_path / "elsewhere")
    assert hasher.now(study / "folder/file").problem == "a symbolic link in the place of folder"
    os.mkfifo(study / "pipe")
    assert hasher.now(study / "pipe").problem == "a device, a pipe or a socket"


def test_the_study_itself_may_be_a_link_to_a_larger_disk(study: Path, tmp_path: Path) -> None:
    linked = tmp_path / "project/results/demo"
    linked.parent.mkdir(parents=True)
    linked.symlink_to(study)
    assert Hasher(linked).now(linked / "table.json") == Hasher(study).now(study / "table.json")
