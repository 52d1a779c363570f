"""YAML and JSON to typed records, and in plain words what is wrong with them."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast

import yaml
from pydantic import TypeAdapter, ValidationError
from yaml.composer import Composer
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

from chord.errors import ConfigError, expected
from chord.reach import decides_nothing
from chord.settings import Raw

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
        keys, around, here = _place(schema, raw, one["loc"])
        key = ".".join(filter(None, [prefix, *map(str, keys)]))
        tag = str(context.get("discriminator", "")).strip("'")
        if kind == "too_short" and len(value) >= context["min_length"]:
            continue  # one of its entries is wrong and has its own message
        if kind == "value_error":
            found[key], want = (f"{key}: " if key else "") + str(context["error"]), ""
        elif kind == "missing":
            found[key], want = f"{key} is missing", "a value"
        elif kind == "extra_forbidden":
            names = sorted({name for record in around for name in record.get("properties", ())})
            found[key], want = f"{key} is not a key here", expected(str(keys[-1]), names)
        elif kind == "union_tag_not_found":
            kinds = [_resolved(schema, one) for union in here for one in union.get("oneOf", ())]
            words = [record["properties"][tag]["const"] for record in kinds]
            found[key], want = f"{key}.{tag}".lstrip(".") + " is missing", expected("", words)
        else:
            key, value = (f"{key}.{tag}".lstrip("."), value[tag]) if tag else (key, value)
            words = re.split(", | or ", context.get("expected_tags", context.get("expected", "")))
            known = [word.strip("'") for word in words]
            want = expected(str(value), known) if known[0] else EXPECTED.get(kind, one["msg"]).format(**context)
            found[key] = f"{key} is {shown(value)}" if key else f"found {shown(value)}"
        wanted.setdefault(key, []).append(want.removeprefix("expected "))
    inner = [key for key in found if not any(other.startswith(f"{key}.") for other in found)]
    return {key: found[key] + _either(wanted[key]) for key in inner}


def _either(kinds: Sequence[str]) -> str:
    """`, expected` one of the kinds, each once, and nothing of whole numbers where any number may stand."""
    told = [one for one in dict.fromkeys(filter(None, kinds)) if one != "a whole number" or "a number" not in kinds]
    return f", expected {' or '.join(told)}" if told else ""


def _place(root: Schema, raw: Any, loc: Sequence[int | str]) -> tuple[list[int | str], list[Schema], list[Schema]]:
    """The keys that lead to an error, the schemas of the record around it, and those of the value itself.

    In `loc` pydantic also names the member of a union that it tried; such parts are no keys.
    """
    keys: list[int | str] = []
    around, here = [root], _kinds(root, root)
    for number, part in enumerate(loc, start=1):
        mappings = [one["discriminator"]["mapping"] for one in here if "discriminator" in one]
        if tagged := [mapping[part] for mapping in mappings if part in mapping]:
            here = [_resolved(root, {"$ref": reference}) for reference in tagged]
            continue
        is_there = (part in raw) if isinstance(raw, dict) else (isinstance(raw, list) and isinstance(part, int))
        if not is_there and not (number == len(loc) and any(part in one.get("properties", ()) for one in here)):
            continue
        keys.append(part)
        around, raw = here, cast(Any, raw)[part] if is_there else None
        here = [kind for one in here for below in _below(one, part) for kind in _kinds(root, below)]
    return keys, around, here


def _below(node: Schema, part: int | str) -> list[Schema]:
    """The schema of the value under a key, or in a list."""
    named: list[Any] = [node.get("properties", {}).get(part), node.get("additionalProperties"), node.get("items")]
    named += node.get("patternProperties", {}).values()
    return [cast(Schema, one) for one in named if isinstance(one, dict)][:1]


def _kinds(root: Schema, node: Schema) -> list[Schema]:
    """The members of a union, or the schema itself, with references resolved."""
    node = _resolved(root, node)
    return [kind for one in node["anyOf"] for kind in _kinds(root, one)] if "anyOf" in node else [node]


def _resolved(root: Schema, node: Schema) -> Schema:
    return root["$defs"][node["$ref"].rsplit("/", 1)[1]] if "$ref" in node else node


def one_line(text: str) -> str:
    """The text with every line break and other unprintable character written as in a Python text."""
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


def kind_of(value: object) -> str:
    """A value's kind in words, for messages about a whole file."""
    names = {"NoneType": "nothing", "list": "a list", "dict": "a mapping", "str": "text", "bool": "true or false"}
    return names.get(type(value).__name__, "a number")


def shown(value: object) -> str:
    """A value as a message quotes it, not too long."""
    text = json.dumps(value, ensure_ascii=False)
    return "nothing" if value is None else text if len(text) < 100 else text[:97] + "..."


def entries_of(module: str, point: str) -> tuple[str, ...]:
    """The names of the entries of a plug point, read from the source of its module, which is not loaded.

    `module` is a path below chord/, `grading/graders.py`, and `point` the name of the `PlugPoint` in it.
    """
    source = (Path(__file__).parents[1] / module).read_text(encoding="utf-8")
    return tuple(re.findall(rf'^@{point}\.entry\("([^"]+)"\)', source, flags=re.MULTILINE))


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
        return None if node is None else _Values(functions).of(node)
    except _Refused as error:
        raise _as_told(error, shown) from None


@lru_cache(maxsize=256)  # config/ is read for its values, then for what stands beside them; tests read it often
def composed(text: str, shown: str) -> yaml.Node | None:
    """The nodes of a YAML text, not to be changed, each with its place, no value made; None if there are none."""
    if len(text) > LONGEST:
        raise ConfigError(f"{shown}: found {len(text)} characters, expected at most {LONGEST}")
    compose = cast(Callable[..., yaml.Node | None], yaml.compose)
    if CParser is not None and not READ_OTHERWISE.search(text):
        with suppress(yaml.YAMLError, ValueError, OverflowError):
            return compose(text, Loader=_QuickYaml)
    try:
        return compose(text, Loader=_Yaml)
    except yaml.MarkedYAMLError as error:
        raise _as_told(error, shown) from None
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
        if path.is_file() or path.is_dir() or not path.exists():  # to read anything else could block
            return path.read_text(encoding="utf-8")
        found = "something that is no file"
    except FileNotFoundError:
        found = "no such file"
    except UnicodeDecodeError as error:
        found = f"bytes that are not UTF-8 text (at {error.start})"
    except OSError as error:
        found = f"something unreadable ({error.strerror})"
    raise ConfigError(f"{shown}: found {found}, expected {what}")


def _as_told(error: yaml.MarkedYAMLError, shown: str) -> ConfigError:
    mark, problem = error.problem_mark, error.problem
    where = f"{shown}, line {mark.line + 1}, column {mark.column + 1}" if mark else shown
    if not isinstance(error, _Refused):
        problem = f"found text that is not YAML ({problem}), expected YAML"
    return ConfigError(f"{where}: {problem}")


class _Refused(yaml.MarkedYAMLError):
    """What YAML allows and this project does not."""

    def __init__(self, problem: str, node: yaml.Node | None = None, mark: yaml.Mark | None = None) -> None:
        super().__init__(problem=problem, problem_mark=node.start_mark if node else mark)


TAG = "tag:yaml.org,2002:"
SCALARS = {  # the core schema of YAML 1.2, https://yaml.org/spec/1.2.2/, section 10.3.2
    "null": re.compile(r"(~|null|Null|NULL|)\Z"),
    "bool": re.compile(r"(true|True|TRUE|false|False|FALSE)\Z"),
    "int": re.compile(r"([-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)\Z"),
    "float": re.compile(
        r"([-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))\Z"
    ),
}


class _Nodes(Composer, BaseResolver):
    """Events of YAML to nodes that have a tag of the core schema of YAML 1.2 where the text gives them none."""

    yaml_implicit_resolvers: ClassVar = {None: [(TAG + name, pattern) for name, pattern in SCALARS.items()]}

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


class _Values:
    """Values of nodes; a node that several aliases name is built once, and its size counted for each."""

    def __init__(self, functions: bool) -> None:
        self.functions = functions
        self.values: dict[yaml.Node, Raw] = {}
        self.sizes: dict[yaml.Node, tuple[int, int]] = {}  # characters with aliases written out; levels
        self.open: set[yaml.Node] = set()

    def of(self, node: yaml.Node) -> Raw:
        """The value of a node and of all below it."""
        if node in self.values:
            return self.values[node]
        if node in self.open:
            raise _Refused("found an alias inside what it names, expected none", node)
        self.open.add(node)
        inside: list[yaml.Node] = []
        if isinstance(node, yaml.ScalarNode):
            self.values[node] = self._scalar(node)
        elif isinstance(node, yaml.SequenceNode) and node.tag == f"{TAG}seq":
            inside = node.value
            self.values[node] = [self.of(item) for item in inside]
        elif isinstance(node, yaml.MappingNode) and node.tag == f"{TAG}map":
            inside = [part for pair in cast("list[tuple[yaml.Node, yaml.Node]]", node.value) for part in pair]
            self.values[node] = self._mapping(node)
        else:
            raise _Refused(f"found the tag {_tag(node)}, expected none", node)
        self.open.remove(node)
        sizes = [self.sizes[part] for part in inside]
        length = 1 + sum(one for one, _ in sizes) + (len(node.value) if isinstance(node, yaml.ScalarNode) else 0)
        depth = 0 if isinstance(node, yaml.ScalarNode) else 1 + max((one for _, one in sizes), default=0)
        if length > LONGEST or depth > DEEPEST:
            raise _Refused(f"found more than {LONGEST} characters or {DEEPEST} levels with aliases written out", node)
        self.sizes[node] = length, depth
        return self.values[node]

    def _mapping(self, node: yaml.MappingNode) -> dict[str, Raw]:
        found: dict[str, Raw] = {}
        for key_node, value_node in cast("list[tuple[yaml.Node, yaml.Node]]", node.value):
            key = self.of(key_node)
            if not isinstance(key, str):
                raise _Refused(f"found the key {key}, expected text", key_node)
            if key in found:
                raise _Refused(f"found the key {key!r} a second time, expected each key once", key_node)
            if len(key.splitlines()) > 1:
                raise _Refused("found a key of several lines, expected one", key_node)
            found[key] = self.of(value_node)
        return found

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
        if not SCALARS[name].match(text):
            raise _Refused(f"found {text[:40]!r} under the tag !!{name}, expected a value of that kind", node)
        if len(text) > DIGITS:
            raise _Refused(f"found a number of {len(text)} characters, expected at most {DIGITS}", node)
        text = text.lower()
        if name in ("null", "bool"):
            return None if name == "null" else text == "true"
        if name == "int":
            return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
        return float(text.replace(".inf", "inf").replace(".nan", "nan"))


def _tag(node: yaml.Node) -> str:
    return node.tag.replace(TAG, "!!")
