"""The first column in which two tables of scores and features differ, with the row and a reason.

Letters: R rows.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from nif_jax.data.schema import DataError
from nif_jax.serving import parity_patterns
from nif_jax.serving.parity_columns import Column, both, unequal_rows

KEYS = ("user_id", "item_id", "timestamp")
SCORES = ("uncalibrated", "logit", "probability")
"""Columns of scores in the order of their computation; they come after all features."""
ROWS, MOST_SHOWN = 1000, 300
"""Rows that a reason is looked for in, and characters of a value that are shown."""


class Difference(NamedTuple):
    """A feature that differs.

    Attributes:
      feature: its name.
      extent: how much of it differs.
      where: the first place that differs; values: those of both sides there.
      reason: what explains all differences, or that nothing simple does.
    """

    feature: str
    extent: str
    where: str
    values: tuple[str, str]
    reason: str


def shown(value: Any) -> str:
    """A value for the report."""
    text = f"{value:.9g}" if isinstance(value, float) else str(value)
    return text if len(text) <= MOST_SHOWN else text[:MOST_SHOWN] + " ..."


def of_columns(left: pa.Table, right: pa.Table, names: Sequence[str]) -> list[Difference]:
    """The columns of two tables that differ, in the order of `names`.

    Args:
      left: R rows that have the columns KEYS, as far as rows are to be named; right likewise.
      names: columns of both.
    """
    found = []
    for name in names:
        columns = both(name, left[name], right[name])
        rows = unequal_rows(name, *columns)
        if len(rows):
            extent = f"{len(rows):,} of {len(left):,} rows"
            first = int(rows[0])
            values = shown(columns[0].row(first)), shown(columns[1].row(first))
            reason = _reason(name, columns, rows, left, right)
            found.append(Difference(name, extent, row_name(left, first), values, reason))
    return found


def row_name(table: pa.Table, row: int) -> str:
    """Number and keys of a row."""
    keys = [f"{name} {table[name][row].as_py()}" for name in KEYS if name in table.column_names]
    return f"row {row} ({', '.join(keys)})" if keys else f"row {row}"


def _reason(name: str, columns, rows: np.ndarray, left: pa.Table, right: pa.Table) -> str:
    """What explains the rows that differ, and whether they are those of one user, item or scene."""
    time = name == "timestamp" or name.endswith("/time")
    some = rows[:ROWS]
    one, other = (column.at(some) for column in columns)
    if one.bounds is not None:
        lists = [[column.row(row) for row in range(len(some))] for column in (one, other)]
        if name.startswith("history/"):
            found = parity_patterns.of_lists(lists[0], lists[1], _own(name, right, some), time)
        else:
            found = parity_patterns.of_sets(lists[0], lists[1])
    elif one.numeric and other.numeric:
        found = parity_patterns.of_numbers(one.values, other.values, time)
    else:
        seen = np.union1d(np.arange(min(len(right), ROWS)), some)
        found = parity_patterns.of_names(columns[0].values[seen], columns[1].values[seen])
    if name not in KEYS:
        found = _other_column(name, one, some, right) or found
    if found is None:
        found = "no simple relation holds: compare the code that computes it"
    elif name in ("logit", "probability"):
        found += ": another calibration"
    return found + _only(rows, right)


def _own(name: str, table: pa.Table, rows: np.ndarray) -> list[Any]:
    """[R] what rows would be in their own histories; an object that equals nothing else."""
    key = {"history/item": "item_id", "history/time": "timestamp"}.get(name)
    if key is None or key not in table.column_names:
        return [object()] * len(rows)
    return both(key, table[key], table[key])[0].at(rows).values.tolist()


def _other_column(name: str, values: Column, rows: np.ndarray, right: pa.Table) -> str | None:
    """Whether the left side holds what another column of the right one does."""
    group = name.partition("/")[0] + "/"
    for other in right.column_names:
        alike = other != name and other.startswith(group) and right[other].type == right[name].type
        if alike and len(rows) > 1:
            column = both(other, right[other], right[other])[0].at(rows)
            varies = len(set(map(str, map(column.row, range(len(rows)))))) > 1
            if varies and not len(unequal_rows(name, values, column)):
                return f"left has the values of {other!r}: columns are exchanged"
    return None


def _only(rows: np.ndarray, table: pa.Table) -> str:
    """Whether all rows that differ are of one scene, user or item of several."""
    for name in ("scene", "user_id", "item_id"):
        if name in table.column_names and len(rows) > 1:
            values = both(name, table[name], table[name])[0].values.astype(str)
            if (values[rows] == values[rows[0]]).all() and (values != values[rows[0]]).any():
                return f"; only where {name} is {values[rows[0]]}"
    return ""


def of_files(left: pa.Table, right: pa.Table) -> tuple[list[Difference], list[str]]:
    """What differs between two tables of scores or features, and the columns that were compared.

    Rows are compared in their order. If both sides have the same keys in different orders, that is
    the first difference, and the rest is compared by the keys.

    Raises:
      DataError: a column of KEYS is missing, there is no column to compare, or types differ.
    """
    for side, table in (("left", left), ("right", right)):
        for name in KEYS:
            if name not in table.column_names:
                raise DataError(f"the {side} file has no column {name!r}: {table.column_names}")
    names = [n for n in left.column_names if n in right.column_names and n not in (*KEYS, "row")]
    if not names:
        raise DataError(
            f"the files have no column in common but {', '.join(KEYS)}: left has "
            f"{left.column_names}, right {right.column_names}"
        )
    names = [n for n in names if n not in SCORES] + [n for n in SCORES if n in names]
    keys = [_keys(left, right, side) for side in (0, 1)]
    orders = [np.lexsort(key.T[::-1]) for key in keys]
    sorted_keys = [key[order] for key, order in zip(keys, orders, strict=True)]
    if len(left) != len(right):
        return [_rows(left, right, orders, sorted_keys)], names
    if not np.array_equal(sorted_keys[0], sorted_keys[1]):
        return of_columns(left, right, KEYS), names
    found = []
    moved = np.flatnonzero((keys[0] != keys[1]).any(1))
    if len(moved):
        row, extent = int(moved[0]), f"{len(moved):,} of {len(left):,} rows"
        who = row_name(left, row), row_name(right, row)
        reason = "both sides have the same rows in another order; the rest is compared by keys"
        found.append(Difference("order of rows", extent, f"row {row}", who, reason))
        left, right = left.take(pa.array(orders[0])), right.take(pa.array(orders[1]))
    return found + of_columns(left, right, names), names


def _keys(left: pa.Table, right: pa.Table, side: int) -> np.ndarray:
    """[R, 3] numbers of the keys of one side, which count the values of both."""
    found = []
    for name in KEYS:
        columns = [column.values for column in both(name, left[name], right[name])]
        if columns[0].dtype == object:
            columns = [column.astype(str) for column in columns]
        number = np.unique(np.concatenate(columns), return_inverse=True)[1]
        found.append(np.split(number, [len(columns[0])])[side])
    return np.stack(found, axis=1)


def _rows(left: pa.Table, right: pa.Table, orders, keys) -> Difference:
    """The first row that one side has more often; keys [R, 3] are in order."""
    least = min(map(len, keys))
    differs = np.flatnonzero((keys[0][:least] != keys[1][:least]).any(1))
    place = int(differs[0]) if len(differs) else least
    there = [side for side in (0, 1) if place < len(keys[side])]
    more = min(there, key=lambda side: keys[side][place].tolist())
    counts = [int((side == keys[more][place]).all(1).sum()) for side in keys]
    where = row_name((left, right)[more], int(orders[more][place]))
    reason = f"a row is {'repeated' if min(counts) else 'missing'} on one side"
    sizes = f"{len(left):,} rows on the left, {len(right):,} on the right"
    times = f"{counts[0]} times", f"{counts[1]} times"
    return Difference("number of rows", sizes, where, times, reason)
