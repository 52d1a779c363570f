"""Sizes of a Llama-like model: parameters, operations, bytes. All counts are of one model copy."""

import json
from pathlib import Path

from chord.config.planning import Dimensions, Planning
from chord.config.study import Model
from chord.provenance.files import UserError

BYTES = {"float64": 8, "float32": 4, "bfloat16": 2}


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
    """The shape that a config.json tells."""
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


def head_operations(shape: Dimensions, tokens: float) -> float:
    """Operations of making the logits of `tokens` tokens."""
    return 2 * tokens * head_parameters(shape)


def cache_bytes(shape: Dimensions, dtype: str) -> int:
    """Keys and values of one token."""
    return 2 * shape.num_hidden_layers * shape.num_key_value_heads * shape.head_size * BYTES[dtype]
