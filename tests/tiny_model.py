"""A random Llama of the demo's kind, much smaller, as `chord.train` would leave it: for tests of what runs a model."""

from pathlib import Path
from typing import Any

from chord.config import load

ROOT = Path(__file__).parents[1]
# vLLM on a CPU has no attention for heads of fewer than 32.
SMALL = {
    "hidden_size": 64,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}


def tiny_model(folder: Path, **architecture: Any) -> Path:
    """The folder, with the model and its character tokenizer in it."""
    from chord.learner.blank import blank_model, character_tokenizer

    described = load(ROOT, "demo").study.model
    assert described.alphabet is not None and described.architecture is not None
    tokenizer = character_tokenizer(described.alphabet)
    shape = described.architecture.model_dump() | SMALL | architecture
    blank_model(shape, tokenizer, seed=1).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
