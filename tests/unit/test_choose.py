"""Choosing among trained runs by their validation accuracy."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from chord.records import candidate_name
from tests import warm

ROOT = Path(__file__).resolve().parents[2]


def run_dir(folder: Path, accuracies: dict[int, float]) -> Path:
    """A finished run; its weights after a step are the text RUN@STEP, those of its model belong to no step."""
    for name in ("model", "candidates"):
        (folder / name).mkdir(parents=True)
    (folder / "model" / "config.json").write_text("{}")
    (folder / "model" / "model.safetensors").write_bytes(b"the last step's")
    for step in accuracies:
        if step:
            (folder / "candidates" / candidate_name(step)).write_text(f"{folder.name}@{step}")
    (folder / "metrics.jsonl").write_text(f"metrics of {folder.name}\n")
    rows = [{"step": step, "accuracy": accuracy} for step, accuracy in accuracies.items()]
    (folder / "validation.json").write_text(json.dumps({"steps": rows}))
    return folder


def choose(tmp_path: Path, *candidates: Path, scores: Sequence[Path] = ()) -> subprocess.CompletedProcess[str]:
    out = tmp_path / "out"
    names = ("model", "metrics.jsonl", "validation.json", "chosen.json")
    words = [f"--{name.partition('.')[0]}={out / name}" for name in names]
    words.append(f"--manifest={out / 'chosen.manifest.json'}")
    words += ["--scores", *map(str, scores)] if scores else []
    return warm.run([sys.executable, "-m", "chord", "choose", "--candidates", *map(str, candidates), *words], cwd=ROOT)


def read(tmp_path: Path, name: str = "chosen") -> dict[str, Any]:
    return json.loads((tmp_path / f"out/{name}.json").read_text())


def test_the_run_with_the_best_validation_accuracy_is_copied_in_the_place_of_an_older_choice(tmp_path: Path) -> None:
    (tmp_path / "out/model").mkdir(parents=True)
    (tmp_path / "out/model/stale.bin").write_text("x")
    low = run_dir(tmp_path / "low", {0: 0.3, 5: 0.5, 10: 0.6})
    high = run_dir(tmp_path / "high", {0: 0.3, 10: 0.8, 15: 0.1})
    result = choose(tmp_path, low, high)
    assert result.returncode == 0, result.stderr
    chosen = read(tmp_path)
    assert chosen["chosen"] == {"run": str(high), "step": 10, "accuracy": 0.8}
    assert [(c["step"], c["accuracy"]) for c in chosen["candidates"]] == [(10, 0.6), (10, 0.8)]
    assert sorted(path.name for path in (tmp_path / "out/model").iterdir()) == ["config.json", "model.safetensors"]
    assert (tmp_path / "out/model/model.safetensors").read_text() == "high@10"
    for name in ("metrics.jsonl", "validation.json"):
        assert (tmp_path / "out" / name).read_bytes() == (high / name).read_bytes()
    manifest = read(tmp_path, "chosen.manifest")
    assert len(manifest["inputs"]) == 8 and set(manifest["outputs"]) == {"model", "metrics", "validation", "chosen"}


@pytest.mark.parametrize(
    ("first", "second", "chosen"),
    [
        ({0: 0.9, 5: 0.2}, {0: 0.9, 5: 0.3}, ("second", 5, 0.3)),  # the model before training is not chosen
        ({0: 0.1, 5: 0.5, 10: 0.5}, {1: 0.5}, ("first", 5, 0.5)),  # among equals the earlier run and its earlier step
    ],
)
def test_neither_the_start_nor_the_later_of_equals_is_chosen(first, second, chosen, tmp_path: Path) -> None:
    assert choose(tmp_path, run_dir(tmp_path / "first", first), run_dir(tmp_path / "second", second)).returncode == 0
    found = read(tmp_path)["chosen"]
    assert (Path(found["run"]).name, found["step"], found["accuracy"]) == chosen


BAD = {
    "found nothing there": None,
    "found : Invalid JSON": "",
    "found steps.0.accuracy: Field required": '{"steps": [{"step": 1}]}',
    "found no validation after step 0": '{"steps": [{"step": 0, "accuracy": 0.5}]}',
    "found steps.0.accuracy: Input should be a finite number": '{"steps": [{"step": 1, "accuracy": NaN}]}',
    "found steps.0.accuracy: Input should be less than or equal to 1": '{"steps": [{"step": 1, "accuracy": 1.5}]}',
}


@pytest.mark.parametrize("said", BAD)
def test_a_candidate_without_whole_results_is_named_and_nothing_is_written(said: str, tmp_path: Path) -> None:
    good, bad = run_dir(tmp_path / "good", {1: 0.5}), run_dir(tmp_path / "bad", {1: 0.5})
    (bad / "validation.json").unlink()
    if BAD[said] is not None:
        (bad / "validation.json").write_text(BAD[said])
    result = choose(tmp_path, good, bad)
    assert result.returncode == 2
    assert result.stderr.startswith(f"chord choose: {bad / 'validation.json'}: {said}"), result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())


@pytest.mark.parametrize("lost", ["model/config.json", "candidates/step-000001.safetensors"])
def test_a_candidate_without_its_model_or_the_weights_of_a_validated_step_is_named(lost: str, tmp_path: Path) -> None:
    bad = run_dir(tmp_path / "bad", {1: 0.5, 2: 0.6})
    (bad / lost).unlink()
    result = choose(tmp_path, bad)
    assert result.returncode == 2
    assert result.stderr.startswith(f"chord choose: {bad}") and result.stderr.count("\n") == 1
    assert Path(lost).name in result.stderr and "found no" in result.stderr


def test_on_a_benchmark_the_last_weights_with_the_highest_score_are_taken(tmp_path: Path) -> None:
    accuracies = {"a": {10: 0.9, 20: 0.8}, "b": {10: 0.1, 20: 0.2}}
    runs = [run_dir(tmp_path / name / "seed-1", found) for name, found in accuracies.items()]
    scores = [run / "eval/harder/scores.json" for run in runs]
    for file, mean in zip(scores, (0.30, 0.35), strict=True):
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps({"mean": mean}))
    done = choose(tmp_path, *runs, scores=scores)
    assert done.returncode == 0, done.stderr
    told = read(tmp_path)
    assert told["chosen"] == {"run": str(runs[1]), "step": 20, "accuracy": 0.35}
    assert told["rule"].startswith("the highest mean on the benchmark")
    assert (tmp_path / "out/model/model.safetensors").read_bytes() == b"the last step's"
    decided = read(tmp_path, "chosen.manifest")["decided_by"]
    assert decided == {"candidates": ["a", "b"], "on": "test", "benchmark": "harder"}
    done = choose(tmp_path, *runs, scores=scores[:1])
    assert done.returncode == 2
    assert "found 1 files, expected one for each of 2 candidates" in done.stderr
