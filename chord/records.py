"""What flows between steps: one frozen record a line of JSON. No torch, no config, no math."""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from chord.errors import RecordError

# --- records -------------------------------------------------------------------------------------


class Outcome(StrEnum):
    """What a grader says of one text."""

    RIGHT = "right"
    WRONG = "wrong"  # an answer in the right form, but not the right one
    UNEVALUATED = "unevaluated"  # an operation that was left to do where a number was asked for; see grader math
    UNPARSABLE = "unparsable"  # no answer in the form that was asked for
    TOO_LONG = "too_long"  # the token limit was reached before the text ended
    KILLED = "killed"  # grading it took, or would have taken, too long or too much memory


@dataclass(frozen=True)
class Problem:
    """A question with its answer. `prompt` is the text of the user's message; `source` says where it came from."""

    id: str
    task: str
    prompt: str
    answer: str
    source: dict[str, Any]


@dataclass(frozen=True)
class Trace:
    """An expert's answer to a problem, already found right. `expert` names who wrote it."""

    id: str
    problem: str  # Problem.id
    prompt: str
    response: str
    expert: str


@dataclass(frozen=True)
class Answer:
    """One sampled answer to one benchmark problem."""

    benchmark: str
    problem: str  # Problem.id
    sample: int
    prompt: str
    text: str
    finish: str  # "stop" or "length"
    response_tokens: int
    seed: int


@dataclass(frozen=True)
class ValidationAnswer:
    """One answer to one validation problem, sampled after `step` updates of a training and graded later."""

    step: int
    problem: str  # Problem.id
    sample: int
    text: str
    finish: str  # "stop" or "length"
    response_tokens: int


def candidate_name(step: int) -> str:
    """The file of the weights after `step` updates, in a folder of candidates."""
    return f"step-{step:06d}.safetensors"


Record = TypeVar("Record", Problem, Trace, Answer, ValidationAnswer)


def write_lines(records: Iterable[Any]) -> str:
    """The records as JSON lines, keys in field order, so that equal records give equal bytes."""
    return "".join(json.dumps(vars(record), ensure_ascii=False) + "\n" for record in records)


def split_lines(text: str) -> list[str]:
    """The lines of JSON lines, without their ends.

    Only a line feed ends one. JSON leaves U+0085, U+2028 and U+2029 in texts as they are; `str.splitlines` cuts there.
    """
    return text.removesuffix("\n").split("\n") if text else []


def read_lines(path: Path, kind: type[Record]) -> list[Record]:
    """All records of `kind` in the file, at least one. Raises RecordError for a missing, empty, cut or foreign file."""
    records = list(_parsed(path, kind))
    if not records:
        raise RecordError(f"{path}: found an empty file, expected at least one {kind.__name__} a line")
    return records


def _parsed(path: Path, kind: type[Record]) -> Iterator[Record]:
    names = {field.name for field in dataclasses.fields(kind)}
    try:
        text = path.read_bytes().decode()
    except FileNotFoundError:
        raise RecordError(f"{path}: found no such file, expected JSON lines of {kind.__name__}") from None
    except (UnicodeDecodeError, IsADirectoryError) as error:
        raise RecordError(f"{path}: found something other than text ({error}), expected JSON lines") from None
    if text and not text.endswith("\n"):
        raise RecordError(f"{path}: the last line has no end, so the file was cut off; make it again")
    adapter = TypeAdapter(kind)
    for number, line in enumerate(split_lines(text), start=1):
        try:
            raw: Any = json.loads(line)
        except json.JSONDecodeError as error:
            raise RecordError(f"{path}, line {number}: found text that is not JSON ({error.msg})") from None
        keys = set(cast(dict[str, Any], raw)) if isinstance(raw, dict) else set[str]()
        if keys != names:
            found = sorted(keys) or "no JSON object"
            raise RecordError(f"{path}, line {number}: found {found}, expected the fields {sorted(names)}")
        try:
            yield adapter.validate_json(line, strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            found = f"{'.'.join(map(str, first['loc']))} = {first['input']!r:.80}"
            raise RecordError(f"{path}, line {number}: found {found}, expected: {first['msg']}") from None


# --- what a sampler is asked and returns ---------------------------------------------------------


class PromptError(ValueError):
    """A prompt that cannot be answered: empty, or too long for the model's context; the message names it."""


class StaleSampler(Exception):
    """The sampler does not compute with the learner's weights; the message says which differ."""


class Request(NamedTuple):
    """One response that is wanted. Its seed alone decides the random numbers, whatever else is in the batch."""

    id: str
    prompt_ids: tuple[int, ...]
    seed: int


@dataclass(frozen=True)
class Sampled:
    """A response; `logp` in nats at the sampling temperature. With `finish` "stop" the last id is an end token."""

    ids: list[int]
    logp: list[float]
    finish: str  # "stop" or "length"


def check_prompts(requests: Sequence[Request], max_tokens: int, context: int) -> None:
    """Raises PromptError for a prompt that is empty, or after which a response of `max_tokens` may not fit."""
    for request in requests:
        if not 0 < len(request.prompt_ids) <= context - max_tokens:
            raise PromptError(
                f"{request.id}: found a prompt of {len(request.prompt_ids)} tokens, expected 1 to"
                f" {context - max_tokens} (context {context} less {max_tokens} for the response)"
            )


class Sampler(Protocol):
    """Anything that samples responses from the policy's present weights."""

    def sample(self, requests: Sequence[Request], max_tokens: int, temperature: float) -> list[Sampled]:
        """One response for each request, in order. Raises PromptError for an empty or over-long prompt."""
        ...
