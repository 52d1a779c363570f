"""Rows of Parquet and JSON-lines files, one at a time: a file of any size needs the memory of a few rows.

Whatever stands in a row is hostile until it was looked at: values may be missing, of another type, or huge.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from chord.provenance.files import UserError

BATCH = 32  # rows of a Parquet file that are in memory at one time, as Python objects


class Row(NamedTuple):
    """One row: its place in the dataset, and its values under the names of this project."""

    file: str
    number: int
    values: dict[str, Any]


def read_rows(files: list[tuple[str, Path]], columns: Mapping[str, str]) -> Iterator[Row]:
    """Every row of the files in their order, of each the `columns` (name: column in the file).

    Raises UserError for a file that cannot be read or has no such column at all; a value that only a row lacks is None.
    """
    for name, path in files:
        found = _parquet(path, columns) if path.suffix == ".parquet" else _json_lines(path, columns)
        for number, values in enumerate(found):
            yield Row(name, number, values)


def lacking(files: list[tuple[str, Path]], columns: Mapping[str, str]) -> list[str]:
    """Which of the `columns` (name: column in the file) some file has not at all. Raises UserError as `read_rows`."""
    found: set[str] = set()
    for _, path in files if columns else []:
        there = _columns_of_parquet(path) if path.suffix == ".parquet" else _keys_of_json_lines(path)
        found |= {name for name, column in columns.items() if column not in there}
    return sorted(found)


def _columns_of_parquet(path: Path) -> set[str]:
    import pyarrow
    from pyarrow.parquet import read_schema

    try:
        return set(read_schema(path).names)
    except pyarrow.ArrowException as error:
        raise UserError(_no_parquet(path, error)) from None


def _keys_of_json_lines(path: Path) -> set[str]:
    with path.open("rb") as file:
        return {key for number, line in enumerate(file, start=1) for key in _json_object(path, number, line)}


def _parquet(path: Path, columns: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            missing = sorted(set(columns.values()) - set(file.schema_arrow.names))
            if missing:
                raise UserError(_no_column(path, missing[0], file.schema_arrow.names))
            wanted = list(dict.fromkeys(columns.values()))
            for batch in file.iter_batches(batch_size=BATCH, columns=wanted):
                for row in batch.to_pylist():
                    yield {name: row[column] for name, column in columns.items()}
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise UserError(_no_parquet(path, error)) from None


def _json_lines(path: Path, columns: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    seen: set[str] = set()
    row: Any = {}
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            row = _json_object(path, number, line)
            seen |= row.keys() & set(columns.values())
            yield {name: row.get(column) for name, column in columns.items()}
    missing = sorted(set(columns.values()) - seen)
    if row and missing:
        raise UserError(_no_column(path, missing[0], sorted(row)))


def _json_object(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path}, line {number}: found text that is not JSON ({error!s:.200})") from None
    if not isinstance(row, dict):
        raise UserError(f"{path}, line {number}: found no JSON object, expected one a line")
    return row


def _no_parquet(path: Path, error: Exception) -> str:
    return f"{path}: found no Parquet that can be read ({' '.join(str(error).split()):.200})"


def _no_column(path: Path, column: str, found: list[str]) -> str:
    return f"{path}: found columns {', '.join(found)}, expected '{column}' among them; change `columns` of the dataset"
