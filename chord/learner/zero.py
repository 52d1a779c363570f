"""DeepSpeed's ZeRO as an engine: optimiser state, gradients and weights divided among the ranks. The same sums as ours.

The only place that writes a configuration of DeepSpeed. What has to agree with `Plain`, and how it does:

- Our loss is a sum over the global batch, DeepSpeed averages gradients over ranks: the loss is multiplied by their
  number, and that average is our sum (exact where it is a power of two).
- Micro-batches differ in number from step to step: accumulation is 1 for DeepSpeed, and the last pass of a step is
  told to it (`set_gradient_accumulation_boundary`). Stages 2 and 3 meet in every pass, so all ranks make the same
  number of them, idle ones included.
- bfloat16 is the autocast of `chord.learner.policy` on float32 weights, as without DeepSpeed; no loss is scaled.
- Clipping is DeepSpeed's, by the same global norm.

Stage 3 holds only parts of the weights, and sampling would have to meet in every token; so each rank has a whole copy
to sample from, brought up to date by `hand_over`. Checkpoints are whole float32 tensors by name, made by DeepSpeed's
public functions for that.
"""

import copy
import os
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import PreTrainedModel

from chord.config.study import Optimiser, Zero
from chord.learner.engine import adam, set_rate
from chord.learner.packing import IDLE, Packed, pack
from chord.learner.policy import TokenStatistics, full_weights, output_head, token_statistics
from chord.learner.world import World
from chord.provenance.files import UserError

MOMENTS = ("exp_avg", "exp_avg_sq")


def settings(zero: Zero, max_grad_norm: float, parameters: int) -> dict[str, Any]:
    """The configuration that DeepSpeed is given for a model of so many parameters."""
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
    """What DeepSpeed runs: packed rows in, statistics of their response tokens out."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Packed, chunk_tokens: int, dtype: torch.dtype, temperature: float) -> tuple[Tensor, ...]:
        """Log-probabilities and entropies, (N,) each."""
        return tuple(token_statistics(self.model, batch, chunk_tokens, dtype, temperature))


class Sharded:
    """An Engine under ZeRO stage 1, 2 or 3. The model is DeepSpeed's from then on."""

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
        """See Engine."""
        return TokenStatistics(*self._engine(batch, chunk_tokens, compute_dtype, temperature))

    def rounds(self, mine: int) -> int:
        """As many as the rank with the most."""
        return max(self.world.gather(mine))

    def backward(self, loss: Tensor, last: bool) -> None:
        """See Engine."""
        self._engine.set_gradient_accumulation_boundary(last)
        self._engine.backward(loss * self.world.size)
        self._learned = True

    def collect(self) -> None:
        """Nothing to do: DeepSpeed added up in the last pass."""

    def update(self, rate: float, max_norm: float) -> float:
        """See Engine; `max_norm` is in the configuration. Without a finite norm DeepSpeed steps over the update."""
        if not self._learned:
            return 0.0
        set_rate(self._adam, rate)
        self._engine.step()
        self._learned = self._handed_over = False
        return float(self._engine.get_global_grad_norm()) if self._engine.was_step_applied() else float("inf")

    def hand_over(self) -> None:
        """See Engine."""
        if self._handed_over or self.readable is self.model:
            return
        own = dict(self.readable.named_parameters())
        for name, weight in full_weights(self.model):
            own[name].data.copy_(weight)
        self._handed_over = True

    def weights(self) -> dict[str, Tensor]:
        """See Engine."""
        found = {}
        for name, weight in full_weights(self.model):
            if self.world.leads:
                found[name] = weight.cpu().clone()
        return found

    def moments(self) -> dict[str, Tensor]:
        """See Engine."""
        from deepspeed.utils import safe_get_full_optimizer_state

        if not self._adam.state:
            return {}
        step = next(iter(self._adam.state.values()))["step"].cpu()
        found = {}
        for name, parameter in self.model.named_parameters():
            whole: dict[str, Any] = {key: safe_get_full_optimizer_state(parameter, key) for key in MOMENTS}
            if self.world.leads:
                found[f"{name}|step"] = step.clone()
                found |= {f"{name}|{key}": value.detach().cpu().clone() for key, value in whole.items()}
        return found

    def load_moments(self, moments: Mapping[str, Tensor]) -> None:
        """See Engine. An update by nothing, at the rate 0, makes DeepSpeed's buffers first."""
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        if not moments:
            return
        batch = pack([IDLE], self.model.device, torch.float32)
        self.backward(self.statistics(batch, 1, torch.float32, 1.0).logp.sum() * 0, last=True)
        self.update(0.0, 0.0)
        steps = {name: value for name, value in moments.items() if name.endswith("|step")}
        for state in self._adam.state.values():
            state["step"].copy_(next(iter(steps.values())))
        for name, parameter in self.model.named_parameters():
            for key in MOMENTS:
                value = moments[f"{name}|{key}"].to(parameter.device)
                if hasattr(parameter, "ds_id"):
                    safe_set_local_optimizer_state(parameter, self._part(value, parameter), key)
                else:
                    safe_set_full_optimizer_state(parameter, value, key)

    def _part(self, value: Tensor, parameter: Any) -> Tensor:
        """What of a whole tensor this rank holds under stage 3; the last rank's end is padding."""
        size = parameter.ds_tensor.ds_numel
        flat = pad(value.flatten(), (0, size * self.world.size - value.numel()))
        return flat[size * self.world.rank :][:size]

    def close(self) -> None:
        """Frees what DeepSpeed holds."""
        self._engine.destroy()
