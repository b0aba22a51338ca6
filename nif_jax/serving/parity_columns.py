"""Columns of two tables side by side: which rows differ, and how values are shown.

Letters: R rows, P values of the lists of all rows.
"""

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.types as kinds

from nif_jax.data.schema import DataError
from nif_jax.requests.columns import as_text

TOLERANCE = 1e-5
"""Largest difference of numbers from -1 to 1, and relative one of others."""
HALF_TOLERANCE = 2e-3
"""The same of count features, which have the precision of float16."""
STATISTIC = "statistic/"
"""What names of count features begin with."""


class Column(NamedTuple):
    """A column as NumPy arrays.

    Attributes:
      values: [R] numbers, or objects (str or None); of lists, [P] values one row after another.
      bounds: [R + 1] places of the rows in values; None for a column without lists.
    """

    values: np.ndarray
    bounds: np.ndarray | None

    @property
    def numeric(self) -> bool:
        """Whether it holds numbers."""
        return self.values.dtype != object

    def row(self, row: int) -> Any:
        """The value of a row: a number, text, None, or a list of these."""
        if self.bounds is None:
            return self.values[row].item() if self.numeric else self.values[row]
        return self.values[self.bounds[row] : self.bounds[row + 1]].tolist()

    def at(self, rows: np.ndarray) -> "Column":
        """Some rows."""
        if self.bounds is None:
            return Column(self.values[rows], None)
        sizes = np.diff(self.bounds)[rows]
        bounds = np.append(0, np.cumsum(sizes))
        place = np.arange(bounds[-1]) + np.repeat(self.bounds[rows] - bounds[:-1], sizes)
        return Column(self.values[place], bounds)


def both(name: str, left: pa.ChunkedArray, right: pa.ChunkedArray) -> tuple[Column, Column]:
    """A column of two tables, ids as text on both sides if they are text on one.

    Raises:
      DataError: values that are neither text nor numbers, or lists on one side only.
    """
    arrays = [column.combine_chunks() for column in (left, right)]
    listed = [kinds.is_list(x.type) or kinds.is_large_list(x.type) for x in arrays]
    if any(listed) and not all(listed):
        raise DataError(f"column {name!r} has lists on one side only: {left.type}, {right.type}")
    flat = [x.flatten() if listed[0] else x for x in arrays]
    text = any(_is_text(x.type) for x in flat)
    found = []
    for array, values in zip(arrays, flat, strict=True):
        bounds = None
        if listed[0]:
            sizes = array.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
            bounds = np.append(0, np.cumsum(sizes)).astype(np.int64)
        found.append(Column(_values(name, values, text), bounds))
    return found[0], found[1]


def _is_text(kind: pa.DataType) -> bool:
    if kinds.is_dictionary(kind):
        kind = kind.value_type
    return kinds.is_string(kind) or kinds.is_large_string(kind)


def _values(name: str, values: pa.Array, text: bool) -> np.ndarray:
    if text:
        return np.asarray(as_text(name, values).to_numpy(zero_copy_only=False), object)
    if kinds.is_timestamp(values.type):
        values = values.cast(pa.timestamp("s"), safe=False).cast(pa.int64())
    elif kinds.is_boolean(values.type):
        values = values.cast(pa.int8())
    numbers = kinds.is_integer(values.type) or kinds.is_floating(values.type)
    if not (numbers or kinds.is_null(values.type)):
        raise DataError(f"column {name!r} is {values.type}; parity compares text and numbers")
    if values.null_count or kinds.is_floating(values.type):
        return values.cast(pa.float64()).fill_null(np.nan).to_numpy(zero_copy_only=False)
    return values.to_numpy(zero_copy_only=False).astype(np.int64)


def unequal(left: np.ndarray, right: np.ndarray, tolerance: float) -> np.ndarray:
    """[P] bool; whole numbers and text have to be equal, and undefined numbers equal each other."""
    if left.dtype.kind in "OUibu" and right.dtype.kind in "OUibu":
        return left != right
    wide = [x.astype(np.float64) for x in (left, right)]
    size = np.maximum(1, np.maximum(*map(np.abs, wide)))
    with np.errstate(invalid="ignore"):  # of infinities
        close = np.abs(wide[0] - wide[1]) <= tolerance * size
    return ~(close | (wide[0] == wide[1]) | (np.isnan(wide[0]) & np.isnan(wide[1])))


def unequal_rows(name: str, left: Column, right: Column) -> np.ndarray:
    """Numbers of the rows that differ, in order."""
    tolerance = HALF_TOLERANCE if name.startswith(STATISTIC) else TOLERANCE
    if left.bounds is None or right.bounds is None:
        return np.flatnonzero(unequal(left.values, right.values, tolerance))
    sizes = np.diff(left.bounds)
    differs = sizes != np.diff(right.bounds)
    same = np.flatnonzero(~differs)
    row = np.repeat(same, sizes[same])
    differs[row[unequal(left.at(same).values, right.at(same).values, tolerance)]] = True
    return np.flatnonzero(differs)
