"""The most memory that one rank needs, part by part, in 10^9 bytes. Upper estimates, from shapes and settings alone."""

from dataclasses import dataclass

from chord.config import Study
from chord.config.planning import Dimensions, Machine
from chord.planning.model import BYTES, cache_bytes, layer_parameters, parameters

GB = 1e9


@dataclass(frozen=True)
class Setting:
    """How one training is laid out over its ranks. Defaults are those of a study that names none of it."""

    ranks: int = 1
    zero_stage: int = 0
    offload: bool = False
    recompute: bool = False
    micro_batch_tokens: int = 0
    engine_share: float = 0.0  # of the device's memory, kept by a colocated vLLM while the learner works

    @classmethod
    def of(cls, study: Study, ranks: int) -> "Setting":
        """What the study says, with as many ranks."""
        execution = study.execution
        zero = getattr(execution, "zero", None)
        engine = getattr(execution, "vllm", None) if getattr(execution, "sampler", "") == "vllm" else None
        awake = engine is not None and not getattr(engine, "sleep", False)
        return cls(
            ranks=ranks,
            zero_stage=zero.stage if zero else 0,
            offload=bool(zero) and zero.offload != "none",
            recompute=execution.recompute_activations,
            micro_batch_tokens=execution.micro_batch_tokens,
            engine_share=getattr(engine, "gpu_memory_share", 0.0) if awake else 0.0,
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
    if setting.zero_stage:
        low = BYTES[dtype]
        master = 4 * size if low < 4 else 0
        full = {"weights": low * size, "gradients": low * size, "moments": 8 * size + master}
    elif BYTES[dtype] < stored:
        full["weights cast for computing"] = BYTES[dtype] * size
    shared = {3: ("weights", "gradients", "moments"), 2: ("gradients", "moments"), 1: ("moments",)}
    for name in shared.get(setting.zero_stage, ()):
        full[name] = full[name] / setting.ranks
    full["activations"] = activations(shape, setting, dtype)
    full["logits"] = logits(study, shape, dtype, setting)
    device = {name: value / GB for name, value in full.items()}
    if setting.engine_share:
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
    inner = 2 * shape.hidden_size + (heads + shape.num_attention_heads) * shape.head_size + 4 * shape.intermediate_size
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


def sampling_peak(study: Study, shape: Dimensions, machine: Machine, rows: int, length: float) -> Peak:
    """While answers are sampled with weights alone: weights, keys and values, logits of one step."""
    dtype = study.execution.compute_dtype
    stored = 8 if dtype == "float64" else 4
    rows = min(rows, study.execution.sampler_rows)
    device = {
        "weights": (stored + (BYTES[dtype] if BYTES[dtype] < stored else 0)) * parameters(shape) / GB,
        "keys and values": rows * length * cache_bytes(shape, dtype) / GB,
        "logits": rows * shape.vocab_size * 4 * 8 / GB,
        "libraries": machine.base_gb,
    }
    return Peak(device, {"libraries": machine.base_gb})


def host_for_loading(shape: Dimensions, setting: Setting) -> float:
    """10^9 bytes of the host that each rank holds while it reads the weights and writes a checkpoint."""
    return 4 * parameters(shape) * (3 if setting.zero_stage < 3 else 1) / GB


def saved_gb(shape: Dimensions, dtype: str) -> float:
    """10^9 bytes of a finished model's folder."""
    return (8 if dtype == "float64" else 4) * parameters(shape) / GB


def layer_gb(shape: Dimensions) -> float:
    """10^9 bytes of one layer's weights in float32: what ZeRO-3 gathers at a time."""
    return 4 * layer_parameters(shape) / GB
