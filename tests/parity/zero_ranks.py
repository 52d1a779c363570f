"""Started as two ranks by test_zero.py: steps under DeepSpeed and in one process, and how far they are apart.

python -m tests.faults.forked_ranks --load deepspeed tests.parity.zero_ranks OUT.json
"""

import copy
import json
import sys
from pathlib import Path

import torch

from chord.config.study import Optimiser, Zero
from chord.training.engine import Engine, Plain, World, adam, join_world, leave_world
from chord.training.gradient import IDLE, Sequence, accumulate_gradient, pack
from chord.training.sharded import Sharded
from tests.parity.reference import POLICY, execution, random_batch, recipe, small_model

OPTIMISER = Optimiser(beta1=0.9, beta2=0.999, epsilon=1e-8, weight_decay=0.01, max_grad_norm=0.7, warmup_steps=0)
RATE = 1e-2
STEPS = 5
SPLITS = {"one sequence": 1, "everything": 100_000}  # tokens of a micro-batch
SOME = 30
WAYS = [Zero(stage=stage, offload=offload) for stage in (1, 2, 3) for offload in ("none", "optimiser")]
BFLOAT16 = (WAYS[3], WAYS[4])
CHANGES = ((WAYS[1], WAYS[4]), (WAYS[4], WAYS[3]))


def name_of(zero: Zero) -> str:
    return f"stage {zero.stage}, offload {zero.offload}"


def shares(step: int, mu: float) -> list[list[Sequence]]:
    """What each of two ranks is fed: odd and even, few and many, all and nothing; in step 3 nothing that teaches."""
    batch = random_batch(step, experts=3, rollouts=0 if mu == 1 else 6)
    if step == 3 and mu < 1:
        return [[s for s in batch if not s.is_expert and s.advantage == 0], []]
    return [[batch[0::2], batch[1::2]], [batch[:2], batch[2:]], [batch, []], [batch, []], [batch[2:], batch[:2]]][step]


def steps(engine: Engine, numbers: range, mu: float, split: int, dtype: str = "float32") -> list[float]:
    """Losses and gradient norms of these steps."""
    found = []
    for step in numbers:
        parts, world = shares(step, mu), engine.world
        batch = parts[world.rank] if world.size == 2 else [*parts[0], *parts[1]]
        how = execution(split, 7, dtype)
        sums = accumulate_gradient(engine, batch, mu, recipe(mu, "p(1-p)" if mu < 1 else "one"), POLICY, how, 1.0)
        found += [sums.values["loss"], engine.update(RATE, OPTIMISER.max_grad_norm)]
    return found


def plain(model) -> Plain:
    own = copy.deepcopy(model)
    return Plain(own, adam(own, RATE, OPTIMISER), World())


def sharded(model, zero: Zero, world: World) -> Sharded:
    return Sharded(copy.deepcopy(model), RATE, OPTIMISER, zero, world)


def apart(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """The largest difference of two sets of tensors of the same names."""
    assert found.keys() == expected.keys() and expected
    return max(float((found[name] - expected[name]).abs().max()) for name in expected)


def compared(model, zero: Zero, mu: float, split: int, world: World, dtype: str = "float32") -> dict[str, float]:
    together = sharded(model, zero, world)
    found = steps(together, range(STEPS), mu, split, dtype)
    together.hand_over()
    weights, moments = together.weights(), together.moments()
    together.close()
    if not world.leads:
        assert weights == moments == {}
        return {}
    alone = plain(model)
    expected = steps(alone, range(STEPS), mu, split, dtype)
    own = {name: p.detach() for name, p in together.readable.named_parameters()}
    return {
        "losses and norms": max(abs(a - b) for a, b in zip(found, expected, strict=True)),
        "weights": apart(weights, alone.weights()),
        "moments": apart(moments, alone.moments()),
        "handed over": apart(own, weights),
    }


def continued(model, before: Zero, after: Zero, world: World) -> dict[str, float]:
    """Three steps one way, two another, from whole tensors; against all of them the second way."""
    first, whole = sharded(model, before, world), sharded(model, after, world)
    steps(first, range(3), 0.3, SOME)
    state = world.from_leader((first.weights(), first.moments()))
    other = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            parameter.copy_(state[0][name])
    second = sharded(other, after, world)
    second.load_moments(state[1])
    steps(second, range(3, STEPS), 0.3, SOME)
    steps(whole, range(STEPS), 0.3, SOME)
    tensors = [one.weights() | one.moments() for one in (second, whole)]
    for engine in (first, second, whole):
        engine.close()
    return {"tensors": apart(*tensors)} if world.leads else {}


def overflown(model, zero: Zero, world: World) -> dict[str, float]:
    """A gradient that is no finite number."""
    engine = sharded(model, zero, world)
    start = engine.weights()
    logp = engine.statistics(pack([IDLE], torch.device("cpu"), torch.float32), 7, torch.float32, 1.0).logp
    engine.backward(logp.sum() * 1e30 * 1e30, last=True)
    norm = engine.update(RATE, OPTIMISER.max_grad_norm)
    weights = engine.weights()
    engine.close()
    return {"norm": norm, "weights": apart(weights, start)} if world.leads else {}


def main() -> None:
    torch.set_num_threads(1)
    world = join_world()
    tied, untied = small_model("llama", torch.float32), small_model("qwen2", torch.float32)
    found = {}
    for zero in WAYS:
        for split in SPLITS:
            found[f"chord-phi, {name_of(zero)}, {split}"] = compared(tied, zero, 0.3, SPLITS[split], world)
        found[f"sft, {name_of(zero)}"] = compared(untied, zero, 1.0, SOME, world)
        found[f"overflown, {name_of(zero)}"] = overflown(tied, zero, world)
        found[f"continued, {name_of(zero)}"] = continued(tied, zero, zero, world)
    for zero in BFLOAT16:
        found[f"bfloat16, {name_of(zero)}"] = compared(tied, zero, 0.3, 1, world, "bfloat16")
    for before, after in CHANGES:
        found[f"continued, {name_of(before)} to {name_of(after)}"] = continued(tied, before, after, world)
    if world.leads:
        Path(sys.argv[1]).write_text(json.dumps(found, indent=1))
    leave_world()


if __name__ == "__main__":
    main()
