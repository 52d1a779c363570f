"""Ranks under torchrun's agent train the model that one process trains; stopped or killed, they go on to its bytes."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from chord.records import Problem, Trace, read_lines, write_lines
from tests import warm
from tests.faults.small_run import command, result, small_run

ROOT = Path(__file__).parents[2]
RANKS = ["-m", "tests.faults.forked_ranks", "chord", "train"]
RANDOM = {"init": "random", "steps": 9, "learning_rate": 3e-3}
RECIPES = {
    "chord-phi": RANDOM | {"mu": {"schedule": "constant", "value": 0.3}, "expert_tokens": {"weight": "p(1-p)"}},
    "sft": RANDOM | {"mu": {"schedule": "constant", "value": 1.0}, "keep": "every"},
    "luffy": RANDOM
    | {"mu": {"schedule": "constant", "value": 0.0}, "method": "luffy", "traces": "aligned", "reshape_gamma": 0.1},
}


def start(program: list[str], folder: Path, out: Path) -> warm.Process:
    return warm.start([sys.executable, *program, *command(folder, out)], cwd=ROOT)


def finished(process: warm.Process) -> str:
    stderr = process.communicate(timeout=300)[1]
    assert process.returncode == 0, stderr[-3000:]
    return stderr


def inputs(folder: Path, name: str, **changes: object) -> Path:
    small_run(folder, recipe=RECIPES[name], arm=name, **changes)
    if name == "luffy":
        problems = read_lines(folder / "prompts.jsonl", Problem)
        traces = [Trace(f"a-{p.id}", p.id, p.prompt, f"={p.answer}", "scripted expert") for p in problems]
        (folder / "traces.jsonl").write_text(write_lines(traces))
        (folder / "solved.jsonl").write_text(write_lines(problems))
    return folder


def numbers(value: object, place: str = "") -> dict[str, object]:
    """Plain values of nested JSON by their place; what is null has none."""
    if not isinstance(value, dict):
        return {} if value is None else {place: value}
    return {key: one for name, inner in value.items() for key, one in numbers(inner, f"{place}/{name}").items()}


@pytest.mark.parametrize("name", RECIPES)
def test_two_ranks_give_the_metrics_and_the_weights_of_one_process(tmp_path: Path, name: str) -> None:
    """In float64, where the order of a sum is worth 1e-16: sampled texts are the same, all else to 1e-9."""
    folder = inputs(tmp_path, name, **{"execution.compute_dtype": "float64"})
    finished(start(["-m", "chord", "train"], folder, tmp_path / "one"))
    finished(start(RANKS, folder, tmp_path / "two"))
    pairs = zip(*((tmp_path / out / "metrics.jsonl").read_text().splitlines() for out in ("one", "two")), strict=True)
    for line, other in pairs:
        expected, found = numbers(json.loads(line)), numbers(json.loads(other))
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)
    one, two = (load_file(tmp_path / out / "model" / "model.safetensors") for out in ("one", "two"))
    assert all((one[key] - two[key]).abs().max() < 1e-9 for key in one) and one.keys() == two.keys()
    if name == "sft":
        assert (tmp_path / "one/validation.jsonl").read_bytes() == (tmp_path / "two/validation.jsonl").read_bytes()
        kept = [sorted(path.name for path in (tmp_path / out / "candidates").iterdir()) for out in ("one", "two")]
        assert kept[0] == kept[1] == ["step-000007.safetensors", "step-000009.safetensors"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """The inputs of a run of two ranks, and what it leaves when nobody disturbs it."""
    folder = inputs(tmp_path_factory.mktemp("ranks"), "chord-phi", **{"recipe.steps": 30})
    finished(start(RANKS, folder, folder / "out"))
    return folder, result(folder / "out")


def run_until(folder: Path, out: Path, step: int) -> warm.Process:
    """Two ranks that have just taken `step`."""
    process = start(RANKS, folder, out)
    said = []
    for line in process.lines():
        said.append(line)
        if f"step {step}/30" in line:
            return process
    raise AssertionError("".join(said)[-3000:])


def descendants(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(one for child in children for one in descendants(int(child)))]


def test_two_ranks_killed_twice_go_on_from_the_same_checkpoint_to_the_same_bytes(undisturbed, tmp_path: Path) -> None:
    folder, expected = undisturbed
    for step in (6, 15):
        process = run_until(folder, tmp_path / "out", step)
        for pid in descendants(process.pid):
            os.kill(pid, signal.SIGKILL)
        process.communicate()
    said = finished(start(RANKS, folder, tmp_path / "out"))
    assert "from step 0" not in said and said.count("30 steps, from step") == 1
    assert result(tmp_path / "out") == expected


def test_two_ranks_told_to_stop_save_and_go_on_to_the_same_bytes(undisturbed, tmp_path: Path) -> None:
    folder, expected = undisturbed
    process = run_until(folder, tmp_path / "out", 6)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=120)[1]
    assert process.returncode != 0 and "SIGTERM: saved after step" in said, said[-3000:]
    assert not (tmp_path / "out" / "model").exists()
    said = finished(start(RANKS, folder, tmp_path / "out"))
    assert "from step 0" not in said
    assert result(tmp_path / "out") == expected


def test_a_loss_that_is_not_finite_on_any_rank_ends_all_of_them_with_one_dump(tmp_path: Path) -> None:
    small_run(tmp_path, **{"recipe.learning_rate": 1e30, "optimiser.warmup_steps": 0})
    process = start(RANKS, tmp_path, tmp_path / "out")
    said = process.communicate(timeout=120)[1]
    assert process.returncode != 0
    assert said.count("no weight was changed; see") == 1, said[-3000:]
    assert "exitcode  : 3" in said and "Connection closed" not in said
    (dump,) = (tmp_path / "out" / "state").glob("*/not-finite-step-*.json")
    assert "sequences" in json.loads(dump.read_text())["what"]
