"""A random Llama of the demo's kind, much smaller, as `chord train` would leave it: for tests of what runs a model."""

import string
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chord.config.project import load

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

ROOT = Path(__file__).parents[1]
# vLLM on a CPU has no attention for heads of fewer than 32.
SMALL = {
    "hidden_size": 64,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}
TURN_END = "<|im_end|>"
TURNS = (
    "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}" + TURN_END + "\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
# The lines with which Llama 3.2's template takes the day, and shows it.
DATED = """{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{{- "<system>Today Date: " + date_string + "<|im_end|>" -}}
"""


def turn_ending_tokenizer(template: str = TURNS) -> "PreTrainedTokenizerFast":
    """A tokenizer as that of Qwen2.5's base model: a turn ends with a token that is not the end token, `<end>`."""
    from chord.training.policy import character_tokenizer

    tokenizer = character_tokenizer(string.printable)
    tokenizer.add_special_tokens({"additional_special_tokens": [TURN_END, "<system>"]})
    tokenizer.chat_template = template
    return tokenizer


def tiny_model(folder: Path, tokenizer: "PreTrainedTokenizerFast | None" = None, **architecture: Any) -> Path:
    """The folder, with the model and its tokenizer in it: the demo's of characters, if no other is given."""
    from chord.training.policy import blank_model, character_tokenizer

    described = load(ROOT, "demo").study.model
    assert described.alphabet is not None and described.architecture is not None
    tokenizer = tokenizer or character_tokenizer(described.alphabet)
    shape = described.architecture.model_dump() | SMALL | architecture
    blank_model(shape, tokenizer, seed=1).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
