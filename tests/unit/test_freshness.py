"""What is stale and why: code, settings, pins, inputs, outputs. Times of files decide nothing, and are put in order."""

import json
import os
import shutil
from pathlib import Path

import pytest

from chord.provenance import freshness
from chord.provenance.freshness import Expected, differences, survey
from chord.provenance.manifest import Manifest

VERB = "chord.seeds"  # a module with no imports stands for a verb
FIRST, SECOND = "data/one.manifest.json", "model.manifest.json"


def expected(**changes) -> dict[str, Expected]:
    usual = {"verb": VERB, "without": (), "step": "data", "decided_by": {"size": 3, "names": ["a", "b"]}}
    return {FIRST: Expected(**(usual | changes)), SECOND: Expected(VERB, (), "data", {})}


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
        with Manifest.recording(
            folder / key, verb=VERB, step="data", decided_by=decided, inputs=inputs, outputs=outputs
        ):
            for path in outputs.values():
                file = path if path.suffix else path / "weights"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(f"made by {key}")
    return folder


def stale(study: Path, given: dict[str, Expected] | None = None) -> dict[str, list[str]]:
    return {key: [str(one) for one in found] for key, found in survey(study, given or expected(), {}).items()}


def age(study: Path) -> None:
    """All was written long ago, so that an edit is later by more than a tick of the clock."""
    for path in study.rglob("*"):
        os.utime(path, ns=(10**18, 10**18))


def test_what_was_just_made_is_fresh(study: Path) -> None:
    assert stale(study) == {}


def test_a_changed_setting_is_told_with_its_old_and_new_value(study: Path) -> None:
    told = stale(study, expected(decided_by={"size": 4, "names": ["a", "c"], "more": True}))
    assert told == {FIRST: ["settings size: 3 -> 4", "settings names.1: b -> c", "settings more: nothing -> true"]}


def test_changed_code_is_told_by_its_module(study: Path) -> None:
    manifest = json.loads((study / FIRST).read_text())
    manifest["code"]["modules"]["chord.seeds"] = "0" * 64
    (study / FIRST).write_text(json.dumps(manifest))
    (told,) = stale(study)[FIRST]
    assert told.startswith("code chord.seeds: 00000000 -> ")


def test_a_changed_pin_is_told_with_both_versions(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = freshness.env.pinned
    monkeypatch.setattr(freshness.env, "pinned", lambda root, step: real(root, step) | {"numpy": "9.9"})
    for told in stale(study).values():
        assert len(told) == 1 and told[0].startswith("pin in envs/data.txt of numpy: ") and told[0].endswith("-> 9.9")


def test_an_edited_output_is_told_and_so_is_who_read_it(study: Path) -> None:
    age(study)
    (study / "data/one.jsonl").write_text("made by HAND, same size")
    told = stale(study)
    assert told.keys() == {FIRST, SECOND}
    assert told[FIRST][0].startswith("output one.jsonl: ") and told[FIRST][0].endswith(" by hand")
    assert told[SECOND][0].startswith("input one: ")


EDITS_OF_A_FOLDER = {
    "a bit": lambda folder: (folder / "weights").write_text((folder / "weights").read_text()[:-1] + "!"),
    "a new file": lambda folder: (folder / "extra").write_text(""),
    "a file gone": lambda folder: (folder / "weights").unlink(),
    "all gone": lambda folder: shutil.rmtree(folder),
    "a link": lambda folder: folder.rename(folder.with_name("real")).joinpath("..", "model").symlink_to("real"),
}


@pytest.mark.parametrize("edit", EDITS_OF_A_FOLDER)
def test_every_edit_of_a_folder_is_told(study: Path, edit: str) -> None:
    age(study)
    assert stale(study) == {}
    EDITS_OF_A_FOLDER[edit](study / "model")
    assert list(stale(study)) == [SECOND]


def test_a_file_written_again_with_the_same_content_is_fresh(study: Path) -> None:
    (study / "data/one.jsonl").write_text(f"made by {FIRST}")
    assert stale(study) == {}


def test_touched_and_copied_files_are_fresh_and_no_input_is_left_newer_than_what_was_made_of_it(
    study: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "else where" / "results" / "demo"
    shutil.copytree(study, moved, copy_function=shutil.copyfile)
    for number, name in enumerate(["model/weights", SECOND, FIRST, "data/one.jsonl"]):
        os.utime(moved / name, ns=(10**18 + number, 10**18 + number))
    os.utime(moved / "model", ns=(5, 5))
    assert stale(moved) == {}
    assert (moved / "data/one.jsonl").stat().st_mtime_ns <= (moved / "model").stat().st_mtime_ns
    before = freshness.content_hash
    try:
        freshness.content_hash = None  # type: ignore[assignment] # nothing is read a second time
        assert stale(moved) == {}
    finally:
        freshness.content_hash = before


def test_a_job_that_read_another_content_is_stale_though_its_maker_is_fresh(study: Path) -> None:
    one = study / "data" / "one.jsonl"
    with Manifest.recording(
        study / FIRST,
        verb=VERB,
        step="data",
        decided_by={"size": 3, "names": ["a", "b"]},
        inputs={},
        outputs={"o": one},
    ):
        one.write_text("made anew")
    assert list(stale(study)) == [SECOND]


def test_a_damaged_manifest_and_one_of_another_format_are_stale(study: Path) -> None:
    text = (study / FIRST).read_text()
    for damaged in (text[:-20], text.replace("chord-manifest-2", "chord-manifest-1"), "[]"):
        (study / FIRST).write_text(damaged)
        assert stale(study) == {
            FIRST: ["manifest one.manifest.json: one that can be read -> damaged or of another format"]
        }


def test_a_run_json_that_the_configuration_no_longer_says_is_told_key_by_key(study: Path) -> None:
    path = study / "runs" / "run.json"
    path.parent.mkdir()
    path.write_text('{"mu": {"peak": 0.9}}\n')
    assert survey(study, {}, {"runs/run.json": '{"mu": {"peak": 0.9}}'}) == {}
    found = survey(study, {}, {"runs/run.json": '{"mu": {"peak": 0.8}}'})
    assert [str(one) for one in found["runs/run.json"]] == ["settings mu.peak: 0.9 -> 0.8"]
    path.write_text("no JSON")
    assert list(survey(study, {}, {"runs/run.json": "{}"})) == ["runs/run.json"]


def test_a_read_only_copy_is_fresh(study: Path) -> None:
    os.utime(study / "data/one.jsonl", ns=(2 * 10**18, 2 * 10**18))
    for path in [study, *study.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    assert stale(study) == {}


def test_differences_tell_numbers_from_truth_values_and_long_values_are_cut() -> None:
    assert [str(one) for one in differences("x", {"a": 1}, {"a": True})] == ["x a: 1 -> true"]
    (told,) = differences("x", {"a": "b" * 500}, {})
    assert len(str(told)) < 100 and str(told).endswith("-> nothing")


def test_the_summary_counts_the_jobs_of_each_change() -> None:
    change = freshness.Change("code", "chord.x", "a", "b")
    told = freshness.summary({f"runs/{name}/train.manifest.json": [change] for name in "pqrs"})
    assert told == ["stale: code chord.x: a -> b (runs/p/train, runs/q/train and 2 more)"]
