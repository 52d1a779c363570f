"""The first weight in which two models differ, read from their safetensors files as bytes. Loads no model."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from chord.provenance.files import UserError

LENGTH_BYTES = 8
LONGEST_HEADER = 100_000_000  # as the format allows


class Tensor(NamedTuple):
    """Where the bytes of one weight lie."""

    file: Path
    about: str  # type and shape
    start: int
    end: int

    @property
    def content(self) -> bytes:
        """The bytes of the weight."""
        with self.file.open("rb") as file:
            file.seek(self.start)
            return file.read(self.end - self.start)


def first_difference(one: Path, other: Path) -> tuple[str, str, str] | None:
    """Name of the first weight that differs between two model folders, and what each side has; None if none does."""
    first, second = dict(_tensors(one)), dict(_tensors(other))
    for name in dict.fromkeys([*first, *second]):
        about = [side[name].about if name in side else "nothing" for side in (first, second)]
        if about[0] != about[1]:
            return name, about[0], about[1]
        contents = first[name].content, second[name].content
        if contents[0] != contents[1]:
            byte = next(place for place, pair in enumerate(zip(*contents, strict=True)) if pair[0] != pair[1])
            return name, f"{about[0]} as it was", f"other from byte {byte} of it on"
    return None


def _tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as handle:
            length = int.from_bytes(handle.read(LENGTH_BYTES), "little")
            text = handle.read(length) if length <= LONGEST_HEADER else b""
        try:
            header: dict[str, Any] = json.loads(text)
            for name, entry in header.items():
                if name != "__metadata__":
                    start, end = (LENGTH_BYTES + length + offset for offset in entry["data_offsets"])
                    yield name, Tensor(file, f"{entry['dtype']} {entry['shape']}", start, end)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{file}: found no safetensors header ({error}), expected the weights of a model") from None
