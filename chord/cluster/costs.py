"""What a job costs: memory and work of a model, and whether it fits a machine. All are estimates."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from chord.config.recipe import Recipe
from chord.config.sets import answered, split_of
from chord.config.study import Dimensions, Lengths, Machine, Model, Planning, Study
from chord.errors import UserError

GB = 1e9
BYTES = {"float64": 8, "float32": 4, "bfloat16": 2}

# --- sizes of one copy of a Llama-like model: parameters, operations, bytes ---


def dimensions(model: Model, planning: Planning, fetched: Path) -> Dimensions:
    """A model's shape, out of its config.json in `fetched`, its architecture in the study, or config/planning.yaml."""
    file = fetched / "config.json"
    if file.is_file():
        return _of_config(json.loads(file.read_text(encoding="utf-8")))
    if model.architecture is not None:
        shape = model.architecture.model_dump(exclude={"max_position_embeddings"})
        special = 2  # the end of a text and padding
        return Dimensions(**shape, vocab_size=len(model.alphabet or "") + special, tied=False)
    return named(model.name, planning)


def named(model: str, planning: Planning) -> Dimensions:
    """The shape of a model by its name. Raises UserError for one that config/planning.yaml does not have."""
    if model not in planning.models:
        raise UserError(
            f"config/planning.yaml: models has no '{model}', expected its sizes there (from its config.json) or the"
            " model fetched; known are " + ", ".join(planning.models)
        )
    return planning.models[model]


def _of_config(found: dict[str, object]) -> Dimensions:
    names = {name for name, field in Dimensions.model_fields.items() if field.is_required()} - {"tied"}
    experts = found.get("num_local_experts") or found.get("num_experts") or 1
    sizes = {name: found[name] for name in names} | {"head_dim": found.get("head_dim"), "num_experts": experts}
    if experts != 1:
        sizes["experts_per_token"] = found["num_experts_per_tok"]
        sizes["intermediate_size"] = found.get("moe_intermediate_size", found["intermediate_size"])
    return Dimensions(
        **sizes,  # pyright: ignore[reportArgumentType] # checked by the record
        tied=bool(found.get("tie_word_embeddings")),
        attention_bias=bool(found.get("attention_bias", found.get("model_type") == "qwen2")),
    )


def head_parameters(shape: Dimensions) -> int:
    """Weights of the output layer."""
    return shape.vocab_size * shape.hidden_size


def layer_parameters(shape: Dimensions, experts: int) -> int:
    """Weights of one decoder layer with so many of its experts: all are kept, a token goes through some."""
    width, heads = shape.head_size, shape.num_attention_heads + 2 * shape.num_key_value_heads
    attention = shape.hidden_size * width * (heads + shape.num_attention_heads)
    bias = width * heads if shape.attention_bias else 0
    router = shape.hidden_size * shape.num_experts if shape.num_experts > 1 else 0
    inner = experts * 3 * shape.hidden_size * shape.intermediate_size + router
    return attention + bias + inner + 2 * shape.hidden_size


def parameters(shape: Dimensions) -> int:
    """All weights, embeddings included."""
    embeddings = head_parameters(shape) * (1 if shape.tied else 2)
    return embeddings + shape.num_hidden_layers * layer_parameters(shape, shape.num_experts) + shape.hidden_size


def forward_operations(shape: Dimensions, tokens: float, length: float) -> float:
    """Operations of reading `tokens` tokens in sequences of `length`, without the output layer."""
    matrices = 2 * shape.num_hidden_layers * layer_parameters(shape, shape.experts_per_token)
    scores = 2 * shape.num_hidden_layers * shape.num_attention_heads * shape.head_size * length  # causal: half of 4
    return tokens * (matrices + scores)


def cache_bytes(shape: Dimensions, dtype: str) -> int:
    """Keys and values of one token."""
    return 2 * shape.num_hidden_layers * shape.num_key_value_heads * shape.head_size * BYTES[dtype]


def stored_bytes(dtype: str) -> int:
    """Bytes of a weight as it is kept and saved: what is computed with in less precision is a cast copy."""
    return 8 if dtype == "float64" else 4


def saved_gb(shape: Dimensions, dtype: str) -> float:
    """10^9 bytes of a finished model's folder."""
    return stored_bytes(dtype) * parameters(shape) / GB


# --- memory: the most that one rank needs, part by part, in 10^9 bytes; upper estimates ---


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


def training_peak(study: Study, shape: Dimensions, machine: Machine, setting: Setting) -> Peak:
    """While a micro-batch is learned from: weights, gradients, moments, activations, logits."""
    dtype = study.execution.compute_dtype
    size, stored = parameters(shape), stored_bytes(dtype)
    full: dict[str, float] = {"weights": stored * size, "gradients": stored * size, "moments": 2 * stored * size}
    for name in list(full)[3 - setting.zero_stage :]:  # each stage of ZeRO shares one more, the moments first
        full[name] /= setting.ranks
    if BYTES[dtype] < stored:
        full["weights cast for computing"] = BYTES[dtype] * size
    if setting.zero_stage == 3:
        full["whole weights to sample from"] = stored * size  # chord.training.engine: `readable`
    full["activations"] = _activations(shape, setting, dtype)
    # One chunk: as computed, in float32, their log-softmax, its exponential, and one gradient.
    rows = min(study.execution.logit_chunk_tokens, setting.micro_batch_tokens)
    full["logits"] = rows * shape.vocab_size * (BYTES[dtype] + 4 * stored)
    device = {name: value / GB for name, value in full.items()}
    if setting.engine_share and not setting.engine_sleeps:
        device["vLLM"] = setting.engine_share * machine.memory_gb
    host = {"libraries": machine.base_gb}
    if setting.offload:
        host["moments"] = device.pop("moments")
    return Peak(device | {"libraries": machine.base_gb}, host)


def _activations(shape: Dimensions, setting: Setting, dtype: str) -> float:
    """Bytes that the backward pass of a micro-batch reads: every layer's, or one layer's and the inputs of the rest.

    A layer keeps two normalised inputs, queries, keys, values and the attention's output, three of the feed-forward's
    inner states and the product of two of them, each in the compute dtype, and the residual stream twice as stored.
    """
    tokens = setting.micro_batch_tokens
    heads = 2 * shape.num_attention_heads + 2 * shape.num_key_value_heads
    wide = 4 * shape.intermediate_size * shape.experts_per_token
    stream = shape.hidden_size * stored_bytes(dtype)
    layer = tokens * ((2 * shape.hidden_size + heads * shape.head_size + wide) * BYTES[dtype] + 2 * stream)
    if setting.recompute:
        return layer + shape.num_hidden_layers * tokens * stream
    return shape.num_hidden_layers * layer


def sampling_peak(study: Study, shape: Dimensions, machine: Machine, setting: Setting, longest: float) -> Peak:
    """While a training samples: weights and moments stay; beside them vLLM's share, or keys, values and logits."""
    dtype = study.execution.compute_dtype
    whole = saved_gb(shape, dtype)
    moments = 2 * whole / (setting.ranks if setting.zero_stage else 1)
    parts = whole / setting.ranks if setting.zero_stage == 3 else 0.0
    device = {"weights": whole + parts, "moments": 0.0 if setting.offload else moments, "libraries": machine.base_gb}
    if setting.engine_share:
        device["vLLM"] = setting.engine_share * machine.memory_gb
    else:
        asked = study.rollouts.prompts_per_step * study.rollouts.per_prompt
        rows = min(-(-asked // setting.ranks), study.execution.sampler_rows)
        cast = BYTES[dtype] * parameters(shape) / GB if BYTES[dtype] < stored_bytes(dtype) else 0.0
        device["weights cast for computing"] = cast
        device["keys and values"] = rows * longest * cache_bytes(shape, dtype) / GB
        device["logits"] = rows * shape.vocab_size * 4 * 8 / GB
    return Peak(device, {"libraries": machine.base_gb})


# --- whether a training fits a machine, which setting does not, and what would ---

ROOM = 0.92  # of a device's memory: the allocator needs the rest


def longest_sequence(study: Study, lengths: Lengths) -> int:
    """Tokens of the longest sequence that a micro-batch must hold whole: a prompt with the longest answer allowed."""
    return int(max(study.rollouts.max_response_tokens, lengths.expert) + study.rollouts.max_prompt_tokens)


def fits(device_gb: float, machine: Machine) -> bool:
    """Whether the device's memory holds it."""
    return device_gb <= ROOM * machine.memory_gb


def fullest(study: Study, shape: Dimensions, machine: Machine, setting: Setting, longest: int) -> Peak:
    """The fuller of the two moments of a step: sampling, and learning from micro-batches that hold the longest."""
    setting = replace(setting, micro_batch_tokens=max(setting.micro_batch_tokens, longest))
    moments = training_peak(study, shape, machine, setting), sampling_peak(study, shape, machine, setting, longest)
    return max(moments, key=lambda peak: peak.device_gb)


def verdict(study: Study, shape: Dimensions, machine: Machine, setting: Setting, longest: int) -> list[str]:
    """Sentences: it fits ("needs ..."); or what does not, by how much, and the first change of settings that would."""
    setting = replace(setting, micro_batch_tokens=max(setting.micro_batch_tokens, longest))
    peak = fullest(study, shape, machine, setting, longest)
    many = f"{setting.ranks} x {machine.memory_gb:g} GB"
    if fits(peak.device_gb, machine):
        return [f"needs {many}: a rank holds {peak.device_gb:.1f} GB at its fullest"]
    part, most = max(peak.device.items(), key=lambda item: item[1])
    said = f"does not fit {many}: a rank would hold {peak.device_gb:.1f} GB, of which {part} {most:.1f} GB"
    for changed, words in _changes(setting, longest):
        found = fullest(study, shape, machine, changed, longest)
        if fits(found.device_gb, machine):
            on_host = f", and {sum(found.host.values()):.1f} GB of the host" if changed.offload else ""
            return [said, f"would fit with {words}: {found.device_gb:.1f} GB a rank{on_host}"]
    return [said, "no setting known here would fit: take more devices, larger ones or a shorter budget of tokens"]


def _changes(setting: Setting, longest: int) -> Iterator[tuple[Setting, str]]:
    """Other settings, the cheapest change first, each with its name in the study's file."""
    words: dict[str, str] = {}
    for is_other, name, key, value in (
        (setting.micro_batch_tokens > longest, "micro_batch_tokens", "micro_batch_tokens", longest),
        (not setting.recompute, "recompute", "recompute_activations", True),
        *((stage > setting.zero_stage, "zero_stage", "zero.stage", stage) for stage in (1, 2, 3)),
        (not setting.offload, "offload", "zero.offload", True),
    ):
        if is_other:
            setting = replace(setting, **{name: value})
            shown = "optimiser" if name == "offload" else str(value).lower()
            words[key] = f"execution.{key}: {shown}"
            yield setting, ", ".join(words.values())


# --- work: tokens and seconds of each kind of job ---

# A step of training takes as long as its arithmetic at the machine's own speed, a step of decoding as long as reading
# the weights and the keys and values, and neither less than its layers' least time (the roofline).

TAIL = 3.0  # the longest answer of a batch, in mean lengths; bounded by the budget
FLOPS = 1e12


@dataclass(frozen=True)
class Cost:
    """Of one job on `devices` devices: seconds, and tokens that it learns from and samples."""

    seconds: float
    devices: int
    learned_tokens: float = 0.0
    sampled_tokens: float = 0.0

    @property
    def device_hours(self) -> float:
        """Hours of all its devices."""
        return self.seconds * self.devices / 3600


@dataclass(frozen=True)
class Bench:
    """What a cost is reckoned for: a study's policy on so many devices of a machine."""

    study: Study
    shape: Dimensions
    machine: Machine
    lengths: Lengths
    devices: int
    recompute: bool = False
    at_once: int = 0  # answers that are sampled side by side on a device; 0: as the study's own sampler does

    def training(self, arm: str, recipe: Recipe, rows: int) -> Cost:
        """One training; `rows` are the expert rows of a step."""
        study, steps = self.study, steps_of(self.study, recipe, rows)
        rollouts = study.rollouts.prompts_per_step * study.rollouts.per_prompt if recipe.needs_rollouts else 0
        sampling, imitating = recipe.mu.shares()
        answer = self.lengths.of(arm)
        trace = self.lengths.expert + self.lengths.prompt
        seconds = self.machine.start_seconds
        learned = sampling * rollouts * answer + imitating * rows * self.lengths.expert
        seconds += steps * self.learning(sampling * rollouts, answer) + steps * self.learning(imitating * rows, trace)
        if rollouts:
            seconds += steps * sampling * self.decoding(rollouts, answer)
        validations = 1 + math.ceil(steps / study.validation.every_steps)
        problems = study.validation.problems * study.validation.samples_per_problem
        seconds += validations * self.decoding(problems, answer)
        sampled = steps * sampling * rollouts * answer + validations * problems * answer
        return Cost(seconds, self.devices, steps * learned, sampled)

    def answering(self, answers: int, length: float) -> Cost:
        """One benchmark of one model: so many answers, sampled with the weights alone."""
        seconds = self.machine.start_seconds + self.decoding(answers, length)
        return Cost(seconds, self.devices, 0.0, answers * length)

    def learning(self, rows: float, length: float) -> float:
        """Seconds of the forward and backward passes over `rows` sequences, shared between the devices."""
        if rows <= 0:
            return 0.0
        tokens = rows * (length + self.lengths.prompt) / self.devices
        passes = 4 if self.recompute else 3  # backward is two forwards; with recomputation one more
        operations = passes * forward_operations(self.shape, tokens, length) + 8 * tokens * head_parameters(self.shape)
        batches = math.ceil(tokens / self.study.execution.micro_batch_tokens)
        least = batches * passes * self.shape.num_hidden_layers * self.machine.layer_seconds
        return max(operations / (self._speed() * self.machine.trains_at), least)

    def decoding(self, rows: float, length: float) -> float:
        """Seconds until the last of `rows` answers of this mean length is done, shared between the devices."""
        study = self.study
        each = math.ceil(rows / self.devices)
        longest = min(study.rollouts.max_response_tokens, TAIL * length)
        seconds = 0.0
        while each > 0:
            batch = min(each, self.at_once or study.execution.sampler_rows)
            seconds += longest * self._decode_step(batch, length, longest)
            each -= batch
        return seconds

    def _decode_step(self, batch: int, length: float, longest: float) -> float:
        """Seconds of one token for each row still running; a row runs for `length` of `longest` steps on average."""
        running = max(1.0, batch * length / longest)
        dtype = self.study.execution.compute_dtype
        context = self.lengths.prompt + length / 2
        read = BYTES[dtype] * (parameters(self.shape) - (0 if self.shape.tied else head_parameters(self.shape)))
        read += running * context * cache_bytes(self.shape, dtype)
        memory = read / (self.machine.bandwidth_gb_s * 1e9 * self.machine.decodes_at)
        layer = layer_parameters(self.shape, self.shape.experts_per_token)
        matrices = self.shape.num_hidden_layers * layer + head_parameters(self.shape)
        arithmetic = 2 * running * matrices / (self._speed() * self.machine.decodes_at)
        return max(memory, arithmetic, self.shape.num_hidden_layers * self.machine.layer_seconds)

    def _speed(self) -> float:
        """Operations a second of one device at best, in the study's dtype."""
        known, dtype = self.machine.tflops, self.study.execution.compute_dtype
        return FLOPS * known.get(dtype, min(known.values()))


def steps_of(study: Study, recipe: Recipe, rows: int) -> int:
    """Updates of a training; epochs are passes over the expert set that it reads."""
    if recipe.steps is not None:
        return recipe.steps
    assert recipe.epochs is not None
    return max(1, math.ceil(recipe.epochs * split_of(study, answered(study, recipe.traces)).size / rows - 1e-9))
