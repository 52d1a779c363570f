"""The most memory that one rank needs, part by part, in 10^9 bytes. Upper estimates, from shapes and settings alone."""

from dataclasses import dataclass

from chord.config.planning import Dimensions, Machine
from chord.config.study import Study
from chord.planning.model import BYTES, cache_bytes, parameters

GB = 1e9


@dataclass(frozen=True)
class Setting:
    """How one training is laid out over its ranks. Defaults are those of a study that names none of it."""

    ranks: int = 1
    zero_stage: int = 0
    offload: bool = False
    recompute: bool = False
    micro_batch_tokens: int = 0
    engine_share: float = 0.0  # of the device's memory, taken by a colocated vLLM
    engine_sleeps: bool = False  # and given back while the learner works

    @classmethod
    def of(cls, study: Study, ranks: int) -> "Setting":
        """What the study says, with as many ranks."""
        execution, engine = study.execution, study.execution.vllm
        return cls(
            ranks=ranks,
            zero_stage=execution.zero.stage,
            offload=execution.zero.offload != "none",
            recompute=execution.recompute_activations,
            micro_batch_tokens=execution.micro_batch_tokens,
            engine_share=(engine.memory_share or 0.0) if engine and engine.placement == "colocated" else 0.0,
            engine_sleeps=engine is not None and engine.sleep,
        )


@dataclass(frozen=True)
class Peak:
    """What a rank holds at its fullest moment: on its device, and of the host where the two differ."""

    device: dict[str, float]
    host: dict[str, float]

    @property
    def device_gb(self) -> float:
        """All parts on the device together."""
        return sum(self.device.values())

    @property
    def host_gb(self) -> float:
        """All parts in the host's memory together."""
        return sum(self.host.values())


def training_peak(study: Study, shape: Dimensions, machine: Machine, setting: Setting) -> Peak:
    """While a micro-batch is learned from: weights, gradients, moments, activations, logits."""
    dtype = study.execution.compute_dtype
    size, stored = parameters(shape), 8 if dtype == "float64" else 4
    full: dict[str, float] = {"weights": stored * size, "gradients": stored * size, "moments": 2 * stored * size}
    shared = {3: ("weights", "gradients", "moments"), 2: ("gradients", "moments"), 1: ("moments",)}
    for name in shared.get(setting.zero_stage, ()):
        full[name] = full[name] / setting.ranks
    if BYTES[dtype] < stored:
        full["weights cast for computing"] = BYTES[dtype] * size
    if setting.zero_stage == 3:
        full["whole weights to sample from"] = stored * size  # chord.learner.engine: `readable`
    full["activations"] = activations(shape, setting, dtype)
    full["logits"] = logits(study, shape, dtype, setting)
    device = {name: value / GB for name, value in full.items()}
    if setting.engine_share and not setting.engine_sleeps:
        device["vLLM"] = setting.engine_share * machine.memory_gb
    host = {"libraries": machine.base_gb}
    if setting.offload:
        host["moments"] = device.pop("moments")
    device["libraries"] = machine.base_gb
    return Peak(device, host)


def activations(shape: Dimensions, setting: Setting, dtype: str) -> float:
    """Bytes that the backward pass of a micro-batch reads: every layer's, or one layer's and the inputs of the rest.

    A layer keeps two normalised inputs, queries, keys, values and the attention's output, three of the feed-forward's
    inner states and the product of two of them, each in the compute dtype, and the residual stream twice as stored.
    """
    tokens = setting.micro_batch_tokens
    heads = shape.num_attention_heads + 2 * shape.num_key_value_heads
    wide = 4 * shape.intermediate_size * shape.experts_per_token
    inner = 2 * shape.hidden_size + (heads + shape.num_attention_heads) * shape.head_size + wide
    stream = shape.hidden_size * (8 if dtype == "float64" else 4)
    layer = tokens * (inner * BYTES[dtype] + 2 * stream)
    if setting.recompute:
        return layer + shape.num_hidden_layers * tokens * stream
    return shape.num_hidden_layers * layer


def logits(study: Study, shape: Dimensions, dtype: str, setting: Setting) -> float:
    """Bytes of one chunk of logits: as computed, in float32, their log-softmax, its exponential, and one gradient."""
    rows = min(study.execution.logit_chunk_tokens, setting.micro_batch_tokens)
    wide = 8 if dtype == "float64" else 4
    return rows * shape.vocab_size * (BYTES[dtype] + 4 * wide)


def sampling_peak(study: Study, shape: Dimensions, machine: Machine, setting: Setting, longest: float) -> Peak:
    """While a training samples: weights and moments stay; beside them vLLM's share, or keys, values and logits."""
    dtype = study.execution.compute_dtype
    stored = 8 if dtype == "float64" else 4
    whole = stored * parameters(shape) / GB
    moments = 2 * whole / (setting.ranks if setting.zero_stage else 1)
    parts = whole / setting.ranks if setting.zero_stage == 3 else 0.0
    device = {"weights": whole + parts, "moments": 0.0 if setting.offload else moments, "libraries": machine.base_gb}
    if setting.engine_share:
        device["vLLM"] = setting.engine_share * machine.memory_gb
    else:
        asked = study.rollouts.prompts_per_step * study.rollouts.per_prompt
        rows = min(-(-asked // setting.ranks), study.execution.sampler_rows)
        cast = BYTES[dtype] * parameters(shape) / GB if BYTES[dtype] < stored else 0.0
        device["weights cast for computing"] = cast
        device["keys and values"] = rows * longest * cache_bytes(shape, dtype) / GB
        device["logits"] = rows * shape.vocab_size * 4 * 8 / GB
    return Peak(device, {"libraries": machine.base_gb})


def host_gb(shape: Dimensions) -> dict[str, float]:
    """10^9 bytes of the host: of each rank while it reads the weights, of the first while it saves."""
    weights = 4 * parameters(shape) / GB
    return {"each rank": weights, "the first rank": 3 * weights}


def saved_gb(shape: Dimensions, dtype: str) -> float:
    """10^9 bytes of a finished model's folder."""
    return (8 if dtype == "float64" else 4) * parameters(shape) / GB
