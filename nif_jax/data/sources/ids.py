"""Identifiers of users and items: one form in all tables, and checks that the tables agree."""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from nif_jax.data import validate
from nif_jax.data.schema import DataError, require_choice
from nif_jax.data.sources.readers import Table

RULES = ("strict", "exact", "number")
"""What to do with ids that are the same number, such as "001" and "1", source.ids: "strict" refuses
them, "exact" keeps them apart, "number" reads both as 1."""

_EXACT_FLOATS = 2**53


class Ids(NamedTuple):
    """A column of ids.

    Attributes:
      file: of the table.
      column: its name there.
      values: [n] text; the index is the row.
    """

    file: pathlib.Path
    column: str
    values: pd.Series


def read(table: Table, column: str, option: str, rule: str) -> Ids:
    """The ids of a column as text, see `as_text`; raises DataError naming file, column and row."""
    values = table.column(column, option)
    return Ids(table.file, column, as_text(str(table.file), column, values, rule))


def as_text(where: str, column: str, values: pd.Series, rule: str) -> pd.Series:
    """[n] ids as text, without space around them; numbers of every type have the same form.

    Raises:
      DataError: a value that is missing, empty, a list, or a number that is not whole.
    """
    validate.check_ids(where, column, values)
    if values.dtype == object:
        lists = values.map(lambda value: isinstance(value, list | tuple | np.ndarray | dict))
        validate.reject(where, column, values, lists, "is a list; an id is text or a whole number")
    if pd.api.types.is_float_dtype(values.dtype):
        numbers = values.to_numpy(np.float64)
        bad = ~np.isfinite(numbers) | (np.trunc(numbers) != numbers)
        validate.reject(where, column, values, bad, "is not a whole number, and no text: no id")
        rounded = np.abs(numbers) > _EXACT_FLOATS
        validate.reject(
            where,
            column,
            values,
            rounded,
            "is a float above 2^53, which has lost its last digits: write ids as integers or text",
        )
        values = values.astype(np.int64)
    text = values.astype("str").str.strip()
    validate.reject(where, column, values, text == "", "is empty; identifiers have to be given")
    return _number(text) if rule == "number" else text


def _number(text: pd.Series) -> pd.Series:
    """Text that is a whole number without zeros in front and behind: "1" for "001" and "1.0"."""
    found = text.str.extract(r"^\+?0*(\d+)(?:\.0*)?$", expand=False)
    return found.where(found.notna(), text)


def require_rule(rule: str) -> None:
    """Raises ConfigError for a rule that there is not."""
    require_choice("source.ids", rule, RULES)


def check_spelling(tables: Sequence[Ids]) -> None:
    """Raises DataError if two ids of the tables are the same number, written in two ways."""
    found = pd.concat([ids.values.drop_duplicates() for ids in tables], ignore_index=True)
    names = found.drop_duplicates()
    twice = _number(names).duplicated(keep=False)
    if not twice.any():
        return
    number = _number(names[twice])
    one, other = names[twice][number == number.iloc[0]].iloc[:2]
    raise DataError(
        f"{_place(tables, one)} has the id {one!r}, {_place(tables, other)} has {other!r}: two "
        "ways to write one number. Write ids alike; or set source.ids=number, which reads both as "
        f"{number.iloc[0]}, or source.ids=exact, which keeps them apart ({int(twice.sum())} ids)"
    )


def _place(tables: Sequence[Ids], name: str) -> str:
    for ids in tables:
        rows = ids.values.index[ids.values == name]
        if len(rows):
            return f"{ids.file}: column {ids.column!r}, row {rows[0]}"
    raise AssertionError(f"{name!r} is of one of the tables")


def check_shared(known: Ids, events: Ids, option: str) -> None:
    """Raises DataError if a table has none of the events' ids."""
    if len(known.values) and set(known.values.unique()).isdisjoint(events.values.unique()):
        raise DataError(
            f"{known.file}: column {known.column!r}: none of its ids is in the events of "
            f"{events.file}: it has {known.values.iloc[0]!r}, they have {events.values.iloc[0]!r}. "
            f"Write ids alike in both, or name the right file or column ({option}, source.columns)"
        )
