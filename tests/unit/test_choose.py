"""Choosing among trained runs by their validation accuracy."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run_dir(folder: Path, accuracies: dict[int, float | None]) -> Path:
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "config.json").write_text("{}")
    (folder / "model" / "model.safetensors").write_bytes(folder.name.encode())
    rows = [{"step": step, "validation": None if a is None else {"accuracy": a}} for step, a in accuracies.items()]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def choose(tmp_path: Path, *candidates: Path) -> subprocess.CompletedProcess[str]:
    out = tmp_path / "out"
    names = {"model": "model", "metrics": "metrics.jsonl", "chosen": "chosen.json", "manifest": "chosen.manifest.json"}
    paths = [part for name, file in names.items() for part in (f"--{name}", str(out / file))]
    command = [sys.executable, "-m", "chord.choose", "--candidates", *map(str, candidates), *paths]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_run_with_the_best_validation_accuracy_at_any_step_is_copied(tmp_path: Path) -> None:
    low = run_dir(tmp_path / "low", {0: 0.3, 5: 0.5, 10: 0.6})
    high = run_dir(tmp_path / "high", {0: 0.3, 5: None, 10: 0.8, 15: 0.1})
    result = choose(tmp_path, low, high)
    assert result.returncode == 0, result.stderr
    chosen = json.loads((tmp_path / "out/chosen.json").read_text())
    assert chosen["chosen"] == {"run": str(high), "step": 10, "accuracy": 0.8}
    assert [(c["step"], c["accuracy"]) for c in chosen["candidates"]] == [(10, 0.6), (10, 0.8)]
    assert (tmp_path / "out/model/model.safetensors").read_bytes() == b"high"
    assert (tmp_path / "out/metrics.jsonl").read_bytes() == (high / "metrics.jsonl").read_bytes()
    manifest = json.loads((tmp_path / "out/chosen.manifest.json").read_text())
    assert len(manifest["inputs"]) == 4 and set(manifest["outputs"]) == {"model", "metrics", "chosen"}


def test_the_model_before_training_is_not_chosen(tmp_path: Path) -> None:
    worse = run_dir(tmp_path / "worse", {0: 0.9, 5: 0.2})
    assert choose(tmp_path, worse, run_dir(tmp_path / "better", {0: 0.9, 5: 0.3})).returncode == 0
    chosen = json.loads((tmp_path / "out/chosen.json").read_text())["chosen"]
    assert (Path(chosen["run"]).name, chosen["step"], chosen["accuracy"]) == ("better", 5, 0.3)


def test_among_equals_the_earlier_step_and_the_earlier_candidate_win(tmp_path: Path) -> None:
    first = run_dir(tmp_path / "first", {0: 0.1, 5: 0.5, 10: 0.5})
    second = run_dir(tmp_path / "second", {1: 0.5})
    assert choose(tmp_path, first, second).returncode == 0
    chosen = json.loads((tmp_path / "out/chosen.json").read_text())["chosen"]
    assert chosen == {"run": str(first), "step": 5, "accuracy": 0.5}


def test_the_old_choice_is_replaced_whole(tmp_path: Path) -> None:
    (tmp_path / "out/model").mkdir(parents=True)
    (tmp_path / "out/model/stale.bin").write_text("x")
    assert choose(tmp_path, run_dir(tmp_path / "only", {1: 0.5})).returncode == 0
    assert sorted(path.name for path in (tmp_path / "out/model").iterdir()) == ["config.json", "model.safetensors"]


BAD = {
    "missing": (None, "found no such text file"),
    "empty": ("", "found an empty file"),
    "cut": ('{"step": 1, "validation": {"accuracy": 0.5}}', "found a last line without end"),
    "foreign": ('{"loss": 1}\n', "line 1: found no step and validation.accuracy"),
    "never validated": (
        '{"step": 0, "validation": {"accuracy": 0.5}}\n{"step": 1, "validation": null}\n',
        "found no validation result",
    ),
    "not a number": ('{"step": 1, "validation": {"accuracy": NaN}}\n', "line 1: found validation accuracy nan"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_candidate_without_whole_metrics_is_named_and_nothing_is_written(case: str, tmp_path: Path) -> None:
    content, expected = BAD[case]
    good, bad = run_dir(tmp_path / "good", {1: 0.5}), run_dir(tmp_path / "bad", {1: 0.5})
    (bad / "metrics.jsonl").unlink()
    if content is not None:
        (bad / "metrics.jsonl").write_text(content)
    result = choose(tmp_path, good, bad)
    assert result.returncode == 2
    assert result.stderr.startswith(f"chord.choose: {bad / 'metrics.jsonl'}") and result.stderr.count("\n") == 1
    assert expected in result.stderr or case == "missing"
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())


def test_a_candidate_without_weights_is_named(tmp_path: Path) -> None:
    bad = run_dir(tmp_path / "bad", {1: 0.5})
    (bad / "model/model.safetensors").unlink()
    result = choose(tmp_path, bad)
    assert result.returncode == 2
    assert (
        result.stderr.startswith(f"chord.choose: {bad / 'model'}: found no weights") and result.stderr.count("\n") == 1
    )


def test_choosing_never_loads_torch() -> None:
    code = "import sys, chord.choose; sys.exit('torch' in sys.modules or 'lm_eval' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
