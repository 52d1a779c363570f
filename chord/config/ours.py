"""Values that are ours and not the paper's: what `# ours: reason` marks in the files of a study. Decides nothing."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from chord.config.reading import composed

MARK = re.compile(r"(?:^|\s)# ours: (.*)$")


class Ours(NamedTuple):
    """One marked value: the file below config/, the dotted key, the value as it is written there, and the reason."""

    file: str
    key: str
    value: str
    reason: str


def ours(config: Path, files: Sequence[str]) -> list[Ours]:
    """Every marked value in these files below `config`, in order; files that are not there have none.

    A mark at the end of a line is about that line; one that stands alone, with the comment lines that follow it, is
    about the next line with a key.
    """
    paths = ((name, config / name) for name in files)
    return [one for name, path in paths if path.is_file() for one in _marked(name, path.read_text(encoding="utf-8"))]


def _marked(name: str, text: str) -> Iterator[Ours]:
    keys = dict(_keys(composed(text, f"config/{name}")))
    lines = text.splitlines()
    for number, line in enumerate(lines):
        mark = MARK.search(line)
        if mark is None:
            continue
        stands_alone = line.lstrip().startswith("#")
        reason, at = mark[1].strip(), number
        if stands_alone:
            at = next((line for line in range(number, len(lines)) if line in keys), number)
            reason = " ".join([reason, *(line.strip().removeprefix("#").strip() for line in lines[number + 1 : at])])
        value = MARK.sub("", lines[at]).partition(": ")[2].strip()
        yield Ours(name, keys.get(at, ""), value, reason.strip())


def _keys(node: yaml.Node | None, above: str = "") -> Iterator[tuple[int, str]]:
    """The line, from 0, on which each key begins, with its dotted name; the first of a line comes last."""
    if not isinstance(node, yaml.MappingNode):
        return
    pairs: list[tuple[yaml.Node, yaml.Node]] = node.value
    for key, value in reversed(pairs):
        name = f"{above}{key.value}"
        yield from _keys(value, f"{name}.")
        yield key.start_mark.line, name
