"""What is stale and why: code, settings, pins, inputs, outputs. Contents decide, and each is read once."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from chord.provenance import environment, lineage
from chord.provenance.changes import Today, differences
from chord.provenance.check import Check, Finding, Status, summary, survey
from chord.provenance.lineage import Hasher, read_lineage
from chord.provenance.manifest import JobSpec, Manifest
from tests.faults.tampers import edit_json

VERB = "chord.reach"  # a module with no imports stands for a verb
FIRST, SECOND = "data/one.manifest.json", "model.manifest.json"


def expected(**changes) -> dict[str, JobSpec]:
    usual = {"verb": VERB, "uses": {}, "step": "data", "decided_by": {"size": 3, "names": ["a", "b"]}}
    return {FIRST: JobSpec(**(usual | changes)), SECOND: JobSpec(VERB, "data")}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Two jobs: one makes a file, the other reads it and makes a folder."""
    folder = tmp_path / "results" / "demo"
    one, model = folder / "data" / "one.jsonl", folder / "model"
    jobs = [
        (FIRST, {}, {"one": one}, {"size": 3, "names": ["a", "b"]}),
        (SECOND, {"one": one}, {"model": model}, {}),
    ]
    for key, inputs, outputs, decided in jobs:
        with Manifest.recording(folder / key, JobSpec(VERB, "data", decided), inputs=inputs, outputs=outputs):
            for path in outputs.values():
                file = path if path.suffix else path / "weights"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(f"made by {key}")
    return folder


def stale(study: Path, given: dict[str, JobSpec] | None = None) -> dict[str, list[str]]:
    found = survey(study, Today(given or expected()))
    return {key: [one.clause for one in findings] for key, findings in found.items()}


def test_what_was_just_made_is_fresh(study: Path) -> None:
    assert stale(study) == {}


def test_a_changed_setting_is_told_with_its_old_and_new_value(study: Path) -> None:
    told = stale(study, expected(decided_by={"size": 4, "names": ["a", "c"], "more": True}))
    assert told == {FIRST: ["settings size: 3 -> 4", "settings names.1: b -> c", "settings more: nothing -> true"]}


@pytest.mark.parametrize("where", ["chord.reach.PlugPoint", "which definition uses which"])
def test_changed_code_is_told_by_its_definition_or_by_how_definitions_hang_together(study: Path, where: str) -> None:
    module, _, name = where.rpartition(".")

    def change(manifest: dict[str, Any]) -> None:
        manifest["code"]["digest"] = "0" * 64
        if module:
            words = manifest["code"]["definitions"][module].split()
            words[words.index(name) + 1] = "0" * 8
            manifest["code"]["definitions"][module] = " ".join(words)

    edit_json(study / FIRST, change)
    (told,) = stale(study)[FIRST]
    assert told.startswith(f"code {where}: 00000000 -> ")


def test_a_changed_pin_is_told_with_both_versions(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = environment.pinned
    monkeypatch.setattr(environment, "pinned", lambda root, step: real(root, step) | {"numpy": "9.9"})
    for told in stale(study).values():
        assert len(told) == 1 and told[0].startswith("pin in envs/data.txt of numpy: ") and told[0].endswith("-> 9.9")


def test_an_edited_output_is_told_and_so_is_who_read_it(study: Path) -> None:
    (study / "data/one.jsonl").write_text("made by HAND, same size")
    told = stale(study)
    assert told.keys() == {FIRST, SECOND}
    assert re.fullmatch(r"one.jsonl: found SHA-256 .* as chord.reach recorded", told[FIRST][0])
    assert told[SECOND][0].startswith("input data/one.jsonl: ")


EDITS_OF_A_FOLDER = {
    "a bit": lambda folder: (folder / "weights").write_text((folder / "weights").read_text()[:-1] + "!"),
    "a new file": lambda folder: (folder / "extra").write_text(""),
    "all gone": lambda folder: shutil.rmtree(folder),
    "a link to another": lambda folder: (folder.rename(folder.with_name("real")), folder.symlink_to("data")),
    "a link to nothing": lambda folder: (folder.rename(folder.with_name("real")), folder.symlink_to("gone")),
    "a link in it to what it lies in": lambda folder: (folder / "up").symlink_to(".."),
}


@pytest.mark.parametrize("edit", EDITS_OF_A_FOLDER)
def test_every_edit_of_a_folder_is_told_by_times_as_by_bytes(study: Path, edit: str) -> None:
    EDITS_OF_A_FOLDER[edit](study / "model")
    by_times = survey(study, Today(expected()))
    assert list(by_times) == [SECOND]
    check = Check(read_lineage(study), Hasher(study), Today(expected()))
    found = [one for job in check.lineage.jobs.values() for one in check.job(job)]
    found += [one for path in check.lineage.makers for one in check.file(path)]
    assert {one for one in found if one.status.is_bad} == {one for some in by_times.values() for one in some}


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The name of each file whose bytes are read, on a disk whose clock stands still between two writes for no time."""
    monkeypatch.setattr(lineage, "SETTLED_NS", -(10**18))
    names: list[str] = []
    read = Hasher._read
    monkeypatch.setattr(Hasher, "_read", lambda hasher, path: names.append(path.name) or read(hasher, path))
    return names


def test_another_file_with_the_size_and_times_of_an_output_is_told(study: Path, reads: list[str]) -> None:
    assert stale(study) == {} and set(reads) == {"weights", "one.jsonl"}
    for name, keys in {"model/weights": {SECOND}, "data/one.jsonl": {FIRST, SECOND}}.items():
        file, other = study / name, study / "other"
        shutil.copy2(file, other)
        other.write_text(file.read_text().swapcase())
        os.utime(other, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
        other.replace(file)
        assert stale(study).keys() >= keys


def test_touched_and_copied_files_are_fresh_and_read_once(study: Path, tmp_path: Path, reads: list[str]) -> None:
    moved = tmp_path / "else where" / "results" / "demo"
    shutil.copytree(study, moved, copy_function=shutil.copyfile)
    assert stale(moved) == {}
    assert sorted(set(reads)) == ["one.jsonl", "weights"]
    for ahead in (7200, -7200):
        for path in moved.rglob("*"):
            os.utime(path, (path.stat().st_mtime + ahead,) * 2)
        reads.clear()
        assert stale(moved) == {}
        assert sorted(set(reads)) == ["one.jsonl", "weights"]
        reads.clear()
        assert stale(moved) == {}
        assert reads == []


def test_what_was_written_just_now_is_read_again(study: Path, reads: list[str], monkeypatch) -> None:
    monkeypatch.setattr(lineage, "SETTLED_NS", 10**18)
    for _ in range(2):
        reads.clear()
        assert stale(study) == {}
        assert "weights" in reads


def test_what_is_kept_of_reading_is_no_evidence(study: Path, reads: list[str]) -> None:
    assert stale(study) == {}
    kept = study.parent.parent / ".snakemake" / "read" / "demo.json"
    lie = {name: [*entry[:4], "0" * 64] for name, entry in json.loads(kept.read_text()).items()}
    for text in ("{", "[]", "3", '{"model/weights": 3}', '{"model/weights": [1, 2, 3, 4, 5]}', json.dumps(lie)):
        kept.write_text(text)
        reads.clear()
        assert stale(study) == {}, text
        assert "weights" in reads
    kept.unlink()
    kept.mkdir()
    assert stale(study) == {}
    (study / "model/weights").write_text("another")
    assert list(stale(study)) == [SECOND]


def test_a_job_that_read_another_content_is_stale_though_its_maker_is_fresh(study: Path) -> None:
    one = study / "data" / "one.jsonl"
    with Manifest.recording(
        study / FIRST,
        JobSpec(VERB, "data", {"size": 3, "names": ["a", "b"]}),
        inputs={},
        outputs={"o": one},
    ):
        one.write_text("made anew")
    assert list(stale(study)) == [SECOND]


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda text: text[:-20], "Invalid JSON: "),
        (lambda text: text.replace("chord-manifest-3", "chord-manifest-2"), "format: "),
        (lambda text: "[]", ""),
        (lambda text: "[" * 100_000, "Invalid JSON: "),
        (lambda text: json.dumps(json.loads(text) | {"inputs": []}), "inputs: "),
        (lambda text: json.dumps(json.loads(text) | {"code": {}}), "code.digest: "),
        (lambda text: text.replace('"path": "data/one.jsonl"', '"path": 3'), "outputs.one.path: "),
        (lambda text: text.replace('"root": "study"', '"root": "moon"'), "outputs.one.root: "),
        (lambda text: text.replace('"verb"', '"verbs"'), "verb: "),
    ],
)
def test_a_manifest_that_is_none_is_stale_and_what_is_wrong_is_told(study: Path, damage, told: str) -> None:
    (study / FIRST).write_text(damage((study / FIRST).read_text()))
    assert list(stale(study)) == [FIRST]
    (why,) = stale(study)[FIRST]
    assert why.startswith(f"one.manifest.json: found {told}")
    assert not read_lineage(study, [FIRST]).jobs


def test_a_folder_in_the_place_of_a_manifest_or_of_a_run_json_is_stale(study: Path) -> None:
    (study / FIRST).unlink()
    (study / FIRST).mkdir()
    assert list(stale(study)) == [FIRST]
    (study / "run.json").mkdir()
    assert list(survey(study, Today(run_texts={"run.json": "{}"}))) == ["run.json"]


def test_a_run_json_that_the_configuration_no_longer_says_is_told_key_by_key(study: Path) -> None:
    path = study / "runs" / "run.json"
    path.parent.mkdir()
    path.write_text('{"mu": {"peak": 0.9}}\n')
    assert survey(study, Today(run_texts={"runs/run.json": '{"mu": {"peak": 0.9}}'})) == {}
    found = survey(study, Today(run_texts={"runs/run.json": '{"mu": {"peak": 0.8}}'}))
    assert [one.clause for one in found["runs/run.json"]] == ["settings mu.peak: 0.9 -> 0.8"]
    path.write_text("no JSON")
    assert list(survey(study, Today(run_texts={"runs/run.json": "{}"}))) == ["runs/run.json"]


def test_differences_tell_numbers_from_truth_values_and_long_values_are_cut() -> None:
    assert [str(one) for one in differences("x", {"a": 1}, {"a": True})] == ["x a: 1 -> true"]
    (told,) = differences("x", {"a": "b" * 500}, {})
    assert len(str(told)) < 100 and str(told).endswith("-> nothing")


def test_the_summary_counts_the_jobs_of_each_change() -> None:
    finding = Finding(Status.STALE, "results/demo/x", "code chord.x: a -> b", "snakemake")
    told = summary({f"runs/{name}/train.manifest.json": [finding] for name in "pqrs"})
    assert told == ["stale: code chord.x: a -> b (runs/p/train, runs/q/train and 2 more)"]
