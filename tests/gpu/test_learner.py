"""The learner on a device: the gradient of the reference, the same bytes again, ZeRO-3, vLLM beside it, less memory.

Each test asks the same of the CPU and of a GPU. `chord train` takes the GPU wherever there is one; for "cpu" it is
started without any in sight.
"""

import json
import os
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from chord.training.engine import Plain, World, adam
from chord.training.gradient import accumulate_gradient
from chord.training.policy import recompute_layers
from tests import warm
from tests.faults.small_run import command, result, small_run
from tests.faults.test_vllm_training import POLICY_LOSS, SIZES
from tests.parity.reference import POLICY, execution, random_batch, recipe, reference_gradient, small_model
from tests.parity.zero_ranks import OPTIMISER, RATE

ROOT = Path(__file__).parents[2]
STEPS = 8
KILLED = 5  # when this step is told; the checkpoint is that of step 3
MU, WEIGHT = 0.3, "p(1-p)"
SHARE = 0.3  # of a GPU's memory for vLLM


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    return request.param


def needs(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(find_spec(package) is None, reason=f"{package} is not installed: make install-engines")


def step_error(device: str, dtype: str, kind: str) -> float:
    """How far loss and gradient of a packed CHORD step on `device` are from the float64 reference on the CPU.

    Relative, in the norm over all parameters. Weights are float32; `dtype` is that of the products.
    """
    model, sequences = small_model(kind, torch.float32), random_batch(3)
    loss, expected = reference_gradient(model, sequences, MU, WEIGHT)
    model.to(device)
    engine = Plain(model, torch.optim.AdamW(model.parameters()), World())
    how = execution(40, 5, dtype)  # several micro-batches, several chunks of logits
    sums = accumulate_gradient(engine, sequences, MU, recipe(MU, WEIGHT), POLICY, how, 1.0)
    found = {name: one.grad.double().cpu() for name, one in model.named_parameters() if one.grad is not None}
    assert found.keys() == expected.keys()
    apart = sum(float((found[name] - expected[name]).square().sum()) for name in expected)
    size = sum(float(one.square().sum()) for one in expected.values())
    return max(abs(sums.values["loss"] - loss) / abs(loss), (apart / size) ** 0.5)


@pytest.mark.parametrize("kind", ("llama", "qwen2"))
@pytest.mark.parametrize(
    ("dtype", "bounds"),
    [
        ("float32", {"cpu": (0, 2e-6), "cuda": (0, 1e-5)}),  # sums in another order: 3e-7; products in TF32: 1e-3
        ("bfloat16", dict.fromkeys(("cpu", "cuda"), (1e-3, 3e-2))),  # rounded to 2^-9: 1 %; a lost micro-batch: 10 %
    ],
)
def test_a_packed_step_gives_the_reference_gradient_to_what_rounding_leaves(device, dtype, bounds, kind) -> None:
    least, most = bounds[device]
    assert least <= step_error(device, dtype, kind) <= most


def test_whole_tensors_continue_a_training(device: str) -> None:
    """Three steps, then two by another engine from the first one's whole tensors, on the CPU in between; against five.

    On a CPU bit for bit. On a GPU algorithms need not be deterministic; steps that Adam forgot would be 1e-2 apart.
    """
    first, second, whole = (on(device, small_model(dtype=torch.float32)) for _ in range(3))
    update(first, range(3))
    weights = first.weights()
    with torch.no_grad():
        for name, parameter in second.model.named_parameters():
            parameter.copy_(weights[name])
    second.load_moments(first.moments())
    update(second, range(3, 5))
    update(whole, range(5))
    pairs = zip(second.model.parameters(), whole.model.parameters(), strict=True)
    assert max(float((a - b).detach().abs().max()) for a, b in pairs) <= (0 if device == "cpu" else 1e-5)


def test_all_that_adam_remembers_is_brought_to_where_the_weights_are() -> None:
    """Its fused kernel on a GPU reads the step counts there; "meta" stands for a device that is not the CPU."""
    first, second = (on(where, small_model(dtype=torch.float32)) for where in ("cpu", "meta"))
    update(first, range(1))
    second.load_moments(first.moments())
    found = [value.device.type for state in second.optimiser.state.values() for value in state.values()]
    assert found == ["meta"] * len(first.moments())


def on(device: str, model) -> Plain:
    model.to(device)
    return Plain(model, adam(model, RATE, OPTIMISER), World())


def update(engine: Plain, steps: range) -> None:
    for step in steps:
        accumulate_gradient(
            engine, random_batch(step), MU, recipe(MU, WEIGHT), POLICY, execution(40, 5, "float32"), 1.0
        )
        engine.update(RATE, OPTIMISER.max_grad_norm)


def kept_for_backward(device: str, recompute: bool) -> tuple[int, list[torch.Tensor]]:
    """Bytes held at the peak of a step above those before it, and the gradients.

    On a CPU, where nobody counts, the bytes that the forward passes save for the backward pass.
    """
    engine = on(device, small_model(dtype=torch.float32))
    if recompute:
        recompute_layers(engine.model)
    sequences = random_batch(3, rollouts=600, experts=200)
    saved = 0

    def count(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal saved
        saved += tensor.numel() * tensor.element_size()
        return tensor

    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if device == "cuda" else 0
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        how = execution(100_000, 100_000, "float32")
        accumulate_gradient(engine, sequences, MU, recipe(MU, WEIGHT), POLICY, how, 1.0)
    if device == "cuda":
        saved = torch.cuda.max_memory_allocated() - before
    return saved, [one.grad for one in engine.model.parameters()]


def test_layers_that_are_computed_again_keep_less_and_give_the_same_gradients(device: str) -> None:
    whole, plain = kept_for_backward(device, recompute=False)
    less, again = kept_for_backward(device, recompute=True)
    assert less < {"cpu": 0.5, "cuda": 0.7}[device] * whole
    apart = {"rtol": 0.0, "atol": 0.0} if device == "cpu" else {"rtol": 1e-4, "atol": 1e-7}
    assert all(torch.allclose(a, b, **apart) for a, b in zip(plain, again, strict=True))


def trained(folder: Path, out: Path, device: str, kill_at: int | None = None) -> dict:
    """`chord train` on `device` to its end, or killed when it tells of that step; what its manifest adds."""
    environment = {name: value for name, value in os.environ.items() if name != "CUBLAS_WORKSPACE_CONFIG"}
    environment |= {"OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "chord", "train", *command(folder, out)]
    if torch.cuda.is_available() or os.environ.get("OMP_NUM_THREADS") != "1":
        environment |= {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
        process = subprocess.Popen(words, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        lines = process.stderr
    else:
        process = warm.start(words, cwd=ROOT, env=environment)
        lines = process.lines()
    said = []
    for line in lines:
        said.append(f"{line.rstrip()}\n")
        if kill_at is not None and f"step {kill_at}/" in line:
            process.kill()
    code = process.wait()
    assert code == (0 if kill_at is None else -signal.SIGKILL), "".join(said)[-3000:]
    return {} if kill_at else json.loads((out / "train.manifest.json").read_text())["extra"]


def metrics(out: Path) -> list[dict]:
    """The lines of the steps; the first line of the file is the validation before them."""
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()][1:]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_training_repeats_and_after_a_kill_goes_on_to_the_same_bytes(tmp_path: Path, device: str) -> None:
    """Under deterministic algorithms a training, and one that is killed and started again, end with the same bytes."""
    small_run(tmp_path, **{"recipe.steps": STEPS})
    told = trained(tmp_path, tmp_path / "whole", device)
    assert told["deterministic"] is True and (told["device"] == "cpu") == (device == "cpu")
    trained(tmp_path, tmp_path / "killed", device, kill_at=KILLED)
    assert not (tmp_path / "killed" / "model").exists()
    trained(tmp_path, tmp_path / "killed", device)
    assert len(metrics(tmp_path / "whole")) == STEPS
    assert result(tmp_path / "whole") == result(tmp_path / "killed")


@needs("deepspeed")
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_zero_3_on_one_rank_takes_the_steps_of_pytorch_alone(tmp_path: Path, device: str) -> None:
    """On one rank, products in bfloat16: the same first step to what rounding leaves, later ones that learn."""
    values = {"recipe.steps": 3, "execution.compute_dtype": "bfloat16"}
    small_run(tmp_path, **values)
    trained(tmp_path, tmp_path / "alone", device)
    small_run(tmp_path, **values, **{"execution.zero": {"stage": 3}})
    told = trained(tmp_path, tmp_path / "zero", device)
    assert told["stretches"] == [{"from_step": 0, "ranks": 1, "zero": {"stage": 3, "offload": "none"}}]
    assert (told["device"] == "cpu") == (device == "cpu")
    assert max(told["preflight"]["relative_error"].values()) <= told["preflight"]["allowed"]
    found, expected = (metrics(tmp_path / name) for name in ("zero", "alone"))
    for name in ("loss", "grad_norm", "expert_logp"):  # bfloat16 has three digits
        assert abs(found[0][name] - expected[0][name]) <= 1e-2 * abs(expected[0][name]), name
    assert found[0]["outcomes"] == expected[0]["outcomes"]
    assert len(found) == 3 and all(0 < step["grad_norm"] < float("inf") for step in found)


@needs("vllm")
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_vllm_beside_the_learner_sleeps_while_it_works(tmp_path: Path, device: str) -> None:
    """Two steps with rollouts from an engine in the process; on a GPU it gives its memory away in each of them."""
    settings = {"cache_gb": 0.05} | ({"sleep": True, "memory_share": SHARE} if device == "cuda" else {})
    values = {"model.architecture": SIZES, "recipe.steps": 2, "policy_loss": POLICY_LOSS}
    values |= {"execution.sampler": "vllm", "execution.vllm": settings}
    small_run(tmp_path, **values)
    trained(tmp_path, tmp_path / "out", device)
    steps = metrics(tmp_path / "out")
    assert [step["sampler"]["version"] for step in steps] == [1, 2]
    assert len({step["sampler"]["weights"] for step in steps}) == 2
    # float32 on both sides, other kernels; on a GPU vLLM's attention multiplies in TF32, with three digits.
    assert all(0 <= step["logp_mismatch"] < (1e-5 if device == "cpu" else 1e-2) for step in steps)
    assert all(step["rollout_tokens"] > 0 and step["grad_norm"] > 0 for step in steps)
