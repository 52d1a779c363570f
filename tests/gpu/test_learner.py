"""The learner on a GPU: the gradient of the reference, the same bytes again, ZeRO-3 over NCCL, less memory."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from tests.gpu import cases

pytestmark = pytest.mark.gpu
KINDS = ("llama", "qwen2")


@pytest.mark.parametrize("kind", KINDS)
def test_a_packed_step_in_float32_gives_the_reference_gradient(kind: str) -> None:
    """Sums in another order are 3e-7 apart on a CPU; products in TF32 would be 1e-3 off, so they are not used."""
    assert cases.step_error("cuda", "float32", kind) <= 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_a_packed_step_in_bfloat16_gives_it_to_what_rounding_leaves(kind: str) -> None:
    """Products rounded to 2^-9 are 0.7 to 1.0 % apart on a CPU; a lost micro-batch would be 10 % and more."""
    assert 1e-3 < cases.step_error("cuda", "bfloat16", kind) <= 3e-2


def test_whole_tensors_continue_a_training() -> None:
    """Not bit for bit, since algorithms here need not be deterministic; steps that Adam forgot would be 1e-2 apart."""
    assert cases.continued_error("cuda") <= 1e-5


def test_a_training_repeats_and_after_a_kill_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    cases.repeats_and_continues(tmp_path, "cuda")


def test_layers_that_are_computed_again_hold_less_memory_at_the_peak() -> None:
    whole, plain = cases.kept_for_backward("cuda", recompute=False)
    less, again = cases.kept_for_backward("cuda", recompute=True)
    assert less < 0.7 * whole
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-7) for a, b in zip(plain, again, strict=True))


@pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed: make install-engines")
def test_zero_3_on_one_gpu_takes_the_steps_of_pytorch_alone(tmp_path: Path) -> None:
    cases.zero_3_takes_the_steps_of_pytorch_alone(tmp_path, "cuda")


@pytest.mark.skipif(find_spec("vllm") is None, reason="no vLLM is installed")
def test_vllm_beside_the_learner_sleeps_while_it_works(tmp_path: Path) -> None:
    cases.vllm_sleeps_while_the_learner_works(tmp_path, "cuda")
