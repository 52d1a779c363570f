"""What a job costs: memory and work of a model, and whether it fits a machine. All are estimates."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from chord.config.sets import answered, split_of
from chord.config.study import Dimensions, Lengths, Machine, Model, Planning, Recipe, Study
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


# --- work and memory of one study's policy on devices of one kind; upper estimates ---

ROOM = 0.92  # of a device's memory: the allocator needs the rest
TAIL = 3.0  # the longest answer of a batch, in mean lengths; bounded by the budget
FLOPS = 1e12


@dataclass(frozen=True)
class Cost:
    """Of one job on `devices` devices: seconds, and tokens that it learns from and samples."""

    seconds: float
    devices: int
    learned_tokens: float = 0.0
    sampled_tokens: float = 0.0


@dataclass(frozen=True)
class Peak:
    """What a rank holds at its fullest moment, part by part, in 10^9 bytes: on its device, and of the host."""

    device: dict[str, float]
    host: dict[str, float]

    @property
    def device_gb(self) -> float:
        """All parts on the device together."""
        return sum(self.device.values())


def fits(device_gb: float, machine: Machine) -> bool:
    """Whether the device's memory holds it."""
    return device_gb <= ROOM * machine.memory_gb


@dataclass(frozen=True)
class Bench:
    """A study's policy of this shape on so many devices of a machine: what jobs take there, and what a rank holds.

    A step of training takes as long as its arithmetic at the machine's own speed, a step of decoding as long as reading
    the weights and the keys and values, and neither less than its layers' least time (the roofline).
    """

    study: Study
    shape: Dimensions
    machine: Machine
    lengths: Lengths
    devices: int
    at_once: int = 0  # answers that are sampled side by side on a device; 0: as the study's own sampler does

    @property
    def dtype(self) -> str:
        """What is computed with."""
        return self.study.execution.compute_dtype

    # --- seconds ---

    def training(self, arm: str, recipe: Recipe, rows: int) -> Cost:
        """One training; `rows` are the expert rows of a step."""
        study, steps = self.study, steps_of(self.study, recipe, rows)
        group = recipe.rollouts_of(study.rollouts.per_prompt)
        rollouts = study.rollouts.prompts_per_step * group if recipe.needs_rollouts else 0
        sampling, imitating = recipe.mu.shares()
        answer = self.lengths.of(arm)
        learned = sampling * rollouts * answer + imitating * rows * self.lengths.expert
        step = self.learning(sampling * rollouts, answer)
        step += self.learning(imitating * rows, self.lengths.expert + self.lengths.prompt)
        step += sampling * self.decoding(rollouts, answer) if rollouts else 0.0
        asked = [study.validation.problems * samples for samples in study.validation.planned(steps).values()]
        validating = sum(self.decoding(answers, answer) for answers in asked)
        seconds = self.machine.start_seconds + steps * step + validating
        sampled = steps * sampling * rollouts * answer + sum(asked) * answer
        return Cost(seconds, self.devices, steps * learned, sampled)

    def answering(self, answers: int, length: float) -> Cost:
        """One benchmark of one model: so many answers, sampled with the weights alone."""
        seconds = self.machine.start_seconds + self.decoding(answers, length)
        return Cost(seconds, self.devices, 0.0, answers * length)

    def learning(self, rows: float, length: float) -> float:
        """Seconds of the forward and backward passes over `rows` sequences, shared between the devices."""
        if rows <= 0:
            return 0.0
        execution, tokens = self.study.execution, rows * (length + self.lengths.prompt) / self.devices
        passes = 4 if execution.recompute_activations else 3  # backward is two forwards; with recomputation one more
        operations = passes * forward_operations(self.shape, tokens, length) + 8 * tokens * head_parameters(self.shape)
        batches = math.ceil(tokens / execution.micro_batch_tokens)
        least = batches * passes * self.shape.num_hidden_layers * self.machine.layer_seconds
        return max(operations / (self._speed() * self.machine.trains_at), least)

    def decoding(self, rows: float, length: float) -> float:
        """Seconds until the last of `rows` answers of this mean length is done, shared between the devices."""
        each = math.ceil(rows / self.devices)
        longest = min(self.study.rollouts.max_response_tokens, TAIL * length)
        most = self.at_once or self.study.execution.sampler_rows
        batches = [most] * (each // most) + [each % most] * (each % most > 0)
        return sum(longest * self._decode_step(batch, length, longest) for batch in batches)

    def _decode_step(self, batch: int, length: float, longest: float) -> float:
        """Seconds of one token for each row still running; a row runs for `length` of `longest` steps on average."""
        shape, machine = self.shape, self.machine
        running = max(1.0, batch * length / longest)
        read = BYTES[self.dtype] * (parameters(shape) - (0 if shape.tied else head_parameters(shape)))
        read += running * (self.lengths.prompt + length / 2) * cache_bytes(shape, self.dtype)
        memory = read / (machine.bandwidth_gb_s * GB * machine.decodes_at)
        matrices = shape.num_hidden_layers * layer_parameters(shape, shape.experts_per_token) + head_parameters(shape)
        arithmetic = 2 * running * matrices / (self._speed() * machine.decodes_at)
        return max(memory, arithmetic, shape.num_hidden_layers * machine.layer_seconds)

    def _speed(self) -> float:
        """Operations a second of one device at best, in the study's dtype."""
        known = self.machine.tflops
        return FLOPS * known.get(self.study.execution.compute_dtype, min(known.values()))

    # --- memory of a training ---

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence that a micro-batch must hold: a prompt with the longest answer allowed."""
        rollouts = self.study.rollouts
        return int(max(rollouts.max_response_tokens, self.lengths.expert) + rollouts.max_prompt_tokens)

    def training_peak(self, tokens: int) -> Peak:
        """While a micro-batch of so many tokens is learned from."""
        execution, ranks = self.study.execution, self.devices
        size, stored, computed = parameters(self.shape), stored_bytes(self.dtype), BYTES[self.dtype]
        full: dict[str, float] = {"weights": stored * size, "gradients": stored * size, "moments": 2 * stored * size}
        for name in list(full)[3 - execution.zero.stage :]:  # each stage of ZeRO shares one more, the moments first
            full[name] /= ranks
        if computed < stored:
            full["weights cast for computing"] = computed * size
        if execution.zero.stage == 3:
            full["whole weights to sample from"] = stored * size  # chord.training.engine: `readable`
        full["activations"] = self._activations(tokens)
        # One chunk: as computed, in float32, their log-softmax, its exponential, and one gradient.
        full["logits"] = min(execution.logit_chunk_tokens, tokens) * self.shape.vocab_size * (computed + 4 * stored)
        device = {name: value / GB for name, value in full.items()}
        if self._engine_gb and not (execution.vllm and execution.vllm.sleep):
            device["vLLM"] = self._engine_gb
        host = {"libraries": self.machine.base_gb}
        if execution.zero.offload != "none":
            host["moments"] = device.pop("moments")
        return Peak(device | {"libraries": self.machine.base_gb}, host)

    def _activations(self, tokens: int) -> float:
        """Bytes that the backward pass reads: every layer's, or one layer's and the inputs of the rest.

        A layer keeps two normalized inputs, queries, keys, values and the attention's output, three of the
        feed-forward's inner states and the product of two of them, each in the compute dtype, and the residual stream
        twice as stored.
        """
        shape = self.shape
        heads = 2 * shape.num_attention_heads + 2 * shape.num_key_value_heads
        wide = 4 * shape.intermediate_size * shape.experts_per_token
        stream = shape.hidden_size * stored_bytes(self.dtype)
        inner = (2 * shape.hidden_size + heads * shape.head_size + wide) * BYTES[self.dtype]
        layer = tokens * (inner + 2 * stream)
        if self.study.execution.recompute_activations:
            return layer + shape.num_hidden_layers * tokens * stream
        return shape.num_hidden_layers * layer

    @property
    def _engine_gb(self) -> float:
        """Of a device, taken by a vLLM in the process of the rank."""
        engine = self.study.execution.vllm
        share = engine.memory_share if engine and engine.placement == "colocated" else None
        return (share or 0.0) * self.machine.memory_gb

    def sampling_peak(self) -> Peak:
        """While a training samples: weights and moments stay; beside them vLLM's share, or keys, values and logits."""
        execution, ranks = self.study.execution, self.devices
        whole = saved_gb(self.shape, self.dtype)
        device = {
            "weights": whole + (whole / ranks if execution.zero.stage == 3 else 0.0),
            "moments": 2 * whole / (ranks if execution.zero.stage else 1) if execution.zero.offload == "none" else 0.0,
            "libraries": self.machine.base_gb,
        }
        if self._engine_gb:
            device["vLLM"] = self._engine_gb
        else:
            asked = self.study.rollouts.prompts_per_step * self.study.rollouts.per_prompt
            rows = min(-(-asked // ranks), execution.sampler_rows)
            is_cast = BYTES[self.dtype] < stored_bytes(self.dtype)
            device["weights cast for computing"] = is_cast * BYTES[self.dtype] * parameters(self.shape) / GB
            device["keys and values"] = rows * self.longest * cache_bytes(self.shape, self.dtype) / GB
            device["logits"] = rows * self.shape.vocab_size * 4 * 8 / GB
        return Peak(device, {"libraries": self.machine.base_gb})

    @cached_property
    def fullest(self) -> Peak:
        """The fuller of the two moments of a step: sampling, and learning from micro-batches that hold the longest."""
        learning = self.training_peak(max(self.study.execution.micro_batch_tokens, self.longest))
        return max(learning, self.sampling_peak(), key=lambda peak: peak.device_gb)

    @property
    def holds(self) -> bool:
        """Whether a device's memory is enough."""
        return fits(self.fullest.device_gb, self.machine)

    def verdict(self) -> list[str]:
        """Sentences: it fits; or what does not, by how much, and the first change of settings that would."""
        peak, many = self.fullest, f"{self.devices} x {self.machine.memory_gb:g} GB"
        if self.holds:
            return [f"needs {many}: a rank holds {peak.device_gb:.1f} GB at its fullest"]
        part, most = max(peak.device.items(), key=lambda item: item[1])
        said = f"does not fit {many}: a rank would hold {peak.device_gb:.1f} GB, of which {part} {most:.1f} GB"
        for changed, words in self._changes():
            if changed.holds:
                found, offloads = changed.fullest, changed.study.execution.zero.offload != "none"
                on_host = f", and {sum(found.host.values()):.1f} GB of the host" if offloads else ""
                return [said, f"would fit with {words}: {found.device_gb:.1f} GB a rank{on_host}"]
        return [said, "no setting known here would fit: take more devices, larger ones or a shorter budget of tokens"]

    def _changes(self) -> Iterator[tuple["Bench", str]]:
        """Other settings, one after the other, the cheapest change first, each with its name in the study's file."""
        execution, words = self.study.execution, dict[str, str]()
        for name, value, is_other in (
            ("micro_batch_tokens", self.longest, execution.micro_batch_tokens > self.longest),
            ("recompute_activations", True, not execution.recompute_activations),
            *(("zero.stage", stage, stage > execution.zero.stage) for stage in (1, 2, 3)),
            ("zero.offload", "optimiser", execution.zero.offload == "none"),
        ):
            if is_other:
                key, _, part = name.partition(".")
                changed = execution.zero.model_copy(update={part: value}) if part else value
                execution = execution.model_copy(update={key: changed})
                words[name] = f"execution.{name}: {str(value).lower()}"
                yield (
                    replace(self, study=self.study.model_copy(update={"execution": execution})),
                    ", ".join(words.values()),
                )


def steps_of(study: Study, recipe: Recipe, rows: int) -> int:
    """Updates of a training; epochs are passes over the expert set that it reads."""
    if recipe.steps is not None:
        return recipe.steps
    assert recipe.epochs is not None
    return max(1, math.ceil(recipe.epochs * split_of(study, answered(study, recipe.traces)).size / rows - 1e-9))
