"""From text to a checked record: YAML and JSON files, typed validation. Knows no record and no folder layout."""

import json
import re
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from chord.config.base import ConfigError, Raw
from chord.config.messages import explained, kind_of

T = TypeVar("T")


def validated(adapter: TypeAdapter[T], raw: Raw, file: str, prefix: str = "") -> T:
    """`raw` as a typed record, or a ConfigError with one line a problem; `prefix` is where in the file it stands."""
    try:
        return adapter.validate_json(json.dumps(raw), strict=True)
    except ValidationError as error:
        raise ConfigError("\n".join(explained(error.errors(), adapter, file, prefix))) from None


def read_json(path: Path, shown: str | None = None, what: str = "a run.json") -> Raw:
    """What the file holds; raises ConfigError for a missing, empty or cut file, which it calls `shown` and `what`."""
    shown = shown or str(path)
    text = _text(path, shown, what)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        found = f"text that is not JSON ({error})" if text.strip() else "an empty file"
        raise ConfigError(f"{shown}: found {found}, expected a whole {what.removeprefix('a ')}") from None


def read_yaml(path: Path, shown: str) -> dict[str, Raw]:
    """The mapping that the file holds; `shown` is how messages name it. A key given twice is refused."""
    text = _text(path, shown, "a YAML file")
    try:
        value = parsed(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{shown}, line {mark.line + 1}, column {mark.column + 1}" if mark else shown
        if isinstance(error, _KeyRefused):
            raise ConfigError(f"{place}: {error.problem}") from None
        raise ConfigError(f"{place}: found text that is not YAML ({error.problem}), expected YAML") from None
    except yaml.YAMLError as error:
        told = " ".join(str(error).split())
        raise ConfigError(f"{shown}: found text that is not YAML ({told}), expected YAML") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{shown}: found {kind_of(value)}, expected a mapping of keys to values")
    return value


def parsed(text: str) -> Raw:
    """The value of a YAML text, made of mappings, lists, texts, numbers, true, false and null only."""
    return yaml.load(text, Loader=_Yaml)


def _text(path: Path, shown: str, what: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{shown}: found no such file, expected {what}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{shown}: found bytes that are not UTF-8 text (at {error.start}), expected {what}") from None
    except OSError as error:
        raise ConfigError(f"{shown}: found something unreadable ({error.strerror}), expected {what}") from None


class _KeyRefused(yaml.MarkedYAMLError):
    """A key that YAML allows and this project does not."""


class _Yaml(yaml.SafeLoader):
    """YAML that refuses a key given twice, reads 1e-6 as the number it looks like, and leaves dates as text."""


def _mapping(loader: Any, node: yaml.MappingNode) -> dict[str, Raw]:
    seen: dict[str, Raw] = {}
    for key_node, value_node in node.value:
        key: object = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            raise _KeyRefused(problem=f"found the key {key}, expected text", problem_mark=key_node.start_mark)
        if key in seen:
            told = f"found the key '{key}' a second time, expected each key once"
            raise _KeyRefused(problem=told, problem_mark=key_node.start_mark)
        seen[key] = loader.construct_object(value_node, deep=True)
    return seen


_Yaml.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Yaml.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
_Yaml.add_implicit_resolver(  # pyright: ignore[reportUnknownMemberType]
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)
