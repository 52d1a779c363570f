"""How a bad value is told: where it is, what was found, what was expected. Knows pydantic's errors, no record."""

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import TypeAdapter

Schema = dict[str, Any]
Loc = Sequence[int | str]

KINDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "list[str]": "a list of texts",
}
EXPECTED = {
    "int_type": KINDS["int"],
    "int_from_float": KINDS["int"],
    "float_type": KINDS["float"],
    "finite_number": KINDS["float"],
    "string_type": KINDS["str"],
    "bool_type": KINDS["bool"],
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
    "model_attributes_type": "a mapping of keys to values",
    "string_pattern_mismatch": "a name of small letters, digits, `.`, `+` and `-`",
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "less than {lt:g}",
    "less_than_equal": "at most {le:g}",
    "too_short": "at least {min_length} of them",
    "too_long": "at most {max_length} of them",
    "string_too_short": "a text of at least {min_length} characters",
}


def explained(
    errors: Sequence[Any],
    adapter: TypeAdapter[Any],
    file: str,
    prefix: str = "",
    elsewhere: Mapping[str, str] | None = None,
) -> list[str]:
    """Pydantic's errors, one line a key; `prefix` is where in the file the record stands.

    `elsewhere`: file and key of values that stand in another file, or under another key, than the record's own.
    """
    root = adapter.json_schema()
    lines: dict[str, str] = {}
    members: dict[str, list[str]] = {}
    for error in errors:
        place = _place(root, error["loc"])
        key = ".".join(filter(None, [prefix, *place.keys]))
        if place.member:
            members.setdefault(key, []).append(place.member)
            lines[key] = f"{file}: {key} is {shown(error['input'])}, expected {_either(members[key])}"
        elif error["type"] != "too_short" or len(error["input"]) < error["ctx"]["min_length"]:
            lines[key] = f"{file}: {_told(error, root, key)}"
    for key, place in (elsewhere or {}).items():
        if key in lines and lines[key].startswith(own := f"{file}: {key} "):
            lines[key] = f"{place} {lines[key].removeprefix(own)}; asked for in {file}: {key}"
    return [one_line(line) for line in lines.values()]


def one_line(text: str) -> str:
    """The text with every line break and other unprintable character written as in a Python text."""
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


def _either(members: Sequence[str]) -> str:
    """The members of a union of plain values in words."""
    return " or ".join(KINDS[name] for name in members if name != "int" or "float" not in members)


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


def _told(error: Any, root: Schema, key: str) -> str:
    """One error in our words."""
    kind, context, loc = error["type"], error.get("ctx", {}), error["loc"]
    found = f"{key} is {shown(error['input'])}" if key else f"found {shown(error['input'])}"
    if kind == "extra_forbidden":
        accepted = {name for node in _nodes(root, loc[:-1]) for name in node.get("properties", {})}
        return f"{key} is not a key here, {expected(str(loc[-1]), sorted(accepted))}"
    if kind == "missing":
        return f"{key} is missing, expected a value"
    if kind == "value_error":
        return f"{key}: {context['error']}" if key else str(context["error"])
    if kind == "literal_error":
        return f"{found}, {expected(str(error['input']), _words(root, loc[:-1], str(loc[-1])))}"
    if kind.startswith("union_tag_"):
        tag = context["discriminator"].strip("'")
        place, words = f"{key}.{tag}".lstrip("."), _words(root, loc, tag)
        if kind == "union_tag_not_found":
            return f"{place} is missing, {expected('', words)}"
        return f"{place} is {shown(error['input'][tag])}, {expected(str(error['input'][tag]), words)}"
    return f"{found}, expected {EXPECTED.get(kind, str(error['msg'])).format(**context)}"


class _Place(NamedTuple):
    """Where an error is: the keys as they stand in the file; if a plain union was tried there, which member of it."""

    keys: list[str]
    member: str


def _place(root: Schema, loc: Loc) -> _Place:
    nodes, keys = _leaves(root, root), list[str]()
    for part in loc:
        below = _below(root, nodes, part)
        if not below and part in KINDS:
            return _Place(keys, str(part))
        if not below and (tagged := _tagged(nodes, part)):
            nodes = tagged
            continue
        keys.append(str(part))
        nodes = below
    return _Place(keys, "")


def _nodes(root: Schema, loc: Loc) -> list[Schema]:
    """The parts of the JSON schema that describe what stands at `loc`."""
    nodes = _leaves(root, root)
    for part in loc:
        nodes = _below(root, nodes, part) or _tagged(nodes, part) or nodes
    return nodes


def _words(root: Schema, loc: Loc, key: str) -> list[str]:
    """The words that `key` of the record at `loc` accepts."""
    values = [leaf for node in _nodes(root, loc) for leaf in _leaves(root, node.get("properties", {}).get(key, {}))]
    words = [word for value in values for word in ([value["const"]] if "const" in value else value.get("enum", []))]
    return list(dict.fromkeys(str(word) for word in words))


def _below(root: Schema, nodes: list[Schema], part: int | str) -> list[Schema]:
    """What stands under the key or index `part`; nothing if no node has it."""
    found: list[Schema] = []
    for node in nodes:
        inside: Any = node.get("items") if isinstance(part, int) else node.get("properties", {}).get(part)
        if inside is None and isinstance(part, str):
            inside = node.get("additionalProperties") or next(iter(node.get("patternProperties", {}).values()), None)
        found += _leaves(root, inside) if inside else []
    return found


def _tagged(nodes: list[Schema], tag: int | str) -> list[Schema]:
    """The members of a union of records whose tag is `tag`."""
    return [
        node
        for node in nodes
        if any(
            value.get("const") == tag or tag in value.get("enum", []) for value in node.get("properties", {}).values()
        )
    ]


def _leaves(root: Schema, node: Schema) -> list[Schema]:
    """The node itself, or what it refers to, or all members of a union."""
    if "$ref" in node:
        return _leaves(root, root["$defs"][node["$ref"].rsplit("/", 1)[1]])
    options = [*node.get("anyOf", []), *node.get("oneOf", [])]
    return [leaf for option in options for leaf in _leaves(root, option)] if options else [node]
