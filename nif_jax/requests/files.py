"""Files of requests in chunks, and files of scores: Parquet, CSV and JSON Lines."""

import io
import json
import os
import pathlib
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from nif_jax.data.files import naming
from nif_jax.data.schema import DataError
from nif_jax.requests.objects import COLUMNS, rows_as_table, without_empty

FORMATS = (".parquet", ".csv", ".jsonl")
CHUNK = 1 << 15
"""Rows that are read at a time."""
LINE_BYTES = 64
"""Of a line of text, about."""


class Chunk(NamedTuple):
    """Rows of a file.

    Attributes:
      table: the rows that could be read.
      rows: [n] int64 their numbers in the file, from 0, of all lines but the header and empty ones.
      bad: (number, reason) of the others.
      done: bytes of text, or rows of Parquet, that were read so far.
    """

    table: pa.Table
    rows: np.ndarray
    bad: list[tuple[int, str]]
    done: int


def require_format(flag: str, path: pathlib.Path) -> None:
    """Raises DataError for a name without one of the extensions."""
    if path.suffix not in FORMATS:
        raise DataError(f"--{flag}={path}: the formats are {', '.join(FORMATS)}")


def total(path: pathlib.Path) -> int:
    """What Chunk.done ends with."""
    if path.suffix == ".parquet":
        return _parquet(path).metadata.num_rows
    return path.stat().st_size


def read(path: pathlib.Path, features: Collection[str], chunk: int = CHUNK) -> Iterator[Chunk]:
    """The rows of a file in order.

    Args:
      path: Parquet, CSV with a header, or JSON Lines, by extension; text is UTF-8.
      features: of users, which are columns beside those of objects.COLUMNS and item_id.
      chunk: rows of a piece, about.

    Raises:
      DataError: the file is not of that format.
      OSError: it cannot be read.
    """
    if path.suffix == ".parquet":
        yield from _read_parquet(path, chunk)
        return
    with path.open("rb") as file:
        header = file.readline() if path.suffix == ".csv" else b""
        first = 0
        while lines := file.readlines(chunk * LINE_BYTES):
            lines = [line for line in lines if line.strip()]
            if header:
                table, bad = _csv(path, header, lines)
            else:
                table, bad = _json(lines, features)
            rows = np.delete(np.arange(len(lines)), [row for row, _ in bad])
            bad = [(first + row, reason) for row, reason in bad]
            yield Chunk(table, first + rows, bad, file.tell())
            first += len(lines)


def _parquet(path: pathlib.Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(f"{path} is no Parquet file: {_line(error)}") from error


def _read_parquet(path: pathlib.Path, chunk: int) -> Iterator[Chunk]:
    done = 0
    for batch in _parquet(path).iter_batches(chunk, use_threads=False):
        rows = np.arange(done, done + len(batch))
        done += len(batch)
        yield Chunk(pa.Table.from_batches([batch]), rows, [], done)


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]


def _csv(
    path: pathlib.Path, header: bytes, lines: list[bytes]
) -> tuple[pa.Table, list[tuple[int, str]]]:
    """A table of text, and lines that are no rows of it."""
    bad: list[tuple[int, str]] = []

    def skip(row: Any) -> str:  # counted from 1, with the header
        fields = f"{row.actual_columns} fields, the header has {row.expected_columns}"
        bad.append((row.number - 2, f"has {fields}"))
        return "skip"

    names = header.decode("utf-8-sig", "replace").strip().replace('"', "").split(",")
    read = pa.csv.ReadOptions(use_threads=False, block_size=1 << 30)
    parse = pa.csv.ParseOptions(invalid_row_handler=skip)
    kinds = dict.fromkeys(names, pa.string())
    convert = pa.csv.ConvertOptions(
        column_types=kinds,
        null_values=[""],
        strings_can_be_null=True,
        quoted_strings_can_be_null=True,
    )
    content = io.BytesIO(b"".join([header, *lines]))
    try:
        return pa.csv.read_csv(content, read, parse, convert), bad
    except pa.ArrowInvalid as error:
        raise DataError(f"{path} is no CSV file in UTF-8: {_line(error)}") from error


def _json(lines: list[bytes], features: Collection[str]) -> tuple[pa.Table, list[tuple[int, str]]]:
    """A table of objects, and lines that are none."""
    schema = pa.schema(
        COLUMNS | {"item_id": pa.string()} | dict.fromkeys(sorted(features), pa.string())
    )
    parse = pa.json.ParseOptions(explicit_schema=schema)
    read = pa.json.ReadOptions(use_threads=False, block_size=1 << 30)
    try:
        table = pa.json.read_json(io.BytesIO(b"".join(lines)), read, parse)
    except pa.ArrowInvalid:  # a line is no object of these types: find it
        return _json_by_line(lines, features)
    if len(table) != len(lines):  # several objects on a line
        return _json_by_line(lines, features)
    return without_empty(table), []


def _json_by_line(
    lines: list[bytes], features: Collection[str]
) -> tuple[pa.Table, list[tuple[int, str]]]:
    found, bad = [], []
    for row, line in enumerate(lines):
        try:
            found.append(json.loads(line))
        except ValueError as error:  # UnicodeDecodeError is one
            bad.append((row, f"is no JSON: {_line(error)}"))
            found.append(None)
    good = [(row, value) for row, value in enumerate(found) if value is not None]
    table, wrong = rows_as_table([value for _, value in good], features)
    bad += [(good[place][0], reason) for place, reason in wrong]
    return table, sorted(bad)


def read_scores(path: pathlib.Path) -> pa.Table:
    """A file of scores or features, whole, whatever its columns; ids are text in CSV.

    Raises:
      DataError: a file of an unknown or of another format.
      OSError: it cannot be read.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file")
    if path.suffix not in FORMATS:
        raise DataError(f"{path}: the formats of scores are {', '.join(FORMATS)}")
    if path.suffix == ".parquet":
        return _parquet(path).read()
    try:
        if path.suffix == ".jsonl":
            return pa.json.read_json(path)
        ids = dict.fromkeys(("user_id", "item_id"), pa.string())
        return pa.csv.read_csv(path, convert_options=pa.csv.ConvertOptions(column_types=ids))
    except pa.ArrowInvalid as error:
        raise DataError(f"{path} cannot be read: {_line(error)}") from error


class Writer:
    """A file of scores by extension, which appears when it is whole. A context manager."""

    def __init__(self, path: pathlib.Path, schema: pa.Schema):
        """Opens the file.

        Args:
          path: where to.
          schema: of its columns.
        """
        self._path, self._schema = path, schema
        self._temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        with naming(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._temporary.open("wb")
        self._writer: Any = None
        if path.suffix == ".parquet":
            self._writer = pq.ParquetWriter(self._file, schema)
        elif path.suffix == ".csv":
            self._writer = pa.csv.CSVWriter(self._file, schema)

    def write(self, table: pa.Table) -> None:
        """Appends rows."""
        with naming(self._path):
            if self._writer is not None:
                self._writer.write_table(table.cast(self._schema))
            else:
                for row in table.to_pylist():
                    self._file.write(json.dumps(row).encode() + b"\n")

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind, error, trace) -> None:
        try:
            if self._writer is not None:
                self._writer.close()
            self._file.close()
            if kind is None:
                with naming(self._path):
                    self._temporary.replace(self._path)
        finally:
            self._temporary.unlink(missing_ok=True)
