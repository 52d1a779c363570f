"""From text to a checked record: YAML and JSON files, typed validation. Knows no record and no folder layout.

YAML is read by the core schema of YAML 1.2: `010` is 10, `0o10` is 8, `1e-6` is a number; `1:30`, `1_000`, `yes`,
`off` and dates are text. Size, depth and aliases have limits, so that no file takes long or much memory to refuse.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import yaml
from pydantic import TypeAdapter, ValidationError
from yaml.composer import Composer
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

from chord.config.messages import explained, kind_of
from chord.reach import decides_nothing
from chord.settings import ConfigError, Raw

CParser: Any = getattr(getattr(yaml, "cyaml", None), "CParser", None)  # None where PyYAML was built without libyaml
T = TypeVar("T")
LONGEST = 1_000_000  # characters of a file, and of its value with every alias written out; the longest here has 15,000
DEEPEST = 32  # lists and mappings inside each other; the deepest here has 7
DIGITS = 100  # characters of a number; Python refuses to read more than 4,300 digits, and nothing here needs 20
READ_OTHERWISE = re.compile(r"[\t\ufeff!?]|[|>]\S*#")  # what libyaml may accept, or mean, otherwise than PyYAML
FUNCTION = "!function"  # lm-eval's tag for the name of a function


class FunctionName(str):
    """A text that stands under the tag `!function`. Nothing is imported to read it."""


@decides_nothing("it gives the values that stand in a file, or refuses them")
def validated(
    adapter: TypeAdapter[T], raw: Raw, file: str, prefix: str = "", elsewhere: Mapping[str, str] | None = None
) -> T:
    """`raw` as a typed record, or a ConfigError with one line a problem; `prefix` is where in the file it stands.

    `elsewhere` says of dotted keys in which file and under which key their values stand.
    """
    try:
        return adapter.validate_json(json.dumps(raw), strict=True)
    except ValidationError as error:
        raise ConfigError("\n".join(explained(error.errors(), adapter, file, prefix, elsewhere))) from None


@decides_nothing("it gives the values that stand in a file, or refuses them")
def read_json(path: Path, shown: str | None = None, what: str = "a run.json") -> Raw:
    """What the file holds; raises ConfigError for a missing, empty or cut file, which it calls `shown` and `what`."""
    shown = shown or str(path)
    text = _text(path, shown, what)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: not JSON, or a number of more than 4,300 digits
        found = f"text that is not JSON ({error})" if text.strip() else "an empty file"
        raise ConfigError(f"{shown}: found {found}, expected a whole {what.removeprefix('a ')}") from None


@decides_nothing("it gives the values that stand in a file, or refuses them")
def read_yaml(path: Path, shown: str, functions: bool = False) -> dict[str, Raw]:
    """The mapping that the file holds; `shown` is how messages name it. A key given twice is refused.

    With `functions` a text may have the tag `!function`; it comes back as a FunctionName.
    """
    value = parsed(_text(path, shown, "a YAML file"), shown, functions)
    if not isinstance(value, dict):
        raise ConfigError(f"{shown}: found {kind_of(value)}, expected a mapping of keys to values")
    return value


def parsed(text: str, shown: str, functions: bool = False) -> Raw:
    """The value of a YAML text, made of mappings, lists, texts, numbers, true, false and null only.

    Raises ConfigError, which calls the text `shown`, for what is not YAML and for what is over a limit.
    """
    node = composed(text, shown)
    try:
        return None if node is None else _Building(functions).value(node).raw
    except _Refused as error:
        raise ConfigError(f"{_place(error, shown)}: {error.problem}") from None


@lru_cache(maxsize=256)  # config/ is read for its values, then for what stands beside them; tests read it often
def composed(text: str, shown: str) -> yaml.Node | None:
    """The nodes of a YAML text, not to be changed, each with its place, no value made; None if there are none."""
    if len(text) > LONGEST:
        raise ConfigError(f"{shown}: found {len(text)} characters, expected at most {LONGEST}")
    compose = cast(Callable[..., yaml.Node | None], yaml.compose)  # pyright: ignore[reportUnknownMemberType]
    if CParser is not None and not READ_OTHERWISE.search(text):
        with suppress(yaml.YAMLError, ValueError, OverflowError):
            return compose(text, Loader=_QuickYaml)
    try:
        return compose(text, Loader=_Yaml)
    except _Refused as error:
        raise ConfigError(f"{_place(error, shown)}: {error.problem}") from None
    except yaml.MarkedYAMLError as error:
        raise ConfigError(
            f"{_place(error, shown)}: found text that is not YAML ({error.problem}), expected YAML"
        ) from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # the last two: an escape like "\U7fffffff"
        told = " ".join(str(error).split())
        raise ConfigError(f"{shown}: found text that is not YAML ({told}), expected YAML") from None


def assigned(items: Sequence[str]) -> dict[str, Raw]:
    """`KEY=VALUE` of a command line, as for `snakemake --config`; each value is read as YAML."""
    given: dict[str, Raw] = {}
    for item in items:
        key, sign, value = item.partition("=")
        if not sign:
            raise ConfigError(f"--config: found '{item}', expected KEY=VALUE")
        given[key] = parsed(value, f"--config {key}")
    return given


def _text(path: Path, shown: str, what: str) -> str:
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise ConfigError(f"{shown}: found something that is no file, expected {what}")  # to read it could block
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{shown}: found no such file, expected {what}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{shown}: found bytes that are not UTF-8 text (at {error.start}), expected {what}") from None
    except OSError as error:
        raise ConfigError(f"{shown}: found something unreadable ({error.strerror}), expected {what}") from None


def _place(error: yaml.MarkedYAMLError, shown: str) -> str:
    mark = error.problem_mark
    return f"{shown}, line {mark.line + 1}, column {mark.column + 1}" if mark else shown


class _Refused(yaml.MarkedYAMLError):
    """What YAML allows and this project does not."""

    def __init__(self, problem: str, node: yaml.Node | None = None, mark: yaml.Mark | None = None) -> None:
        super().__init__(problem=problem, problem_mark=node.start_mark if node else mark)


TAG = "tag:yaml.org,2002:"
SCALARS = {
    "null": (re.compile(r"~|null|Null|NULL|"), [*list("~nN"), ""]),
    "bool": (re.compile(r"true|True|TRUE|false|False|FALSE"), list("tTfF")),
    "int": (re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"), list("-+0123456789")),
    "float": (
        re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"),
        list("-+0123456789."),
    ),
}


def _resolvers() -> dict[str, list[tuple[str, "re.Pattern[str]"]]]:
    """By the first character of a plain text, the tags that it may have and how their texts look."""
    found: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    for name, (pattern, first) in SCALARS.items():
        for character in first:
            found.setdefault(character, []).append((TAG + name, re.compile(rf"(?:{pattern.pattern})\Z")))
    return found


class _Nodes(Composer, BaseResolver):
    """Events of YAML to nodes that have a tag of the core schema of YAML 1.2 where the text gives them none."""

    yaml_implicit_resolvers = _resolvers()

    def __init__(self) -> None:
        Composer.__init__(self)
        BaseResolver.__init__(self)
        self.depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """The next node. PyYAML calls itself for each level, so depth is limited here, before Python's own limit."""
        self.depth += 1
        if self.depth > DEEPEST + 1:
            mark = cast(Any, self).peek_event().start_mark
            raise _Refused(f"found more than {DEEPEST} levels of lists and mappings, expected fewer", mark=mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Yaml(Reader, Scanner, Parser, _Nodes):
    """YAML text to nodes by PyYAML alone, which tells best what is wrong with a text."""

    def __init__(self, stream: str) -> None:
        Reader.__init__(self, stream)
        Scanner.__init__(self)
        Parser.__init__(self)
        _Nodes.__init__(self)


class _QuickYaml(_Nodes):
    """YAML text to nodes by libyaml, in 40 % of the time; what is wrong with a text it may say otherwise."""

    def __init__(self, stream: str) -> None:
        super().__init__()
        events = CParser(stream)
        self.check_event, self.peek_event, self.get_event = events.check_event, events.peek_event, events.get_event
        self.dispose = events.dispose


UNPRINTABLE = cast("re.Pattern[str]", Reader.NON_PRINTABLE)  # what YAML forbids unescaped, and no value here may have


class _Built(NamedTuple):
    """A value, its characters with every alias written out, and its levels of lists and mappings."""

    raw: Raw
    length: int
    depth: int


class _Building:
    """Values of nodes; a node that several aliases name is built once and counted for each."""

    def __init__(self, functions: bool) -> None:
        self.functions = functions
        self.built: dict[yaml.Node, _Built] = {}
        self.open: set[yaml.Node] = set()

    def value(self, node: yaml.Node) -> _Built:
        """The value of a node and of all below it."""
        if node in self.built:
            return self.built[node]
        if node in self.open:
            raise _Refused("found an alias inside what it names, expected none", node)
        self.open.add(node)
        if isinstance(node, yaml.ScalarNode):
            raw = self._scalar(node)
            built = _Built(raw, len(cast(str, node.value)) + 1, 0)
        elif isinstance(node, yaml.SequenceNode) and node.tag == f"{TAG}seq":
            parts = [self.value(item) for item in cast("list[yaml.Node]", node.value)]
            built = _Built([part.raw for part in parts], *_sums(parts))
        elif isinstance(node, yaml.MappingNode) and node.tag == f"{TAG}map":
            built = self._mapping(node)
        else:
            raise _Refused(f"found the tag {_tag(node)}, expected none", node)
        self.open.remove(node)
        if built.length > LONGEST or built.depth > DEEPEST:
            raise _Refused(f"found more than {LONGEST} characters or {DEEPEST} levels with aliases written out", node)
        self.built[node] = built
        return built

    def _mapping(self, node: yaml.MappingNode) -> _Built:
        raw: dict[str, Raw] = {}
        parts: list[_Built] = []
        for key_node, value_node in cast("list[tuple[yaml.Node, yaml.Node]]", node.value):
            key = self.value(key_node)
            if not isinstance(key.raw, str):
                raise _Refused(f"found the key {key.raw}, expected text", key_node)
            if key.raw in raw:
                raise _Refused(f"found the key {key.raw!r} a second time, expected each key once", key_node)
            if len(key.raw.splitlines()) > 1:
                raise _Refused("found a key of several lines, expected one", key_node)
            value = self.value(value_node)
            raw[key.raw] = value.raw
            parts += [key, value]
        return _Built(raw, *_sums(parts))

    def _scalar(self, node: yaml.ScalarNode) -> Raw:
        text, name = cast(str, node.value), node.tag.removeprefix(TAG)
        if UNPRINTABLE.search(text):
            raise _Refused("found a character that cannot be printed, expected text without", node)
        if name == "str":
            return text
        if node.tag == FUNCTION and self.functions:
            return FunctionName(text)
        if name not in SCALARS:
            raise _Refused(f"found the tag {_tag(node)}, expected none", node)
        if not SCALARS[name][0].fullmatch(text):
            raise _Refused(f"found {text[:40]!r} under the tag !!{name}, expected a value of that kind", node)
        if len(text) > DIGITS:
            raise _Refused(f"found a number of {len(text)} characters, expected at most {DIGITS}", node)
        return _plain(name, text.lower())


def _plain(name: str, text: str) -> Raw:
    """The value of a text that fits the pattern of its tag."""
    if name == "null":
        return None
    if name == "bool":
        return text == "true"
    if name == "int":
        return int(text[2:], {"0o": 8, "0x": 16}[text[:2]]) if text[:2] in ("0o", "0x") else int(text)
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


def _sums(parts: Sequence[_Built]) -> tuple[int, int]:
    return 1 + sum(part.length for part in parts), 1 + max((part.depth for part in parts), default=0)


def _tag(node: yaml.Node) -> str:
    return node.tag.replace(TAG, "!!")
