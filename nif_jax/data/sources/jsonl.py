"""Parses JSON Lines, an object a line."""

import io
import itertools
import json
import pathlib
from collections.abc import Collection
from typing import Any

import pyarrow as pa

from nif_jax.data.schema import DataError
from nif_jax.data.sources import arrow, formats

_CHUNK = 50_000
"""Lines that are Python objects at one time."""


def read(
    file: pathlib.Path, text: formats.TextFormat, as_text: Collection[str]
) -> tuple[pa.Table, dict[str, str]]:
    """JSON Lines: an object a line; what is nested is left out."""
    encoding, count = formats.encoding(file, text), 0
    columns: dict[str, list[pa.Array]] = {}
    nested: dict[str, str] = {}
    with (
        formats.open_bytes(file) as stream,
        io.TextIOWrapper(stream, encoding, newline="\n") as lines,
    ):
        numbered = ((n, line) for n, line in enumerate(lines, 1) if line.strip())
        while chunk := list(itertools.islice(numbered, _CHUNK)):
            records = [_object(file, number, line) for number, line in chunk]
            for name in dict.fromkeys(itertools.chain(*records)):
                values = [record.get(name) for record in records]
                found = arrow.from_values(values)
                if found is None:
                    nested[name] = "objects or lists of objects"
                else:
                    parts = columns.setdefault(name, [])
                    arrow.pad(parts, count).append(found)
            count += len(chunk)
    if not count:
        raise DataError(f"{file}: the file is empty")
    kept = {n: arrow.pad(parts, count) for n, parts in columns.items() if n not in nested}
    table = pa.table({name: arrow.joined(parts, name in as_text) for name, parts in kept.items()})
    return table, nested


def _object(file: pathlib.Path, number: int, line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{file}: line {number} is not JSON: {error.msg}") from error
    if not isinstance(found, dict):
        raise DataError(f'{file}: line {number} is no object, such as {{"user_id": "u1"}}')
    return found
