"""Training under ZeRO: killed, it goes on to the same bytes; on other ranks or another stage, to the same numbers.

Where DeepSpeed does not add up what it should, training refuses to begin.
"""

import json
import os
import shutil
import signal
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests import warm
from tests.faults.small_run import command, result, small_run
from tests.faults.test_ranks import descendants, finished, numbers, start

FIXED = "tests.faults.fixed_draws"  # in the place of chord train where numbers of two ways to compute are compared

ROOT = Path(__file__).parents[2]
ALONE = ["-m", FIXED]
LOAD = "deepspeed.runtime.zero.muon.muon_optimizer"  # all of DeepSpeed, and torch.compile, which it loads for that
RANKS = ["-m", "tests.faults.forked_ranks", "--load", LOAD, FIXED]
STEPS = 9
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed: make install-engines"),
]

# Starts chord train where DeepSpeed has one fault; the rest of its code is its own.
BROKEN = """
import runpy, sys
from chord.training.sharded import deepspeed_module
deepspeed_module()
from deepspeed.runtime.engine import DeepSpeedEngine
from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer
FAULT
sys.argv.insert(1, "train")
runpy.run_module("chord", run_name="__main__", alter_sys=True)
"""
FAULTS = {
    "micro-batches before the last are lost": """
whole = DeepSpeedEngine.backward
def lossy(self, loss, *args, **kwargs):
    return whole(self, loss if self.is_gradient_accumulation_boundary() else loss * 0, *args, **kwargs)
DeepSpeedEngine.backward = lossy
""",
    "what is offloaded forgets what was there": """
keep = DeepSpeedZeroOptimizer.async_accumulate_grad_in_cpu_via_gpu
def forgets(self, param):
    self.micro_step_id = 0
    keep(self, param)
DeepSpeedZeroOptimizer.async_accumulate_grad_in_cpu_via_gpu = forgets
""",
}


def zero(stage: int, offload: str = "none") -> dict[str, object]:
    return {"recipe.steps": STEPS, "execution.zero": {"stage": stage, "offload": offload}}


def manifest(out: Path) -> dict:
    return json.loads((out / "train.manifest.json").read_text())["extra"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """The inputs of a run of two ranks under ZeRO-3 with offload, and what it leaves when nobody disturbs it."""
    folder = small_run(tmp_path_factory.mktemp("zero"), **zero(3, "optimiser"))
    finished(start(RANKS, folder, folder / "out"))
    return folder, result(folder / "out")


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process without DeepSpeed makes of the same run."""
    folder = small_run(tmp_path_factory.mktemp("plain"), **{"recipe.steps": STEPS})
    finished(start(ALONE, folder, folder / "out"))
    return folder / "out"


def killed_at(folder: Path, out: Path, step: int, program: list[str]) -> None:
    """Kills all processes of the run when it has told of `step`."""
    process = start(program, folder, out)
    said = []
    for line in process.lines():
        said.append(line)
        if f"step {step}/{STEPS}" in line:
            for pid in descendants(process.pid):
                os.kill(pid, signal.SIGKILL)
            process.communicate()
            return
    raise AssertionError("".join(said)[-3000:])


def same_numbers(out: Path, expected: Path) -> None:
    """Of fixed texts: numbers are to 1e-4, weights to 1e-5. float32 sums in another order are apart by 1e-7 a step."""
    pairs = zip(*((one / "metrics.jsonl").read_text().splitlines() for one in (out, expected)), strict=True)
    for line, other in pairs:
        found, wanted = (
            {key: value for key, value in numbers(json.loads(text)).items() if "mismatch" not in key}
            for text in (line, other)
        )
        assert found == pytest.approx(wanted, rel=1e-4, abs=1e-6)
    one, two = (load_file(folder / "model" / "model.safetensors") for folder in (out, expected))
    assert one.keys() == two.keys() and all((one[key] - two[key]).abs().max() < 1e-5 for key in one)


def test_two_ranks_under_zero_3_give_what_one_process_gives_and_the_same_files(undisturbed, one_process: Path) -> None:
    folder, found = undisturbed
    same_numbers(folder / "out", one_process)
    assert found.keys() == result(one_process).keys()
    same = [name for name in found if name.startswith("model/") and not name.endswith(".safetensors")]
    assert len(same) >= 5 and all(found[name] == result(one_process)[name] for name in same)
    told = manifest(folder / "out")
    assert told["stretches"] == [{"from_step": 0, "ranks": 2, "zero": {"stage": 3, "offload": "optimiser"}}]
    assert told["preflight"]["ranks"] == 2 and 0 < max(told["preflight"]["relative_error"].values()) < 1e-4
    assert "preflight" not in manifest(one_process)


def test_killed_at_a_checkpoint_and_between_two_it_goes_on_to_the_same_bytes(undisturbed, tmp_path: Path) -> None:
    folder, expected = undisturbed
    for step in (3, 7):
        killed_at(folder, tmp_path / "out", step, RANKS)
    assert "from step 6" in finished(start(RANKS, folder, tmp_path / "out"))
    assert result(tmp_path / "out") == expected
    assert len(manifest(tmp_path / "out")["stretches"]) == 1


def test_begun_on_two_ranks_it_ends_on_one_without_deepspeed_and_the_other_way_round(
    undisturbed, one_process: Path, tmp_path: Path
) -> None:
    folder, _ = undisturbed
    plain = one_process.parent
    killed_at(folder, tmp_path / "out", 4, RANKS)
    shutil.copytree(tmp_path / "out" / "state", tmp_path / "back" / "state")
    assert "from step 3" in finished(start(ALONE, plain, tmp_path / "out"))
    same_numbers(tmp_path / "out", one_process)
    stretches = [{"from_step": 0, "ranks": 2, "zero": {"stage": 3, "offload": "optimiser"}}]
    stretches.append({"from_step": 3, "ranks": 1, "zero": {"stage": 0, "offload": "none"}})
    assert manifest(tmp_path / "out")["stretches"] == stretches

    killed_at(plain, tmp_path / "back", 7, ALONE)
    again = small_run(tmp_path / "again", **zero(2))
    assert "from step 6" in finished(start(RANKS, again, tmp_path / "back"))
    same_numbers(tmp_path / "back", one_process)
    stretches.append({"from_step": 6, "ranks": 2, "zero": {"stage": 2, "offload": "none"}})
    assert manifest(tmp_path / "back")["stretches"] == stretches


@pytest.mark.parametrize("fault", FAULTS)
def test_a_deepspeed_that_loses_gradients_is_refused_before_the_first_step(fault: str, tmp_path: Path) -> None:
    folder = small_run(tmp_path, **zero(2, "optimiser"))
    code = BROKEN.replace("FAULT", FAULTS[fault])
    done = warm.run([sys.executable, "-c", code, *command(folder, tmp_path / "out")], cwd=ROOT)
    assert done.returncode == 2, done.stderr[-3000:]
    for said in ("found that DeepSpeed 0.", "stage 2, offload optimiser, float32 on 1 rank(s)", "relative error 0."):
        assert said in done.stderr
    assert "Traceback" not in done.stderr and "step 1/" not in done.stderr
    assert not (tmp_path / "out" / "model").exists() and not (tmp_path / "out" / "train.manifest.json").exists()
