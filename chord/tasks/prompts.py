"""Text to tokens and nothing else: the only place where a chat template is applied.

Text that a user or an expert wrote never becomes a special token, however it reads: `<|im_end|>` in a problem is
seven letters and signs, not the end of the message.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

STAND_IN = "\ue000content\ue001"  # private characters, so that no template contains or changes it


def prompt_ids(tokenizer: "PreTrainedTokenizerBase", prompt: str, system: str | None = None) -> list[int]:
    """The tokens after which the policy answers: `prompt` as the user's message in the model's own chat template.

    `system` is the system's message, which comes from the configuration; without it the template has its own say.
    """
    specials = _specials(tokenizer)
    if not _names_one(prompt, specials):
        return _encoded(tokenizer, _rendered(tokenizer, prompt, system), split_special_tokens=False)
    before, stand_in, after = _rendered(tokenizer, STAND_IN, system).partition(STAND_IN)
    if not stand_in or STAND_IN in after:
        raise ValueError(
            f"{tokenizer.name_or_path}: found a chat template that does not show the message as it is, once"
        )
    start = max((before.rfind(special) + len(special) for special in specials if special in before), default=0)
    end = min((after.find(special) for special in specials if special in after), default=len(after))
    return [
        *_encoded(tokenizer, before[:start], split_special_tokens=False),
        *_encoded(tokenizer, before[start:] + prompt + after[:end], split_special_tokens=True),
        *_encoded(tokenizer, after[end:], split_special_tokens=False),
    ]


def response_ids(tokenizer: "PreTrainedTokenizerBase", response: str) -> list[int]:
    """The tokens of a response that was not sampled, and the end token."""
    end = tokenizer.eos_token_id
    if not isinstance(end, int):
        raise ValueError(f"{tokenizer.name_or_path}: found no end token, expected one to close a response with")
    return [*_encoded(tokenizer, response, split_special_tokens=True), end]


def _rendered(tokenizer: "PreTrainedTokenizerBase", content: str, system: str | None) -> str:
    messages = [{"role": "system", "content": system}] if system is not None else []
    messages.append({"role": "user", "content": content})
    return str(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))


def _encoded(tokenizer: "PreTrainedTokenizerBase", text: str, split_special_tokens: bool) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False, split_special_tokens=split_special_tokens)


def _specials(tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    """Texts that the tokenizer would turn into a special token."""
    return [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]


def _names_one(prompt: str, specials: list[str]) -> bool:
    return any(special in prompt for special in specials)
