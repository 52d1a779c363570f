"""DeepSpeed's ZeRO as an engine: optimizer state, gradients and weights divided among the ranks. The same sums as ours.

The only place that writes a configuration of DeepSpeed. What has to agree with `Plain`, and how it does:

- Our loss is a sum over the global batch, DeepSpeed averages gradients over ranks: the loss is multiplied by their
  number, and that average is our sum (exact where it is a power of two).
- Micro-batches differ in number from step to step: accumulation is 1 for DeepSpeed, and it learns which pass of a step
  is the last (`set_gradient_accumulation_boundary`). Stages 2 and 3 meet in every pass, so all ranks make the same
  number of them, idle ones included.
- bfloat16 is the autocast of `chord.training.policy` on float32 weights, as without DeepSpeed; no loss is scaled.
- Clipping is DeepSpeed's, by the same global norm.

Stage 3 holds only parts of the weights, and sampling would have to meet in every token; so each rank has a whole copy
to sample from, brought up to date by `hand_over`. Checkpoints are whole float32 tensors by name.
"""

import copy
import math
import os
import random
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import PreTrainedModel

from chord.config.study import Arithmetic, Optimiser, PolicyLoss, Recipe, Zero
from chord.errors import UserError
from chord.objective import MuConstant, WeightOne
from chord.training.engine import Engine, Plain, World, adam, set_rate
from chord.training.gradient import IDLE, Packed, Sequence, accumulate_gradient, pack
from chord.training.policy import TokenStatistics, as_policy, full_weights, output_head, token_statistics

MOMENTS = ("exp_avg", "exp_avg_sq")


def settings(zero: Zero, max_grad_norm: float, parameters: int) -> dict[str, Any]:
    """The configuration that DeepSpeed gets for a model of so many parameters."""
    divided: dict[str, Any] = {
        "stage": zero.stage,
        "overlap_comm": False,
        "contiguous_gradients": True,
        "reduce_scatter": True,
        "round_robin_gradients": False,
        # The default, or less for a smaller model: DeepSpeed makes a buffer of this size, in ZeRO-1 and 2 in each pass.
        "reduce_bucket_size": min(500_000_000, parameters),
    }
    if zero.offload == "optimiser":
        divided["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    if zero.stage == 3:
        # ours: DeepSpeed leaves tensors of up to 100,000 numbers whole, which is all of a small model
        divided["stage3_param_persistence_threshold"] = min(100_000, parameters // 1000)
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": max_grad_norm,
        "prescale_gradients": False,
        "gradient_predivide_factor": 1.0,
        "communication_data_type": "fp32",
        "fp16": {"enabled": False},
        "bf16": {"enabled": False},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31,
        "zero_optimization": divided,
    }


def deepspeed_module() -> Any:
    """The package, set up before its first use: the right device, and no compiler at the start.

    Raises UserError where it is not installed.
    """
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    try:
        import deepspeed
    except ModuleNotFoundError as error:
        raise UserError(
            f"execution.zero: found no DeepSpeed that can be imported ({error}), expected it for a stage above 0:"
            " `make install-engines`, or leave `zero` out"
        ) from None
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # compiled in 88 s, and a stale lock waits for ever
    deepspeed.utils.logger.setLevel("ERROR")
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")  # a line in every pass
    return deepspeed


class _Policy(nn.Module):
    """What DeepSpeed runs: packed rows in, log-probabilities and entropies of their response tokens out, (N,) each."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Packed, chunk_tokens: int, dtype: torch.dtype, temperature: float) -> tuple[Tensor, ...]:
        return tuple(token_statistics(self.model, batch, chunk_tokens, dtype, temperature))


class Sharded:
    """`Plain` under ZeRO stage 1, 2 or 3. The model is DeepSpeed's from then on."""

    def __init__(self, model: PreTrainedModel, rate: float, optimiser: Optimiser, zero: Zero, world: World) -> None:
        deepspeed = deepspeed_module()
        self.model, self.world = model, world
        self.readable = copy.deepcopy(model).requires_grad_(False) if zero.stage == 3 else model
        self._adam = adam(model, rate, optimiser)
        os.environ.setdefault("LOCAL_RANK", "0")
        self._engine = deepspeed.initialize(
            model=_Policy(model),
            optimizer=self._adam,
            config=settings(zero, optimiser.max_grad_norm, sum(p.numel() for p in model.parameters())),
            dist_init_required=False,
        )[0]
        if zero.stage == 3:
            deepspeed.zero.register_external_parameter(self._engine.module, output_head(model).weight)
        self._learned = False  # whether this step had a backward pass
        self._handed_over = True

    def statistics(
        self, batch: Packed, chunk_tokens: int, compute_dtype: torch.dtype, temperature: float
    ) -> TokenStatistics:
        """As Plain's."""
        return TokenStatistics(*self._engine(batch, chunk_tokens, compute_dtype, temperature))

    def rounds(self, mine: int) -> int:
        """As many passes as the rank with the most."""
        return max(self.world.gather(mine))

    def backward(self, loss: Tensor, last: bool) -> None:
        """As Plain's."""
        self._engine.set_gradient_accumulation_boundary(last)
        self._engine.backward(loss * self.world.size)
        self._learned = True

    def collect(self) -> None:
        """Does nothing: DeepSpeed added up in the last pass."""

    def update(self, rate: float, max_norm: float) -> float:
        """As Plain's; `max_norm` is in the configuration. Without a finite norm DeepSpeed steps over the update."""
        if not self._learned:
            return 0.0
        set_rate(self._adam, rate)
        self._engine.step()
        self._learned = self._handed_over = False
        return float(self._engine.get_global_grad_norm()) if self._engine.was_step_applied() else float("inf")

    def hand_over(self) -> None:
        """As Plain's."""
        if self._handed_over or self.readable is self.model:
            return
        own = dict(self.readable.named_parameters())
        for name, weight in full_weights(self.model):
            own[name].data.copy_(weight)
        self._handed_over = True

    def weights(self) -> dict[str, Tensor]:
        """As Plain's."""
        found: dict[str, Tensor] = {}
        for name, weight in full_weights(self.model):  # all ranks meet in each of them
            if self.world.leads:
                found[name] = weight.cpu().clone()
        return found

    def moments(self) -> dict[str, Tensor]:
        """As Plain's."""
        from deepspeed import utils

        found: dict[str, Tensor] = {}
        steps = [state["step"].cpu() for state in self._adam.state.values()][:1]
        for name, parameter in self.model.named_parameters() if steps else ():
            whole: dict[str, Any] = {key: utils.safe_get_full_optimizer_state(parameter, key) for key in MOMENTS}
            if self.world.leads:
                found[f"{name}|step"] = steps[0].clone()
                found |= {f"{name}|{key}": value.detach().cpu().clone() for key, value in whole.items()}
        return found

    def load_moments(self, moments: Mapping[str, Tensor]) -> None:
        """As Plain's. An update by nothing, at the rate 0, makes DeepSpeed's buffers first."""
        from deepspeed import utils

        if not moments:
            return
        batch = pack([IDLE], self.model.device, torch.float32)
        self.backward(self.statistics(batch, 1, torch.float32, 1.0).logp.sum() * 0, last=True)
        self.update(0.0, 0.0)
        step = next(value for name, value in moments.items() if name.endswith("|step"))
        for state in self._adam.state.values():
            state["step"].copy_(step)
        for name, parameter in self.model.named_parameters():
            for key in MOMENTS:
                value = moments[f"{name}|{key}"].to(parameter.device)
                if hasattr(parameter, "ds_id"):
                    utils.safe_set_local_optimizer_state(parameter, self._part(value, parameter), key)
                else:
                    utils.safe_set_full_optimizer_state(parameter, value, key)

    def _part(self, value: Tensor, parameter: Any) -> Tensor:
        """What of a whole tensor this rank holds under stage 3; the last rank's end is padding."""
        size = parameter.ds_tensor.ds_numel
        flat = pad(value.flatten(), (0, size * self.world.size - value.numel()))
        return flat[size * self.world.rank :][:size]

    def close(self) -> None:
        """Frees what DeepSpeed holds."""
        self._engine.destroy()


# --- preflight -----------------------------------------------------------------------------------

# Whether DeepSpeed, as installed and as set, adds up what it should; measured in seconds, before hours are spent.
#
# Several of its versions lost the gradients of all micro-batches but one, with optimizer offload and without a word
# (deepspeedai/DeepSpeed, pull requests 6550, 7967 and 7981); results of papers came from it (arXiv:2604.23747). So each
# training under ZeRO first takes two steps on a tiny model of its own architecture, on its own ranks, with its own
# stage, offload and dtype: in uneven micro-batches under DeepSpeed, and in one batch in PyTorch alone.

# ours: float32 sums in another order differ by 1e-6 here; a bfloat16 product is rounded to 3 digits before it is added
# up, and another split into micro-batches rounds others. A lost micro-batch is an error of 0.1 and more.
TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2}
STEPS = 2
PER_RANK = 3  # sequences, each a micro-batch of its own; the leading rank has one more
VOCABULARY = 64
MU, RATE = 0.5, 1e-3
EPSILON = 1e-2  # ours: with a small one Adam makes a step of full length out of the rounding of a gradient near zero
POLICY_LOSS = PolicyLoss(clip_low=0.2, clip_high=0.2, advantage_epsilon=1e-6)
RECIPE = Recipe(
    init="base", mu=MuConstant(value=MU), expert_tokens=WeightOne(), steps=STEPS, learning_rate=RATE, keep="last"
)
Measured = dict[str, dict[str, Tensor]]  # tensors by name, of each thing that is compared


def preflight(model: PreTrainedModel, execution: Arithmetic, optimiser: Optimiser, world: World) -> dict[str, Any]:
    """What was measured, for the manifest. Raises UserError where DeepSpeed gives another gradient or another update.

    The gradient is read from Adam's first moment, which after one update is a multiple of it; all errors are relative,
    in the norm over all parameters.
    """
    sharded, plain = tiny_like(model), tiny_like(model)
    optimiser = optimiser.model_copy(update={"epsilon": EPSILON})
    batches = [_sequences(step, world.size) for step in range(STEPS)]
    whole = execution.model_copy(update={"micro_batch_tokens": 10**6})
    split = execution.model_copy(update={"micro_batch_tokens": 1})  # each sequence is a micro-batch
    alone = Plain(plain, adam(plain, RATE, optimiser), World(world.rank))
    expected = _steps(alone, batches, whole, optimiser)
    together = Sharded(sharded, RATE, optimiser, execution.zero, world)
    found = _steps(together, [batch[world.rank :: world.size] for batch in batches], split, optimiser)
    together.close()
    measured = {name: _distance(found[name], expected[name]) for name in expected}
    errors: dict[str, float] = world.from_leader(measured)  # which alone has whole tensors
    zero, dtype = execution.zero, execution.compute_dtype
    told = {"deepspeed": version("deepspeed"), "stage": zero.stage, "offload": zero.offload, "compute_dtype": dtype}
    limit, worst = TOLERANCE[dtype], max(errors, key=lambda name: errors[name])
    if errors[worst] > limit:
        raise UserError(
            f"execution.zero: found that DeepSpeed {told['deepspeed']} with stage {zero.stage}, offload {zero.offload},"
            f" {dtype} on {world.size} rank(s) gives another {worst} in several micro-batches than PyTorch in one"
            f" batch, relative error {errors[worst]:.3g}, expected at most {limit:g}: it would train another model than"
            " it is told to; install another version of DeepSpeed, or change execution.zero"
        )
    return {**told, "ranks": world.size, "relative_error": errors, "allowed": limit}


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
        nn.init.normal_(parameter, std=0.4, generator=generator)
    nn.Module.to(tiny, device=model.device, dtype=torch.float32)
    return as_policy(tiny)


def _sequences(step: int, ranks: int) -> list[Sequence]:
    """Rollouts and experts of uneven lengths, one more for the leading rank than for the others."""
    chance = random.Random(step)
    made: list[Sequence] = []
    for index in range(PER_RANK * ranks + 1):
        prompt, response = (tuple(chance.randrange(VOCABULARY) for _ in range(chance.randrange(2, 9))) for _ in "ab")
        advantage = 0.0 if index % 2 else chance.choice((-1.0, 1.5))
        logp = () if index % 2 else (-1.0,) * len(response)
        made.append(Sequence(f"preflight {index}", prompt, response, bool(index % 2), advantage, logp))
    return made


def _steps(engine: Engine, batches: list[list[Sequence]], execution: Arithmetic, optimiser: Optimiser) -> Measured:
    """The gradient of the first step, its norm, and what all steps change; only the leading rank has tensors."""
    start, result = copy.deepcopy(engine.weights()), Measured()
    for batch in batches:
        accumulate_gradient(engine, batch, MU, RECIPE, POLICY_LOSS, execution, 1.0)
        norm = engine.update(RATE, optimiser.max_grad_norm)
        if not result:
            result["norm of the gradient"] = {"": torch.tensor(norm)}
            moments = {name: value for name, value in engine.moments().items() if name.endswith("exp_avg")}
            result["gradient"] = copy.deepcopy(moments)
    changed = engine.weights()
    result["update"] = {name: changed[name] - start[name] for name in start}
    return result


def _distance(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """The relative distance of two lists of tensors; infinite where it is no number."""
    apart = sum(float((found[name] - expected[name]).double().square().sum()) for name in expected)
    size = sum(float(value.double().square().sum()) for value in expected.values())
    distance = math.sqrt(apart / size) if size else 0.0
    return distance if math.isfinite(distance) else math.inf
