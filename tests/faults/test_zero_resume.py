"""Under ZeRO a killed training goes on to the same bytes, on other ranks to the same numbers; faults are refused."""

import json
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests import warm
from tests.faults.small_run import command, finished, result, small_run, start
from tests.faults.test_ranks import killed_at, same_numbers
from tests.projects import ROOT

ALONE = "tests.faults.fixed_draws"  # chord train with fixed texts: numbers of two ways to compute can be compared
LOAD = "deepspeed.runtime.zero.muon.muon_optimizer"  # all of DeepSpeed, and torch.compile, which it loads for that
RANKS = f"tests.faults.forked_ranks --load {LOAD} {ALONE}"
STEPS = 9
OFFLOADED = {"stage": 3, "offload": "optimiser"}
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
{fault}
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


def zero_run(folder: Path, zero: dict[str, object] | None = None) -> Path:
    return small_run(folder, **{"recipe.steps": STEPS} | ({"execution.zero": zero} if zero else {}))


def manifest(out: Path) -> dict:
    return json.loads((out / "train.manifest.json").read_text())["extra"]


def stretch(from_step: int, ranks: int, stage: int, offload: str = "none") -> dict[str, object]:
    return {"from_step": from_step, "ranks": ranks, "zero": {"stage": stage, "offload": offload}}


def close(out: Path, expected: Path) -> None:
    """Of fixed texts: numbers are to 1e-4, weights to 1e-5. float32 sums in another order are apart by 1e-7 a step."""
    same_numbers(expected, out, weights=1e-5, without="mismatch", rel=1e-4, abs=1e-6)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """The inputs of a run of two ranks under ZeRO-3 with offload, and what it leaves when nobody disturbs it."""
    folder = zero_run(tmp_path_factory.mktemp("zero"), OFFLOADED)
    finished(start(folder, folder / "out", RANKS))
    return folder, result(folder / "out")


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process without DeepSpeed makes of the same run."""
    folder = zero_run(tmp_path_factory.mktemp("plain"))
    finished(start(folder, folder / "out", ALONE))
    return folder / "out"


def test_two_ranks_under_zero_3_give_what_one_process_gives_and_the_same_files(undisturbed, one_process: Path) -> None:
    folder, found = undisturbed
    close(folder / "out", one_process)
    assert found.keys() == result(one_process).keys()
    same = [name for name in found if name.startswith("model/") and not name.endswith(".safetensors")]
    assert len(same) >= 5 and all(found[name] == result(one_process)[name] for name in same)
    told = manifest(folder / "out")
    assert told["stretches"] == [stretch(0, 2, 3, "optimiser")]
    assert told["preflight"]["ranks"] == 2 and 0 < max(told["preflight"]["relative_error"].values()) < 1e-4
    assert "preflight" not in manifest(one_process)


def test_killed_at_a_checkpoint_and_between_two_it_goes_on_to_the_same_bytes(undisturbed, tmp_path: Path) -> None:
    folder, expected = undisturbed
    for step in (3, 7):
        killed_at(f"step {step}/{STEPS}", folder, tmp_path / "out", RANKS)
    assert "from step 6" in finished(start(folder, tmp_path / "out", RANKS))
    assert result(tmp_path / "out") == expected
    assert len(manifest(tmp_path / "out")["stretches"]) == 1


def test_begun_on_two_ranks_it_ends_on_one_without_deepspeed_and_the_other_way_round(
    undisturbed, one_process: Path, tmp_path: Path
) -> None:
    plain, out, back = one_process.parent, tmp_path / "out", tmp_path / "back"
    killed_at(f"step 4/{STEPS}", undisturbed[0], out, RANKS)
    shutil.copytree(out / "state", back / "state")
    assert "from step 3" in finished(start(plain, out, ALONE))
    close(out, one_process)
    stretches = [stretch(0, 2, 3, "optimiser"), stretch(3, 1, 0)]
    assert manifest(out)["stretches"] == stretches

    killed_at(f"step 7/{STEPS}", plain, back, ALONE)
    again = zero_run(tmp_path / "again", {"stage": 2, "offload": "none"})
    assert "from step 6" in finished(start(again, back, RANKS))
    close(back, one_process)
    assert manifest(back)["stretches"] == [*stretches, stretch(6, 2, 2)]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_deepspeed_that_loses_gradients_is_refused_before_the_first_step(fault: str, tmp_path: Path) -> None:
    folder = zero_run(tmp_path, OFFLOADED | {"stage": 2})
    code = BROKEN.format(fault=FAULTS[fault])
    done = warm.run([sys.executable, "-c", code, *command(folder, tmp_path / "out")], cwd=ROOT)
    assert done.returncode == 2, done.stderr[-3000:]
    for said in ("found that DeepSpeed 0.", "stage 2, offload optimiser, float32 on 1 rank(s)", "relative error 0."):
        assert said in done.stderr
    assert "Traceback" not in done.stderr and "step 1/" not in done.stderr
    assert not (tmp_path / "out" / "model").exists() and not (tmp_path / "out" / "train.manifest.json").exists()
