"""What tests/gpu asks of a GPU holds on the CPU too, by the same functions; and what moves between the two is moved."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from tests.gpu import cases
from tests.parity.reference import small_model

KINDS = ("llama", "qwen2")
slow = [pytest.mark.slow, pytest.mark.timeout(1800)]  # trainings, of seconds on a free machine


@pytest.mark.parametrize("kind", KINDS)
def test_a_packed_step_in_float32_gives_the_reference_gradient(kind: str) -> None:
    """Sums in another order: 3e-7."""
    assert cases.step_error("cpu", "float32", kind) <= 2e-6


@pytest.mark.parametrize("kind", KINDS)
def test_a_packed_step_in_bfloat16_gives_it_to_what_rounding_leaves(kind: str) -> None:
    """Products rounded to 2^-9 are 0.7 to 1.0 % apart; a lost micro-batch would be 10 % and more."""
    assert 1e-3 < cases.step_error("cpu", "bfloat16", kind) <= 3e-2


def test_whole_tensors_continue_a_training_to_the_same_bits() -> None:
    assert cases.continued_error("cpu") == 0


def test_all_that_adam_remembers_is_brought_to_where_the_weights_are() -> None:
    """Its fused kernel on a GPU reads the step counts there; "meta" stands for a device that is not the CPU."""
    first = cases.on("cpu", small_model(dtype=torch.float32))
    cases.update(first, range(1))
    second = cases.on("meta", small_model(dtype=torch.float32))
    second.load_moments(first.moments())
    found = [value.device.type for state in second.optimiser.state.values() for value in state.values()]
    assert found == ["meta"] * len(first.moments())


def test_layers_that_are_computed_again_keep_less_and_give_the_same_gradients() -> None:
    whole, plain = cases.kept_for_backward("cpu", recompute=False)
    less, again = cases.kept_for_backward("cpu", recompute=True)
    assert less < 0.5 * whole
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))


@pytest.mark.parametrize(
    ("case", "needs"),
    [
        pytest.param(cases.repeats_and_continues, "torch", marks=slow),
        pytest.param(cases.zero_3_takes_the_steps_of_pytorch_alone, "deepspeed", marks=slow),
        pytest.param(cases.vllm_sleeps_while_the_learner_works, "vllm", marks=slow),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_training_of_the_gpu_tests_runs_on_the_cpu(case, needs: str, tmp_path: Path) -> None:
    """The same command and the same assertions; without sleep, which vLLM knows only on GPUs."""
    if find_spec(needs) is None:
        pytest.skip(f"{needs} is not installed: make install-engines")
    case(tmp_path, "cpu")
