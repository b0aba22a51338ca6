"""Reading and describing tables: Parquet, CSV and TSV files, features, and columns as text."""

import pathlib
from collections.abc import Sequence

import numpy as np
import pandas as pd

from nif_jax.data import validate
from nif_jax.data.schema import DataError

EXTENSIONS = (".parquet", ".csv", ".tsv")
MAX_VALUES = 1000
"""A user column with more distinct values is a number or a name, and not used unless asked for."""


def split_words(text: str) -> list[str]:
    """["a", "b"] of "a, b"."""
    return [word.strip() for word in text.split(",") if word.strip()]


def parse_columns(option: str, text: str, ours: tuple[str, ...]) -> dict[str, str]:
    """{"user_id": "uid"} of "user_id=uid"; DataError, naming the option, for a name not in ours."""
    names = {}
    for pair in split_words(text):
        name, equals, theirs = (word.strip() for word in pair.partition("="))
        if not equals or not theirs or name not in ours:
            choices = ", ".join(ours)
            raise DataError(f"{option}: {pair!r} is not <our name>=<column>; our names: {choices}")
        names[name] = theirs
    return names


def read_table(file: pathlib.Path, text_columns: tuple[str, ...]) -> pd.DataFrame:
    """The table in `file`; raises DataError, naming it, if it cannot be read."""
    try:
        if file.suffix == ".parquet":
            return pd.read_parquet(file)
        if file.suffix in EXTENSIONS:
            # Only an empty cell is missing: "NA" and "None" are names of scenes and users.
            missing = {"keep_default_na": False, "na_values": [""]}
            types = dict.fromkeys(text_columns, str)
            separator = "\t" if file.suffix == ".tsv" else ","
            return pd.read_csv(file, sep=separator, dtype=types, low_memory=False, **missing)
    except pd.errors.EmptyDataError as error:
        raise DataError(f"{file}: the file is empty") from error
    except (OSError, ValueError) as error:  # pyarrow's and pandas' parser errors are ValueErrors
        raise DataError(f"{file}: cannot be read as {file.suffix[1:]}: {error}") from error
    raise DataError(f"{file}: unknown extension {file.suffix!r}; use {', '.join(EXTENSIONS)}")


def column_of(file: pathlib.Path, table: pd.DataFrame, column: str, option: str) -> pd.Series:
    """A column by name; DataError, naming file, option and the columns there are, without it."""
    if column not in table:
        choices = ", ".join(map(str, table.columns))
        raise DataError(f"{file}: no column {column!r} for {option}; the file has: {choices}")
    return table[column]


def described(
    file: pathlib.Path, table: pd.DataFrame, option: str, words: Sequence[str]
) -> dict[str, pd.Series]:
    """{name: values [n]} of columns ["category", "duration:16"]; ":16" cuts numbers into 16 bins.

    Bins have equal mass over the table and are named by their number; what is missing stays
    missing. Lists become text with "|".

    Raises:
      DataError: a column that is not there, bins that are no number above 1, or of no numbers.
    """
    found = {}
    for word in words:
        # A name of the table is a name, whatever it holds.
        parts = (word, "", "") if word in table else word.partition(":")
        column, colon, bins = (part.strip() for part in parts)
        values = joined(column_of(file, table, column, option))
        if colon:
            if not bins.isdigit() or int(bins) < 2:
                raise DataError(f"{option}: {word!r} is not <column>:<number of bins, at least 2>")
            numbers = pd.to_numeric(values, errors="coerce")
            bad = (numbers.isna() & values.notna()).to_numpy()
            validate.reject(str(file), column, values, bad, f"is no number, and {word!r} cuts bins")
            values = pd.qcut(numbers, int(bins), labels=False, duplicates="drop")
        found[column] = values
    return found


def features(
    file: pathlib.Path,
    table: pd.DataFrame,
    key: str,
    our_key: str,
    option: str,
    wanted: Sequence[str],
) -> pd.DataFrame:
    """The id, as `our_key`, and the `wanted` columns of a table with one row an id."""
    validate.check_ids(str(file), key, column_of(file, table, key, our_key))
    twice = table[key].duplicated().to_numpy()
    validate.reject(str(file), key, table[key], twice, "stands there twice: keep one row")
    chosen = described(file, table, option, wanted)
    return pd.DataFrame({our_key: table[key], **{c: v for c, v in chosen.items() if c != key}})


def few_valued(table: pd.DataFrame, key: str) -> list[str]:
    """Columns beside `key` of at most MAX_VALUES distinct values."""
    others = [column for column in table.columns if column != key]
    return [c for c in others if joined(table[c]).nunique() <= MAX_VALUES]


def joined(column: pd.Series) -> pd.Series:
    """Lists and arrays as text with "|", other values as they are."""
    if column.dtype != object:
        return column
    sets = list | tuple | np.ndarray
    return column.map(lambda value: "|".join(map(str, value)) if isinstance(value, sets) else value)
