"""Columns of a table of requests as text and as whole numbers, with a reason for each bad row."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nif_jax.data.schema import DataError

_WHOLE = r"^\s*[+-]?\d{1,18}(\.0*)?\s*$"


class Reasons:
    """Why rows cannot be scored; the first reason of a row counts."""

    def __init__(self, rows: int):
        """For so many rows, which are good as yet."""
        self._rows, self._text = rows, dict[int, str]()

    @property
    def good(self) -> np.ndarray:
        """[n] bool."""
        found = np.ones(self._rows, bool)
        found[list(self._text)] = False
        return found

    @property
    def bad(self) -> list[tuple[int, str]]:
        """(row, reason) of the bad rows in order."""
        return sorted(self._text.items())

    def add(self, rows: np.ndarray, reason: Callable[[int], str]) -> None:
        """Of rows (their numbers); `reason` is called with the place in `rows`."""
        for place, row in enumerate(rows.tolist()):
            if row not in self._text:
                self._text[row] = reason(place)


def as_text(name: str, column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """A column as text; whole numbers are written out.

    Raises:
      DataError: the column holds something else.
    """
    column = _one(column)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if pa.types.is_string(kind):
        return column
    if pa.types.is_integer(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind):
        return column.cast(pa.string())
    if pa.types.is_floating(kind):  # whole numbers with gaps
        whole = pc.fill_null(pc.equal(pc.floor(column), column), True)
        if pc.all(whole).as_py() is not False:
            return column.cast(pa.int64()).cast(pa.string())
    raise DataError(f"column {name!r} is {kind}; ids are text or whole numbers")


def text_of(table: pa.Table, name: str) -> pa.Array:
    """A column of a table as text; nulls where there is no such column."""
    if name not in table.column_names:
        return pa.nulls(len(table), pa.string())
    return as_text(name, table[name])


def as_whole(name: str, column: pa.ChunkedArray | pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """[n] int64 and [n] bool, whether the value is a whole number; 0 where it is not.

    Raises:
      DataError: the column holds neither numbers nor text.
    """
    column = _one(column)
    kind = column.type
    if pa.types.is_timestamp(kind):
        column = column.cast(pa.timestamp("s"), safe=False).cast(pa.int64())
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        fits = pc.fill_null(pc.match_substring_regex(column, _WHOLE), False)
        digits = pc.replace_substring_regex(pc.utf8_trim_whitespace(column), r"^\+|\.0*$", "")
        column = pc.if_else(fits, digits, None).cast(pa.int64())
    elif pa.types.is_floating(kind):
        values = column.fill_null(np.nan).to_numpy(zero_copy_only=False).astype(np.float64)
        fits = (np.abs(values) < 2**53) & (np.trunc(values) == values)
        return np.where(fits, values, 0).astype(np.int64), fits
    elif not (pa.types.is_integer(kind) or pa.types.is_null(kind)):
        raise DataError(f"column {name!r} is {kind}; it has to hold whole numbers")
    column = column.cast(pa.int64())
    return column.fill_null(0).to_numpy(), column.is_valid().to_numpy(zero_copy_only=False)


def _one(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
