"""Arrow columns to pandas ones without a loss: text to numbers, whole numbers with gaps, lists."""

import pathlib
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from nif_jax.data.schema import DataError

_WHOLE = r"^\s*[+-]?(0|[1-9]\d{0,18})\s*$"
_NUMBER = r"^\s*[+-]?(((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][+-]?\d+)?|(?i:inf|infinity))\s*$|^nan$"
"""A number with zeros in front, such as a post code, is text: 01234 and 1234 differ."""
_BOOLEANS = (("True", "False"), ("true", "false"), ("TRUE", "FALSE"))
_NULLABLE = {
    pa.int8(): pd.Int8Dtype(),
    pa.int16(): pd.Int16Dtype(),
    pa.int32(): pd.Int32Dtype(),
    pa.int64(): pd.Int64Dtype(),
    pa.uint8(): pd.UInt8Dtype(),
    pa.uint16(): pd.UInt16Dtype(),
    pa.uint32(): pd.UInt32Dtype(),
    pa.uint64(): pd.UInt64Dtype(),
}
"""Whole numbers with gaps: floats would round those above 2^53, and make different ones equal."""


class Kinds:
    """What the columns of a table of text are; all pieces are seen before one is converted.

    Numbers and booleans are columns all of whose values are such; columns `as_text` stay text.
    """

    def __init__(self, as_text: Collection[str]):
        self._as_text = as_text
        self._fits: dict[str, set[str]] = {}
        self._given: set[str] = set()
        self._wide: set[str] = set()

    def see(self, table: pa.Table) -> None:
        """Takes account of the values of a piece."""
        for name in set(table.column_names) - set(self._as_text):
            found = _fitting(table[name])
            self._fits[name] = self._fits.get(name, found) & found
            if table[name].null_count < len(table):
                self._given.add(name)
                if "whole" in found and _is_wide(table[name]):
                    self._wide.add(name)

    def convert(self, table: pa.Table) -> pa.Table:
        """A piece with its columns as what they are."""
        columns = [
            self._convert(name, column)
            for name, column in zip(table.column_names, table.columns, strict=True)
        ]
        return pa.table(columns, names=table.column_names)

    def _convert(self, name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
        fits = self._fits[name] if name in self._given else set()
        if "whole" in fits:
            if name in self._wide:
                return column
            return pc.cast(pc.utf8_trim_whitespace(column), pa.int64())
        if "number" in fits:
            return pc.cast(pc.utf8_trim_whitespace(column), pa.float64())
        true = next((true for true, _ in _BOOLEANS if true in fits), None)
        return column if true is None else pc.equal(column, true)


def parsed(table: pa.Table, as_text: Collection[str]) -> pa.Table:
    """A table of text with numbers and booleans where all of a column's values are such."""
    kinds = Kinds(as_text)
    kinds.see(table)
    return kinds.convert(table)


def _fitting(column: pa.ChunkedArray) -> set[str]:
    """What all values of a column of text can be read as: "whole", "number", words of _BOOLEANS."""
    if _all_match(column, _WHOLE):
        return {"whole", "number"}
    if _all_match(column, _NUMBER):
        return {"number"}
    for true, false in _BOOLEANS:
        if pc.all(pc.is_in(column, pa.array([true, false], column.type)), skip_nulls=False).as_py():
            return {true}
    return set()


def _is_wide(column: pa.ChunkedArray) -> bool:
    """Whether one of whole numbers has more than 64 bits."""
    try:
        pc.cast(pc.utf8_trim_whitespace(column), pa.int64())
    except pa.ArrowInvalid:
        return True
    return False


def _all_match(column: pa.ChunkedArray, pattern: str) -> bool:
    return pc.all(pc.match_substring_regex(column, pattern)).as_py()


def has_line_breaks(table: pa.Table) -> bool:
    """Whether a value of a table of text spans several lines."""
    return any(pc.any(pc.match_substring(c, "\n")).as_py() for c in table.columns if len(c))


def replaced(column: pa.ChunkedArray, old: str, new: str) -> pa.ChunkedArray:
    """Text with each `old` replaced."""
    return pc.replace_substring(column, old, new)


def first(mask: pa.ChunkedArray) -> int:
    """Index of the first True."""
    return pc.index(mask, True).as_py()


def from_values(values: Sequence[Any]) -> pa.Array | None:
    """Values of JSON as an array; None if one is an object, or a list that holds more than scalars.

    Values of several types become text.
    """
    kinds = {type(value) for value in values} - {type(None)}
    if dict in kinds:
        return None
    if list in kinds:
        inner = {type(part) for value in values if isinstance(value, list) for part in value}
        if kinds != {list} or inner & {dict, list}:
            return None
        return pa.array(
            [v and [None if p is None else _text(p) for p in v] for v in values],
            pa.list_(pa.large_string()),
        )
    if kinds <= {int} or kinds <= {int, float} or kinds <= {bool}:
        try:
            return pa.array(values, pa.float64() if float in kinds else None)
        except (OverflowError, pa.ArrowInvalid):  # more than 64 bits: text
            pass
    return pa.array([None if v is None else _text(v) for v in values], pa.large_string())


def _text(value: Any) -> str:
    whole = isinstance(value, float) and value.is_integer()
    return str(int(value)) if whole else str(value)


def pad(parts: list[pa.Array], count: int) -> list[pa.Array]:
    """`parts`, to which nulls are added until they have `count` values."""
    missing = count - sum(map(len, parts))
    if missing:
        parts.append(pa.nulls(missing))
    return parts


def joined(parts: Sequence[pa.Array], as_text: bool) -> pa.ChunkedArray:
    """One column of parts; whole and other numbers are numbers, all other mixtures are text."""
    kinds = {part.type for part in parts} - {pa.null()}
    if not kinds:
        return pa.chunked_array([pa.nulls(sum(map(len, parts)))])
    if kinds == {pa.int64(), pa.float64()} and not as_text:
        kinds = {pa.float64()}
    if len(kinds) > 1 or (as_text and not pa.types.is_list(next(iter(kinds)))):
        kinds = {pa.large_string()}
        parts = [
            pa.array([None if v is None else _text(v) for v in part.to_pylist()], *kinds)
            for part in parts
        ]
    (kind,) = kinds
    return pa.chunked_array([part.cast(kind) for part in parts], kind)


def to_frame(file: pathlib.Path, table: pa.Table) -> pd.DataFrame:
    """The columns as pandas has them; raises DataError for bytes that are no text."""
    columns = {
        name: _to_pandas(file, name, column)
        for name, column in zip(table.column_names, table.columns, strict=True)
    }
    return pd.DataFrame(columns, index=pd.RangeIndex(table.num_rows))


def is_nested(kind: pa.DataType) -> bool:
    """Whether values are structs, maps, or lists of lists; lists of text or numbers are not."""
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if lists or pa.types.is_fixed_size_list(kind):
        return pa.types.is_nested(kind.value_type)
    return pa.types.is_nested(kind)


def _to_pandas(file: pathlib.Path, name: str, column: pa.ChunkedArray) -> pd.Series:
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        try:
            column = column.cast(pa.large_string())
        except pa.ArrowInvalid as error:
            raise DataError(
                f"{file}: column {name!r} holds bytes that are not UTF-8: write it as text"
            ) from error
    if pa.types.is_decimal(kind):
        column = column.cast(pa.float64())
    if pa.types.is_float16(kind):
        column = column.cast(pa.float32())
    if kind in _NULLABLE and column.null_count:
        return column.to_pandas(types_mapper=_NULLABLE.get)
    if pa.types.is_null(kind):
        return pd.Series(np.full(len(column), None, object))
    return column.to_pandas(date_as_object=False)
