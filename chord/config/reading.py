"""YAML and JSON to typed records, and in plain words what is wrong with them."""

import difflib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
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

from chord.errors import ConfigError
from chord.reach import decides_nothing
from chord.settings import Raw

# --- names that code gives -----------------------------------------------------------------------


def entries_of(module: str, point: str) -> tuple[str, ...]:
    """The names of the entries of a plug point, read from the source of its module, which is not loaded.

    `module` is a path below chord/, `grading/graders.py`, and `point` the name of the `PlugPoint` in it.
    """
    source = (Path(__file__).parents[1] / module).read_text(encoding="utf-8")
    return tuple(re.findall(rf'^@{point}\.entry\("([^"]+)"\)', source, flags=re.MULTILINE))


# --- messages ------------------------------------------------------------------------------------

Schema = dict[str, Any]

MAPPING = "a mapping of keys to values"
EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": MAPPING,
    "model_type": MAPPING,
    "model_attributes_type": MAPPING,
    "string_pattern_mismatch": "a name of small letters, digits, `.`, `+` and `-`",
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "less than {lt:g}",
    "less_than_equal": "at most {le:g}",
    "too_short": "at least {min_length} of them",
    "too_long": "at most {max_length} of them",
    "string_too_short": "a text of at least {min_length} characters",
}


def _explained(error: ValidationError, schema: Schema, raw: Raw, prefix: str) -> dict[str, str]:
    """What is wrong with `raw`, by key; `prefix` is where in its file it stands."""
    found: dict[str, str] = {}
    wanted: dict[str, list[str]] = {}  # of a value that may be of several kinds, what each of them would be
    for one in error.errors():
        kind, context, value = one["type"], one.get("ctx", {}), one["input"]
        keys = _keys(raw, one["loc"], kind)
        key = ".".join(filter(None, [prefix, *map(str, keys)]))
        tag = str(context.get("discriminator", "")).strip("'")
        if kind == "too_short" and len(value) >= context["min_length"]:
            continue  # an entry of it is wrong, which is told
        if kind == "value_error":
            found[key], want = (f"{key}: " if key else "") + str(context["error"]), ""
        elif kind == "missing":
            found[key], want = f"{key} is missing", "a value"
        elif kind == "extra_forbidden":
            names = sorted({name for record in _records(schema, raw, keys[:-1]) for name in record["properties"]})
            found[key], want = f"{key} is not a key here", expected(str(keys[-1]), names)
        elif kind == "union_tag_not_found":
            words = [record["properties"][tag]["const"] for record in _records(schema, raw, keys)]
            found[key], want = f"{key}.{tag}".lstrip(".") + " is missing", expected("", words)
        else:
            key, value = (f"{key}.{tag}".lstrip("."), value[tag]) if tag else (key, value)
            words = [
                word.strip("'")
                for word in re.split(", | or ", context.get("expected_tags", context.get("expected", "")))
            ]
            want = expected(str(value), words) if words[0] else EXPECTED.get(kind, one["msg"]).format(**context)
            found[key] = f"{key} is {shown(value)}" if key else f"found {shown(value)}"
        wanted.setdefault(key, []).append(want.removeprefix("expected "))
    inner = [key for key in found if not any(other.startswith(f"{key}.") for other in found)]
    return {key: found[key] + _either(wanted[key]) for key in inner}


def _either(kinds: Sequence[str]) -> str:
    """`, expected` one of the kinds, each once, and nothing of whole numbers where any number may stand."""
    told = [one for one in dict.fromkeys(filter(None, kinds)) if one != "a whole number" or "a number" not in kinds]
    return f", expected {' or '.join(told)}" if told else ""


def _keys(raw: Any, loc: Sequence[int | str], kind: str) -> list[int | str]:
    """The keys of an error's place, without the tags and kinds of values that pydantic tells between them."""
    keys: list[int | str] = []
    for place, part in enumerate(loc):
        if (part in raw) if isinstance(raw, dict) else (isinstance(raw, list) and isinstance(part, int)):
            keys.append(part)
            raw = cast(Any, raw)[part]
        elif kind == "missing" and place == len(loc) - 1:
            keys.append(part)
    return keys


def _records(root: Schema, raw: Any, keys: Sequence[int | str]) -> list[Schema]:
    """The records that may stand under these keys of `raw`; of several only those whose own words stand there."""
    nodes = _alternatives(root, root)
    for part in (*keys, None):
        words = [{key: v["const"] for key, v in one.get("properties", {}).items() if "const" in v} for one in nodes]
        fit = [
            one
            for one, own in zip(nodes, words, strict=True)
            if isinstance(raw, dict) and own.items() <= cast(Schema, raw).items()
        ]
        nodes = fit or nodes
        if part is not None:
            below = [_below(one, part) for one in nodes]
            nodes = [leaf for one in below if one for leaf in _alternatives(root, one)]
            raw = cast(Any, raw)[part]
    return [one for one in nodes if "properties" in one]


def _below(node: Schema, part: int | str) -> Schema | None:
    """What stands under a key, or in a list."""
    if isinstance(part, int):
        return node.get("items")
    named = node.get("properties", {}).get(part) or node.get("additionalProperties")
    return named or next(iter(node.get("patternProperties", {}).values()), None)


def _alternatives(root: Schema, node: Schema) -> list[Schema]:
    """The node itself, or what it refers to, or all members of a union."""
    if "$ref" in node:
        return _alternatives(root, root["$defs"][node["$ref"].rsplit("/", 1)[1]])
    options = [*node.get("anyOf", []), *node.get("oneOf", [])]
    return [leaf for option in options for leaf in _alternatives(root, option)] if options else [node]


def one_line(text: str) -> str:
    """The text with every line break and other unprintable character written as in a Python text."""
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


def expected(found: str, known: Iterable[object]) -> str:
    """What a name could have been: the nearest valid one first, then all of them."""
    names = [str(name) for name in known]
    near = difflib.get_close_matches(found, names, n=1, cutoff=0.6)
    listed = ", ".join(names) if len(names) <= 80 else f"one of {len(names)}"
    return f"expected {f'`{near[0]}` (nearest) or ' if near else ''}one of: {listed or 'nothing, none is defined'}"


def kind_of(value: object) -> str:
    """A value's kind in words, for messages about a whole file."""
    names = {"NoneType": "nothing", "list": "a list", "dict": "a mapping", "str": "text", "bool": "true or false"}
    return names.get(type(value).__name__, "a number")


def shown(value: object) -> str:
    """A value as a message quotes it, not too long."""
    text = json.dumps(value, ensure_ascii=False)
    return "nothing" if value is None else text if len(text) < 100 else text[:97] + "..."


# --- reading -------------------------------------------------------------------------------------

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
        lines: list[str] = []
        for key, text in _explained(error, adapter.json_schema(), raw, prefix).items():
            place = (elsewhere or {}).get(key, "") if text.startswith(f"{key} ") else ""
            told = f"{place}{text.removeprefix(key)}; asked for in {file}: {key}" if place else f"{file}: {text}"
            lines.append(one_line(told))
        raise ConfigError("\n".join(lines)) from None


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
        raise ConfigError(f"{_position(error, shown)}: {error.problem}") from None


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
        raise ConfigError(f"{_position(error, shown)}: {error.problem}") from None
    except yaml.MarkedYAMLError as error:
        raise ConfigError(
            f"{_position(error, shown)}: found text that is not YAML ({error.problem}), expected YAML"
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


def _position(error: yaml.MarkedYAMLError, shown: str) -> str:
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
        text = text.lower()
        if name in ("null", "bool"):
            return None if name == "null" else text == "true"
        if name == "int":
            return int(text[2:], {"0o": 8, "0x": 16}[text[:2]]) if text[:2] in ("0o", "0x") else int(text)
        return float(text.replace(".inf", "inf").replace(".nan", "nan"))


def _sums(parts: Sequence[_Built]) -> tuple[int, int]:
    return 1 + sum(part.length for part in parts), 1 + max((part.depth for part in parts), default=0)


def _tag(node: yaml.Node) -> str:
    return node.tag.replace(TAG, "!!")
