"""Under each ZeRO stage, with and without offload, two ranks take the steps of one process without DeepSpeed."""

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests import warm
from tests.conftest import made_once
from tests.parity.zero_ranks import BFLOAT16, CHANGES, SPLITS, WAYS, name_of

ROOT = Path(__file__).parents[2]
LOAD = "deepspeed.runtime.zero.muon.muon_optimizer"  # all of DeepSpeed, and torch.compile, which it loads for that
RANKS = ["-m", "tests.faults.forked_ranks", "--load", LOAD, "tests.parity.zero_ranks"]
NAMES = [name_of(zero) for zero in WAYS]
# float32 sums in another order. Weights are of size 1, updates 0.01, norms and losses about 1, moments 0.1. After five
# steps the largest errors seen are 5e-7 for losses and norms, 1.3e-6 for weights, 1e-8 for moments.
TOLERANCE = {"losses and norms": 2e-6, "weights": 5e-6, "moments": 1e-7, "handed over": 0.0}
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed: make install-engines"),
]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, float]]:
    """How far two ranks under DeepSpeed and one process without are apart, by what was done; see zero_ranks.py."""

    def build(folder: Path) -> None:
        folder.mkdir()
        done = warm.run([sys.executable, *RANKS, str(folder / "found.json")], cwd=ROOT)
        assert done.returncode == 0, done.stderr[-3000:]

    return json.loads((made_once(tmp_path_factory, "zero ranks", build) / "found.json").read_text())


# Uneven ranks in any micro-batches; a model with an output head of its own; bfloat16, where each sequence is a
# micro-batch in both, so that each product is rounded alike.
STEPS = [f"chord-phi, {way}, {split}" for way in NAMES for split in SPLITS]
STEPS += [f"sft, {way}" for way in NAMES] + [f"bfloat16, {name_of(zero)}" for zero in BFLOAT16]


@pytest.mark.parametrize("case", STEPS)
def test_the_steps_of_two_ranks_are_those_of_one_process_without_deepspeed(found, case: str) -> None:
    assert found[case].keys() == TOLERANCE.keys()
    assert {name: error for name, error in found[case].items() if not error <= TOLERANCE[name]} == {}


@pytest.mark.parametrize("way", NAMES)
def test_a_gradient_without_a_finite_norm_changes_no_weight(found, way: str) -> None:
    assert found[f"overflown, {way}"] == {"norm": float("inf"), "weights": 0.0}


@pytest.mark.parametrize("way", NAMES)
def test_whole_tensors_continue_to_the_same_bits(found, way: str) -> None:
    assert found[f"continued, {way}"] == {"tensors": 0.0}


@pytest.mark.parametrize(("before", "after"), [(name_of(a), name_of(b)) for a, b in CHANGES])
def test_whole_tensors_continue_in_another_stage(found, before: str, after: str) -> None:
    assert 0 < found[f"continued, {before} to {after}"]["tensors"] < TOLERANCE["weights"]
