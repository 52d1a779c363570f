"""Which rows a step reads: an endless stream of shuffled epochs, a pure function of seed and position."""

import numpy as np

from chord.records import derive


def rows_at(position: int, count: int, size: int, seed: int, purpose: str) -> list[int]:
    """Rows `position` to `position + count` of the stream over `size` rows; each epoch is every row once."""
    if size < 1:
        raise ValueError(f"found {size} rows to read for {purpose}, expected at least one")
    rows: list[int] = []
    while len(rows) < count:
        epoch, start = divmod(position + len(rows), size)
        shuffled = np.random.Generator(np.random.Philox(key=derive(seed, purpose, epoch))).permutation(size)
        rows += shuffled[start : start + count - len(rows)].tolist()
    return rows
