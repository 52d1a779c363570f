"""Writes what explains config/, out of the typed records: `python workflow/schemas/write.py`, from the root.

The JSON schemas beside this file are for editors, which find them by .vscode/settings.json, and for other programs; the
project itself checks with chord.config and, for manifests, chord.provenance.manifest. Of config/README.md and of
config/benchmarks/README.md the tables are written, between comments that name a schema. The words are those of
`Field(description=...)` and of the records' docstrings. A test fails where a file is not as it would be written.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from chord.config.benchmarks import BenchmarkTask  # noqa: E402  the path must be set first
from chord.config.paper import Artefact, Choice, Claims  # noqa: E402  likewise
from chord.config.project import Run  # noqa: E402  likewise
from chord.config.study import (  # noqa: E402  likewise
    Arm,
    Planning,
    Study,
)
from chord.provenance.manifest import Manifest  # noqa: E402  likewise

Schema = dict[str, Any]
RECORDS: dict[str, tuple[str, Any]] = {
    "config": ("config/config.yaml", Choice),
    "arms": ("config/arms.yaml", dict[str, Arm]),
    "study": ("config/studies/*.yaml", Study),
    "experiment": ("config/experiments/*.yaml", Artefact),
    "claims": ("config/claims.yaml", Claims),
    "planning": ("config/planning.yaml", Planning),
    "benchmark": ("config/benchmarks/*.yaml", BenchmarkTask),
    "run": ("results/*/runs/*/*/run.json", Run),
    "manifest": ("results/**/*.manifest.json", Manifest),
}
READMES = ("config/README.md", "config/benchmarks/README.md")
MARKED = re.compile(r"(<!-- table (\w+), .*?-->\n).*?(<!-- end -->)", re.DOTALL)
BUDGET = {"type": "string", "pattern": r"^budget\.\w+$", "description": "the study's value of this name in `budget`"}
KINDS = {"string": "text", "integer": "whole number", "number": "number", "boolean": "`true`, `false`"}
BOUNDS = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}
FAR = 10**5  # a bound beyond it catches a slip and is not worth a word


def written() -> dict[Path, str]:
    """What each of the files should hold; what stands around the tables of a README is kept."""
    plain = {name: _schema(kind) for name, (_, kind) in RECORDS.items()}
    editor = {f"workflow/schemas/{name}.schema.json": file for name, (file, _) in RECORDS.items() if "config/" in file}
    found = {ROOT / ".vscode/settings.json": {"yaml.schemas": editor, "yaml.customTags": ["!function scalar"]}}
    for name, schema in (plain | {name: _with_budget(plain[name]) for name in ("arms", "study")}).items():
        draft = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
        found[ROOT / f"workflow/schemas/{name}.schema.json"] = draft | schema | {"title": RECORDS[name][0]}
    texts = {path: json.dumps(value, indent=2) + "\n" for path, value in found.items()}
    seen: dict[str, str] = {}
    for readme in READMES:
        text = (ROOT / readme).read_text(encoding="utf-8")
        texts[ROOT / readme] = MARKED.sub(lambda m: f"{m[1]}\n{Table(plain[m[2]], m[2], seen).text()}\n{m[3]}", text)
    return texts


def _schema(kind: Any) -> Schema:
    """The JSON schema; a key that tells kinds of records apart has the description of its record."""
    schema = TypeAdapter(kind).json_schema()
    for record in schema.get("$defs", {}).values():
        for value in record.get("properties", {}).values():
            if "const" in value:
                value.setdefault("description", record["description"])
    return schema


def _with_budget(node: Any) -> Any:
    """The schema with `budget.KEY` allowed wherever a number is."""
    if isinstance(node, list):
        return [_with_budget(item) for item in node]
    if not isinstance(node, dict):
        return node
    if node.get("type") in ("number", "integer"):
        described = {"description": node["description"]} if "description" in node else {}
        return described | {"anyOf": [node, BUDGET]}
    return {key: _with_budget(value) for key, value in node.items()}


# --- tables --------------------------------------------------------------------------------------

Row = tuple[str, str, str]


class Table:
    """The rows of one file: one a key. Keys of a record stand where it is first used; `seen` is where that is."""

    def __init__(self, root: Schema, file: str, seen: dict[str, str]) -> None:
        self.root, self.seen, self.where = root, seen, f" of `{RECORDS[file][0].rpartition('/')[2]}`"

    def text(self) -> str:
        """The table in Markdown."""
        rows = [("key", "value", "meaning"), ("---", "---", "---"), *self.rows(self.root, "")]
        return "".join(f"| {' | '.join(one.replace('|', chr(92) + '|') for one in row)} |\n" for row in rows)

    def rows(self, node: Schema, key: str) -> Iterator[Row]:
        """The rows of all keys below `key`, whose value is described by `node`."""
        node = self.resolved(node)
        if "discriminator" in node:
            yield from self.union(node, key)
        for below, one in self.inside(node):
            yield from self.rows(one, f"{key}{below}".lstrip("."))
        for name, value in node.get("properties", {}).items():
            place, record = f"{key}.{name}".lstrip("."), self.record(value)
            first = self.seen.setdefault(str(record.get("discriminator", record)), place + self.where) if record else ""
            if first and first != place + self.where:
                yield (
                    f"`{place}`",
                    self.value(value),
                    f"{value.get('description')}; as `{first.removesuffix(self.where)}`",
                )
            else:
                says = [value.get("description", "")]
                if record and "properties" in record:
                    says += [_one_line(part) for part in record["description"].split("\n\n")]
                yield f"`{place}`", self.value(value), ". ".join(says)
                yield from self.rows(value, place)

    def union(self, node: Schema, key: str) -> Iterator[Row]:
        """The rows of records that are told apart by what stands under one key."""
        tag = node["discriminator"]["propertyName"]
        members = {one["properties"][tag]["const"]: one for one in map(self.resolved, node["oneOf"])}
        says = [f"`{name}`: {_one_line(one['description'].partition(chr(10) * 2)[0])}" for name, one in members.items()]
        yield f"`{key}.{tag}`".replace("`.", "`"), ", ".join(f"`{name}`" for name in members), ". ".join(says)
        rows: dict[Row, list[str]] = {}
        for name, member in members.items():
            below = {"properties": {one: value for one, value in member["properties"].items() if one != tag}}
            for row in self.rows(below, key):
                rows.setdefault(row, []).append(name)
        for (place, value, meaning), names in rows.items():
            of = "" if len(names) == len(members) else f"{', '.join(f'`{name}`' for name in names)}: "
            yield place, value, of + meaning

    def resolved(self, node: Schema) -> Schema:
        """The node itself, or what it refers to."""
        return self.root["$defs"][node["$ref"].rsplit("/", 1)[1]] if "$ref" in node else node

    def inside(self, node: Schema) -> Iterator[tuple[str, Schema]]:
        """What a value may be, or what lists and mappings hold, and how keys tell that."""
        yield from (("", one) for one in node.get("anyOf", ()))
        if "items" in node:
            yield "[]", node["items"]
        for one in (node.get("additionalProperties"), *node.get("patternProperties", {}).values()):
            if isinstance(one, dict):
                yield ".NAME", one

    def record(self, node: Schema) -> Schema | None:
        """The record that a value is, may be, or holds."""
        node = self.resolved(node)
        if "properties" in node or "discriminator" in node:
            return node
        return next((found for _, one in self.inside(node) if (found := self.record(one))), None)

    def value(self, node: Schema) -> str:
        """What a value may be, in words; nothing for a record."""
        default, node = node.get("default"), self.resolved(node)
        words = node.get("enum", [node["const"]] if "const" in node else [])
        inside = [self.value(one) for _, one in self.inside(node)]
        if words:
            kinds = [", ".join(map(_quoted, words))]
        elif node.get("type") in KINDS:
            bounds = [f"{word} {node[name]:g}" for name, word in BOUNDS.items() if abs(node.get(name, FAR)) < FAR]
            kinds = [" ".join([KINDS[node["type"]], *bounds])]
        elif "items" in node:
            kinds = [" of ".join(["list", *filter(None, inside)])]
        elif node.get("type") == "object" and "properties" not in node:
            kinds = [" to ".join(["mapping of names", *filter(None, inside)])]
        else:
            kinds = inside
        told = " or ".join(dict.fromkeys(filter(None, kinds)))
        is_plain = default is not None and not isinstance(default, dict | list)
        return f"{told}; {_quoted(default)} if left out" if is_plain and default != "" else told


def _quoted(value: object) -> str:
    return f"`{value}`" if isinstance(value, str) and value.strip() else f"`{json.dumps(value)}`"


def _one_line(text: str) -> str:
    return " ".join(text.split()).rstrip(".")


if __name__ == "__main__":
    for path, text in written().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
