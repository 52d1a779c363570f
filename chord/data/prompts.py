"""Text to tokens and nothing else: the only place where a chat template is applied.

Text that a user or an expert wrote never becomes a special token, however it reads: `<|im_end|>` in a problem is
seven letters and signs, not the end of the message. No template learns what day it is: a study names the date.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

from chord.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

STAND_IN = "\ue000content\ue001"  # private characters, so that no template contains or changes it
CLOCK = re.compile(r"\b(\w*now|datetime|today|date|time)\b")  # names by which a template may ask for the time


class TemplateError(UserError, ValueError):
    """A chat template that cannot be used; the message names the model and says what to do."""


def load_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    """The tokenizer in the folder of a model. Raises UserError if there is none; reads nothing else."""
    from transformers import AutoTokenizer

    if not (folder / "tokenizer.json").is_file():
        raise UserError(f"{folder}: found no tokenizer.json, expected the folder of the study's model")
    return cast(Any, AutoTokenizer).from_pretrained(folder, local_files_only=True)


def prompt_ids(
    tokenizer: "PreTrainedTokenizerBase", prompt: str, system: str | None = None, date: str | None = None
) -> list[int]:
    """The tokens after which the policy answers: `prompt` as the user's message in the model's own chat template.

    `system` is the system's message, which comes from the configuration; without it the template has its own say.
    `date` is the study's `prompt_date`, for a template that shows one. Raises TemplateError for a template that asks
    the clock, or that cannot be rendered.
    """
    specials = _specials(tokenizer)
    if not _names_one(prompt, specials):
        return _encoded(tokenizer, prompt_text(tokenizer, prompt, system, date), split_special_tokens=False)
    before, stand_in, after = prompt_text(tokenizer, STAND_IN, system, date).partition(STAND_IN)
    if not stand_in or STAND_IN in after:
        raise _refusal(
            tokenizer, "a chat template that does not show the message as it is, once; expected one that does"
        )
    start = max((before.rfind(special) + len(special) for special in specials if special in before), default=0)
    end = min((after.find(special) for special in specials if special in after), default=len(after))
    return [
        *_encoded(tokenizer, before[:start], split_special_tokens=False),
        *_encoded(tokenizer, before[start:] + prompt + after[:end], split_special_tokens=True),
        *_encoded(tokenizer, after[end:], split_special_tokens=False),
    ]


def prompt_text(
    tokenizer: "PreTrainedTokenizerBase", prompt: str, system: str | None = None, date: str | None = None
) -> str:
    """The whole prompt as text, the template's own words and special tokens in it. Raises as `prompt_ids`."""
    messages = [{"role": "system", "content": system}] if system is not None else []
    messages.append({"role": "user", "content": prompt})
    return _rendered(tokenizer, messages, date, add_generation_prompt=True)


def response_ids(tokenizer: "PreTrainedTokenizerBase", response: str) -> list[int]:
    """The tokens of a response that was not sampled, and the token that ends a turn, at which sampling stops too."""
    return [*_encoded(tokenizer, response, split_special_tokens=True), end_id(tokenizer)]


def end_id(tokenizer: "PreTrainedTokenizerBase") -> int:
    """The token that ends a response: the special one that the template puts behind an assistant's message.

    It must stand there whether or not another turn follows, else it belongs to what follows. Where the template ends a
    turn with none, it is the tokenizer's own end token. Raises TemplateError where there is none either.
    """
    same: Any = tokenizer
    return _end_id(same, f"{same.chat_template} {same.eos_token_id}")


@lru_cache(maxsize=8)
def _end_id(tokenizer: "PreTrainedTokenizerBase", _as_it_is: str) -> int:
    """`end_id`, found once for a tokenizer while its template and its own end token stay."""
    user, assistant = {"role": "user", "content": "?"}, {"role": "assistant", "content": STAND_IN}
    closing = {_closing(tokenizer, [user, assistant, *more]) for more in ([], [user])}
    found = closing.pop() if len(closing) == 1 else None
    end = tokenizer.eos_token_id if found is None else found
    if not isinstance(end, int):
        raise _refusal(tokenizer, "no end token, expected one to close a response with")
    return end


def end_ids(tokenizer: "PreTrainedTokenizerBase", configured: int | Sequence[int] | None) -> list[int]:
    """All tokens that end a response: `end_id`, the tokenizer's own end token, those of the generation settings.

    `configured` is `eos_token_id` of the model's generation settings.
    """
    others = configured if isinstance(configured, Sequence) else [configured]
    own: Any = tokenizer.eos_token_id
    return sorted({end_id(tokenizer), *(int(token) for token in [own, *others] if token is not None)})


def as_recorded(
    tokenizer: "PreTrainedTokenizerBase",
    ends: Sequence[int],
    prompt: str,
    system: str | None = None,
    date: str | None = None,
) -> dict[str, Any]:
    """What a manifest says of the template: the prompt of the first problem as it is read, and what ends a response."""
    text = prompt_text(tokenizer, prompt, system, date)
    return {"first_prompt": text, "end_tokens": tokenizer.convert_ids_to_tokens(list(ends))}


def _closing(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[dict[str, str]]) -> int | None:
    """The special token behind the message that is STAND_IN, but for white space."""

    def no_day(*_: object, **__: object) -> str:
        return ""  # the day moves nothing that stands behind a message

    text = _rendered(tokenizer, messages, "26 Jul 2024", strftime_now=no_day)
    after = text.partition(STAND_IN)[2].lstrip()
    found = [special for special in _specials(tokenizer) if special and after.startswith(special)]
    if not found:
        return None
    token: Any = tokenizer.convert_tokens_to_ids(max(found, key=len))
    return int(token)


def _rendered(
    tokenizer: "PreTrainedTokenizerBase", messages: Sequence[dict[str, str]], date: str | None, **more: Any
) -> str:
    """What the template makes of the messages, told `date`, and no clock."""
    from jinja2 import TemplateError as JinjaError
    from jinja2 import UndefinedError

    def clock_asked(by: str) -> TemplateError:
        remedy = (
            "name the day in the study, such as `prompt_date: 26 Jul 2024`"
            if date is None
            else "it takes no `date_string`, which is the study's `prompt_date`: name a model whose template does"
        )
        found = f"a chat template that asks the clock ({by}), expected the same prompt on every day"
        return _refusal(tokenizer, found, remedy)

    def refuse(*_: object, **__: object) -> NoReturn:
        raise clock_asked("strftime_now")

    # `strftime_now` is a global that transformers gives to every template; what is given here stands before it.
    given: dict[str, Any] = {"strftime_now": refuse} | ({"date_string": date} if date is not None else {}) | more
    try:
        return str(tokenizer.apply_chat_template(list(messages), tokenize=False, **given))
    except JinjaError as error:
        if isinstance(error, UndefinedError) and CLOCK.search(str(error)):
            raise clock_asked(str(error)) from None
        found = " ".join(str(error).split())
        expected = "expected one that takes a user's message"
        raise _refusal(tokenizer, f"a chat template that cannot be rendered ({found}), {expected}") from None


def _refusal(tokenizer: "PreTrainedTokenizerBase", found: str, remedy: str = "name another model") -> TemplateError:
    return TemplateError(f"{tokenizer.name_or_path}: found {found}; {remedy}")


def _encoded(tokenizer: "PreTrainedTokenizerBase", text: str, split_special_tokens: bool) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False, split_special_tokens=split_special_tokens)


def _specials(tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    """Texts that the tokenizer would turn into a special token."""
    return [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]


def _names_one(prompt: str, specials: list[str]) -> bool:
    return any(special in prompt for special in specials)
