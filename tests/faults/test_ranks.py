"""Ranks under torchrun train the model that one process trains; stopped or killed, they go on to the same bytes."""

import json
import os
import signal
from pathlib import Path

import pytest
from safetensors.torch import load_file

from chord.records import Problem, Trace, read_lines, write_lines
from tests.faults.small_run import descendants, finished, result, small_run, start, until

RANKS = "tests.faults.forked_ranks chord train"
RANDOM = {"init": "random", "steps": 9, "learning_rate": 3e-3}
RECIPES = {
    "chord-phi": {"mu": {"schedule": "constant", "value": 0.3}, "expert_tokens": {"weight": "p(1-p)"}},
    "sft": {"mu": {"schedule": "constant", "value": 1.0}, "keep": "every"},
    "luffy": {"mu": {"schedule": "constant", "value": 0.0}, "method": "luffy", "traces": "aligned"}
    | {"reshape_gamma": 0.1},
}


def inputs(folder: Path, name: str, **changes: object) -> Path:
    small_run(folder, recipe=RANDOM | RECIPES[name], arm=name, **changes)
    if name == "luffy":
        problems = read_lines(folder / "prompts.jsonl", Problem)
        traces = [Trace(f"a-{p.id}", p.id, p.prompt, f"={p.answer}", "scripted expert") for p in problems]
        (folder / "traces.jsonl").write_text(write_lines(traces))
        (folder / "solved.jsonl").write_text(write_lines(problems))
    return folder


def numbers(value: object, place: str = "") -> dict[str, object]:
    """Plain values of nested JSON by their place, but those that are null."""
    if not isinstance(value, dict):
        return {} if value is None else {place: value}
    return {key: one for name, inner in value.items() for key, one in numbers(inner, f"{place}/{name}").items()}


def same_numbers(one: Path, two: Path, weights: float, without: str = "/nothing", **apart: float) -> None:
    """Asserts that the metrics of two runs are equal up to `apart`, and their weights up to `weights`."""
    pairs = zip(*((out / "metrics.jsonl").read_text().splitlines() for out in (one, two)), strict=True)
    for line in pairs:
        expected, found = ({k: v for k, v in numbers(json.loads(text)).items() if without not in k} for text in line)
        assert found == pytest.approx(expected, **apart)
    first, second = (load_file(out / "model" / "model.safetensors") for out in (one, two))
    assert first.keys() == second.keys()
    assert all((first[key] - second[key]).abs().max() < weights for key in first)


@pytest.mark.parametrize("name", RECIPES)
def test_two_ranks_give_the_metrics_and_the_weights_of_one_process(tmp_path: Path, name: str) -> None:
    """In float64, where the order of a sum is worth 1e-16: sampled texts are the same, all else to 1e-9."""
    folder, one, two = inputs(tmp_path, name, **{"execution.compute_dtype": "float64"}), tmp_path / "1", tmp_path / "2"
    finished(start(folder, one))
    finished(start(folder, two, RANKS))
    same_numbers(one, two, weights=1e-9, rel=1e-9, abs=1e-12)
    if name == "sft":
        assert (one / "validation.jsonl").read_bytes() == (two / "validation.jsonl").read_bytes()
        kept = [sorted(path.name for path in (out / "candidates").iterdir()) for out in (one, two)]
        assert kept[0] == kept[1] == ["step-000007.safetensors", "step-000009.safetensors"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """The inputs of a run of two ranks, and what it leaves when nobody disturbs it."""
    folder = inputs(tmp_path_factory.mktemp("ranks"), "chord-phi", **{"recipe.steps": 30})
    finished(start(folder, folder / "out", RANKS))
    return folder, result(folder / "out")


def killed_at(text: str, folder: Path, out: Path, program: str) -> None:
    """Kills all processes of the run when it has written this to standard error."""
    process = start(folder, out, program)
    until(process, text)
    for pid in descendants(process.pid):
        os.kill(pid, signal.SIGKILL)
    process.communicate()


def test_two_ranks_killed_twice_go_on_from_the_same_checkpoint_to_the_same_bytes(undisturbed, tmp_path: Path) -> None:
    folder, expected = undisturbed
    for step in (6, 15):
        killed_at(f"step {step}/30", folder, tmp_path / "out", RANKS)
    said = finished(start(folder, tmp_path / "out", RANKS))
    assert "from step 0" not in said and said.count("30 steps, from step") == 1
    assert result(tmp_path / "out") == expected


def test_two_ranks_told_to_stop_save_and_go_on_to_the_same_bytes(undisturbed, tmp_path: Path) -> None:
    folder, expected = undisturbed
    process = start(folder, tmp_path / "out", RANKS)
    until(process, "step 6/30")
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=120)[1]
    assert process.returncode != 0 and "SIGTERM: saved after step" in said, said[-3000:]
    assert not (tmp_path / "out" / "model").exists()
    assert "from step 0" not in finished(start(folder, tmp_path / "out", RANKS))
    assert result(tmp_path / "out") == expected


def test_a_loss_that_is_not_finite_on_any_rank_ends_all_of_them_with_one_dump(tmp_path: Path) -> None:
    small_run(tmp_path, **{"recipe.learning_rate": 1e30, "optimiser.warmup_steps": 0})
    process = start(tmp_path, tmp_path / "out", RANKS)
    said = process.communicate(timeout=120)[1]
    assert process.returncode != 0
    assert said.count("no weight was changed; see") == 1, said[-3000:]
    assert "exitcode  : 3" in said and "Connection closed" not in said
    (dump,) = (tmp_path / "out" / "state").glob("*/not-finite-step-*.json")
    assert "sequences" in json.loads(dump.read_text())["what"]
