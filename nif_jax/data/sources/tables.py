"""Features from tables: chosen columns, bins, sets; and the options that name them."""

import logging
from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd

from nif_jax.data import validate
from nif_jax.data.schema import ID_FEATURE, DataError
from nif_jax.data.sources import formats
from nif_jax.data.sources.ids import Ids
from nif_jax.data.sources.readers import Table

_LOG = logging.getLogger(__name__)
MAX_VALUES = 1000
"""A user column with more distinct values is a number or a name, and not used unless requested."""


def split_words(text: str) -> list[str]:
    """["a", "b"] of "a, b"."""
    return [word.strip() for word in text.split(",") if word.strip()]


def parse_columns(option: str, text: str, ours: tuple[str, ...]) -> dict[str, str]:
    """{"user_id": "uid"} of "user_id=uid"; DataError, naming the option, for a name not in ours.

    "scene=" is {"scene": ""}: no column is read as the scene.
    """
    names: dict[str, str] = {}
    for pair in split_words(text):
        name, equals, theirs = (word.strip() for word in pair.partition("="))
        if not equals or not (theirs or name == "scene") or name not in ours:
            choices = ", ".join(ours)
            raise DataError(f"{option}: {pair!r} is not <our name>=<column>; our names: {choices}")
        if name in names:
            raise DataError(f"{option}: {name} is given twice, as {names[name]} and as {theirs}")
        names[name] = theirs
    return names


def described(table: Table, option: str, words: Sequence[str]) -> dict[str, pd.Series]:
    """{name: values [n]} of columns ["category", "duration:16"]; ":16" cuts numbers into 16 bins.

    Bins have equal mass over the table and are named by their number; what is missing stays
    missing. Lists become text with "|".

    Raises:
      DataError: a column that is not there, a number that is not finite, bins that are no number
        above 1, or of no numbers.
    """
    found = {}
    for word in words:
        column, colon, bins = _parts(table, word)
        values = joined(table.column(column, option))
        if pd.api.types.is_float_dtype(values.dtype):
            infinite = np.isinf(values.to_numpy(np.float64, na_value=np.nan))
            problem = "is not finite: write a number, or leave it empty"
            validate.reject(str(table.file), column, values, infinite, problem)
        found[column] = _cut(table, option, word, column, values, bins) if colon else values
    return found


def named(table: Table, words: Sequence[str]) -> list[str]:
    """The columns that words such as "duration:16" name."""
    return [_parts(table, word)[0] for word in words]


def _parts(table: Table, word: str) -> tuple[str, str, str]:
    """Column, ":" and bins; a name of the table is a name, whatever it holds."""
    word = formats.plain_name(table.file, word)
    column, colon, bins = (word, "", "") if word in table.frame else word.partition(":")
    return column.strip(), colon, bins.strip()


def _cut(
    table: Table, option: str, word: str, column: str, values: pd.Series, bins: str
) -> pd.Series:
    """[n] numbers of bins of equal mass."""
    if not bins.isdigit() or int(bins) < 2:
        raise DataError(f"{option}: {word!r} is not <column>:<number of bins, at least 2>")
    numbers = pd.to_numeric(values, errors="coerce").astype(np.float64)
    bad = (numbers.isna() & values.notna()).to_numpy() | np.isinf(numbers.to_numpy())
    problem = f"is no finite number, and {word!r} cuts bins"
    validate.reject(str(table.file), column, values, bad, problem)
    return pd.qcut(numbers, int(bins), labels=False, duplicates="drop")


def features(
    table: Table, ids: Ids, our_key: str, option: str, wanted: Sequence[str]
) -> pd.DataFrame:
    """The ids, as `our_key`, and the `wanted` columns of a table with one row an id."""
    twice = ids.values.duplicated().to_numpy()
    validate.reject(
        str(ids.file), ids.column, ids.values, twice, "stands there twice: keep one row"
    )
    chosen = described(table, option, [word for word in wanted if word != ids.column])
    names = {column: _feature(column, (our_key, ID_FEATURE), chosen) for column in chosen}
    for column, name in names.items():
        if name != column:
            _LOG.info("%s: the feature of column %r is called %r", table.file, column, name)
    return pd.DataFrame({our_key: ids.values, **{names[c]: v for c, v in chosen.items()}})


def _feature(column: str, reserved: Sequence[str], others: Collection[str]) -> str:
    """Name of a column's feature: "id" is that of the identity, so it becomes "id_column"."""
    while column in reserved:
        column += "_column"
        while column in others:
            column += "_"
    return column


def few_valued(table: Table, key: str) -> list[str]:
    """Columns beside `key` of at most MAX_VALUES distinct values."""
    others = [column for column in table.frame.columns if column != key]
    return [c for c in others if joined(table.frame[c]).nunique() <= MAX_VALUES]


def joined(column: pd.Series) -> pd.Series:
    """Lists and arrays as text with "|", other values as they are."""
    if column.dtype != object:
        return column
    sets = list | tuple | np.ndarray
    return column.map(lambda value: "|".join(map(str, value)) if isinstance(value, sets) else value)


def row_hashes(columns: pd.DataFrame) -> np.ndarray:
    """[n] uint64, equal where all columns are, also in other pieces of the file."""
    if columns.empty:
        return np.zeros(len(columns), np.uint64)
    return pd.util.hash_pandas_object(columns.apply(_comparable), index=False).to_numpy()


def _comparable(column: pd.Series) -> pd.Series:
    """Values that have the same hash where they are equal: -0.0 and 0.0 are."""
    column = joined(column)
    return column + 0.0 if pd.api.types.is_float_dtype(column.dtype) else column
