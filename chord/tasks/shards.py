"""Answers in parts that are never made twice: a finished shard is a file whose name says what was asked.

Beside shard-N-KEY.jsonl lies shard-N-KEY.json with its hash. Both are written whole, the second one last, and no
workflow removes them. A shard is taken only if its key is that of the present question and its bytes are as written.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chord.provenance.files import write_atomically
from chord.records import Answer, read_lines, write_lines

KEY_DIGITS = 16


@dataclass(frozen=True)
class Shard:
    """A part of the work: its number, and the key of all that decides its answers."""

    number: int
    key: str

    @property
    def name(self) -> str:
        """Without the ending."""
        return f"shard-{self.number:05d}-{self.key[:KEY_DIGITS]}"


def shard_of(number: int, asked: Sequence[Any], alike: Mapping[str, Any]) -> Shard:
    """The shard in which `asked` is answered; `alike` is what decides the answers of all shards."""
    text = json.dumps([dict(alike), list(asked)], sort_keys=True)
    return Shard(number, hashlib.sha256(text.encode()).hexdigest())


def finished(folder: Path, shard: Shard) -> list[Answer] | None:
    """The answers of the shard; None if it is not there, or not whole, or was altered."""
    content, note = folder / f"{shard.name}.jsonl", folder / f"{shard.name}.json"
    try:
        told = json.loads(note.read_bytes())
        matches = (told["key"], told["sha256"]) == (shard.key, hashlib.sha256(content.read_bytes()).hexdigest())
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return read_lines(content, Answer) if matches else None


def finish(folder: Path, shard: Shard, answers: Sequence[Answer], about: Mapping[str, Any]) -> None:
    """Put the shard down; from here on it is never asked for again. `about` tells who made it and how."""
    text = write_lines(answers)
    write_atomically(folder / f"{shard.name}.jsonl", text)
    told = {"key": shard.key, "sha256": hashlib.sha256(text.encode()).hexdigest(), "answers": len(answers), **about}
    write_atomically(folder / f"{shard.name}.json", json.dumps(told, indent=1) + "\n")
