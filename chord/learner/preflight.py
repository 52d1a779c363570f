"""Whether DeepSpeed, as installed and as set, adds up what it should; measured in seconds, before hours are spent.

Several of its versions lost the gradients of all micro-batches but one, with optimiser offload and without a word
(deepspeedai/DeepSpeed, pull requests 6550, 7967 and 7981); results of papers came from it (arXiv:2604.23747). So each
training under ZeRO first takes two steps on a tiny model of its own architecture, on its own ranks, with its own stage,
offload and dtype: in uneven micro-batches under DeepSpeed, and in one batch in PyTorch alone.
"""

import copy
import math
import random
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from chord.config.recipe import Recipe
from chord.config.study import Arithmetic, Optimiser, PolicyLoss
from chord.learner.engine import Engine, Plain, adam
from chord.learner.gradient import accumulate_gradient
from chord.learner.packing import Sequence
from chord.learner.policy import as_policy
from chord.learner.world import World
from chord.learner.zero import Sharded
from chord.objective import MuConstant, WeightOne
from chord.provenance.files import UserError

# ours: float32 sums in another order differ by 1e-6 here; a bfloat16 product is rounded to 3 digits before it is added
# up, and another split into micro-batches rounds others. A lost micro-batch is an error of 0.1 and more.
TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2}
STEPS = 2
PER_RANK = 3  # sequences, each a micro-batch of its own; the leading rank has one more
VOCABULARY = 64
MU, RATE = 0.5, 1e-3
EPSILON = 1e-2  # ours: with a small one Adam makes a step of full length out of the rounding of a gradient near zero
POLICY_LOSS = PolicyLoss(clip_low=0.2, clip_high=0.2, advantage_epsilon=1e-6)


def preflight(model: PreTrainedModel, execution: Arithmetic, optimiser: Optimiser, world: World) -> dict[str, Any]:
    """What was measured, for the manifest. Raises UserError where DeepSpeed gives another gradient or another update.

    The gradient is read from Adam's first moment, which after one update is a multiple of it; all errors are relative,
    in the norm over all parameters.
    """
    smooth = optimiser.model_copy(update={"epsilon": EPSILON})
    found, expected = _measured(tiny_like(model), execution, smooth, world)
    errors = {name: _distance(found[name], expected[name]) for name in expected}
    errors = world.from_leader(errors)  # which alone has whole tensors
    settings = {
        "deepspeed": version("deepspeed"),
        "stage": execution.zero.stage,
        "offload": execution.zero.offload,
        "compute_dtype": execution.compute_dtype,
        "ranks": world.size,
    }
    limit = TOLERANCE[execution.compute_dtype]
    worst = max(errors, key=lambda name: errors[name])
    if errors[worst] > limit:
        raise UserError(
            f"execution.zero: found that DeepSpeed {settings['deepspeed']} with stage {settings['stage']}, offload"
            f" {settings['offload']}, {settings['compute_dtype']} on {world.size} rank(s) gives another {worst} in"
            f" several micro-batches than PyTorch in one batch, relative error {errors[worst]:.3g}, expected at most"
            f" {limit:g}: it would train another model than it is told to; install another version of DeepSpeed, or"
            " change execution.zero"
        )
    return {**settings, "relative_error": errors, "allowed": limit}


def tiny_like(model: PreTrainedModel) -> PreTrainedModel:
    """A model of the same class and settings with two narrow layers and random weights, the same on every rank."""
    config = copy.deepcopy(model.config)
    heads = 2 * max(1, min(4, config.num_attention_heads // config.num_key_value_heads))
    changes = {
        "num_hidden_layers": 2,
        "num_attention_heads": heads,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "hidden_size": 8 * heads,
        "intermediate_size": 48,
        "vocab_size": VOCABULARY,
        "max_window_layers": 2,
    }
    for name, value in changes.items():
        if hasattr(config, name):
            setattr(config, name, value)
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        setattr(config, name, None)
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:2]
    with torch.random.fork_rng(devices=[]):
        tiny = type(model)(config)
    generator = torch.Generator().manual_seed(1)
    for parameter in tiny.parameters():
        torch.nn.init.normal_(parameter, std=0.4, generator=generator)
    torch.nn.Module.to(tiny, device=model.device, dtype=torch.float32)
    return as_policy(tiny)


def _measured(
    tiny: PreTrainedModel, execution: Arithmetic, optimiser: Optimiser, world: World
) -> tuple[dict[str, Mapping[str, Tensor]], dict[str, Mapping[str, Tensor]]]:
    """What some steps give under DeepSpeed, and without it; numbers only on the leading rank."""
    plain = copy.deepcopy(tiny)
    whole = execution.model_copy(update={"micro_batch_tokens": 10**6})
    split = execution.model_copy(update={"micro_batch_tokens": 1})  # each sequence is a micro-batch
    alone = Plain(plain, adam(plain, RATE, optimiser), World(world.rank))
    expected = _steps(alone, [_sequences(step, world.size) for step in range(STEPS)], whole, optimiser)
    sharded = Sharded(tiny, RATE, optimiser, execution.zero, world)
    mine = [_sequences(step, world.size)[world.rank :: world.size] for step in range(STEPS)]
    found = _steps(sharded, mine, split, optimiser)
    sharded.close()
    return found, expected


def _sequences(step: int, ranks: int) -> list[Sequence]:
    """Rollouts and experts of uneven lengths, one more for the leading rank than for the others."""
    chance = random.Random(step)
    made = []
    for index in range(PER_RANK * ranks + 1):
        prompt, response = (tuple(chance.randrange(VOCABULARY) for _ in range(chance.randrange(2, 9))) for _ in "ab")
        advantage = 0.0 if index % 2 else chance.choice((-1.0, 1.5))
        logp = () if index % 2 else (-1.0,) * len(response)
        made.append(Sequence(f"preflight {index}", prompt, response, bool(index % 2), advantage, logp))
    return made


def _steps(
    engine: Engine, batches: list[list[Sequence]], execution: Arithmetic, optimiser: Optimiser
) -> dict[str, Mapping[str, Tensor]]:
    """The gradient of the first step, its norm, and what all steps change."""
    recipe = Recipe(
        init="base",
        mu=MuConstant(value=MU),
        expert_tokens=WeightOne(),
        steps=STEPS,
        learning_rate=RATE,
        keep="last",
    )
    start, result = _kept(engine.weights()), {}
    for batch in batches:
        accumulate_gradient(engine, batch, MU, recipe, POLICY_LOSS, execution, 1.0)
        norm = engine.update(RATE, optimiser.max_grad_norm)
        if not result:
            result["norm of the gradient"] = {"": torch.tensor(norm)}
            result["gradient"] = {k: v for k, v in _kept(engine.moments()).items() if k.endswith("exp_avg")}
    changed = engine.weights()
    result["update"] = {name: changed[name] - start[name] for name in start}
    return result


def _kept(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies that no later step changes."""
    return {name: tensor.clone() for name, tensor in tensors.items()}


def _distance(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """The relative distance of two lists of tensors; infinite where it is no number."""
    apart = sum(float((found[name] - expected[name]).double().square().sum()) for name in expected)
    size = sum(float(value.double().square().sum()) for value in expected.values())
    distance = math.sqrt(apart / size) if size else 0.0
    return distance if math.isfinite(distance) else math.inf
