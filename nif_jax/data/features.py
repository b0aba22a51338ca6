"""Features of items and users: columns of a table to arrays of dense ids."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from nif_jax.data.schema import PAD

SEPARATOR = "|"
MIN_TITLES = 5
"""A word of fewer titles than this tells items apart by name, and is not a feature."""
MAX_TITLE_WORDS = 12
MAX_TITLE_LENGTH = 1000
"""Characters of a title that words are taken from: what is longer is no title."""
MAX_BINS = 16

Encoded = tuple[dict[str, np.ndarray], dict[str, np.ndarray]]
"""Feature name -> ids, and vocabulary key -> names."""


def strings(values: Iterable[Any]) -> np.ndarray:
    """Values [n] as an object array of str: one long text takes no more memory than itself."""
    found = [str(value) for value in values]
    array = np.empty(len(found), dtype=object)
    array[:] = found
    return array


def by_length(names: Iterable[str]) -> np.ndarray:
    """Distinct names in order of length, then alphabet: numbers come out in numerical order."""
    return strings(sorted(set(names), key=lambda name: (len(name), name)))


def titles(items: pd.DataFrame, rows: np.ndarray) -> np.ndarray:
    """Titles [N] in the order of `rows` [N] of the items table, "" where there is none."""
    if "title" not in items:
        return strings([""] * len(rows))
    return as_text(_take(items["title"], rows))


def encode_items(items: pd.DataFrame, rows: np.ndarray, names: np.ndarray) -> Encoded:
    """Item features [N + 1, M] for `rows` [N] of the items table and titles `names` [N].

    Every column is a feature of one or several values, but a title becomes its words. A column
    without any value is left out.
    """
    ids, vocabulary = {}, {}
    for column in items.columns.drop("item_id"):
        if column == "title":
            item, value = _title_words(names)
        else:
            item, value = _values(_take(items[column], rows))
        if len(value):
            codes, vocabulary[f"item/{column}"] = _codes(value)
            ids[column] = _pack(item + 1, codes, len(rows) + 1)
    return ids, vocabulary


def encode_users(users: pd.DataFrame, rows: np.ndarray) -> Encoded:
    """User features [U] for `rows` [U] of the users table; a set is one value, as it is written."""
    ids, vocabulary = {}, {}
    for column in users.columns.drop("user_id"):
        text = as_text(_take(users[column], rows))
        known = np.flatnonzero(text != "")
        if len(known):
            codes, vocabulary[f"user/{column}"] = _codes(text[known])
            ids[column] = np.full(len(rows), PAD, np.int32)
            ids[column][known] = codes
    return ids, vocabulary


def _take(column: pd.Series, rows: np.ndarray) -> pd.Series:
    """Values [n] at `rows` [n], missing where the row is -1."""
    return column.reset_index(drop=True).reindex(rows).reset_index(drop=True)


def as_text(column: pd.Series) -> np.ndarray:
    """Values [n] as text, "" where missing.

    Floats: whole numbers lose their ".0" (pandas makes floats of integers with gaps); others are
    cut into at most 16 bins of equal mass when they have more than 16 distinct values.
    """
    known = column.notna().to_numpy()
    text = np.full(len(column), "", dtype=object)
    values = column[known]
    if pd.api.types.is_float_dtype(values.dtype):
        if (values % 1 == 0).all():
            values = values.astype(np.int64)
        elif values.nunique() > MAX_BINS:
            values = pd.qcut(values, MAX_BINS, duplicates="drop")
    text[known] = strings(values)
    return text


def _values(column: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """(position, value) of each value of each cell, without repeats."""
    parts = pd.Series(as_text(column)).str.split(SEPARATOR, regex=False).explode().str.strip()
    parts = parts[parts != ""].reset_index().drop_duplicates()
    return parts.iloc[:, 0].to_numpy(), parts.iloc[:, 1].to_numpy(dtype=object)


def title_words(names: np.ndarray) -> pd.Series:
    """[N] lists of the words of each title, in lower case."""
    return pd.Series(names).str.slice(stop=MAX_TITLE_LENGTH).str.lower().str.findall(r"[^\W_]+")


def _title_words(names: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(position, word) of the first 12 words, each once, that occur in 5 titles or more."""
    words = title_words(names).explode().dropna()
    words = words.reset_index().drop_duplicates()
    words.columns = ["item", "word"]
    words = words[words.groupby("word")["item"].transform("size") >= MIN_TITLES]
    words = words[words.groupby("item").cumcount() < MAX_TITLE_WORDS]
    return words["item"].to_numpy(), words["word"].to_numpy(dtype=object)


def _codes(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ids [n] int32 counted from 1, and the names, in order of length, then alphabet."""
    codes, distinct = pd.factorize(strings(values))
    names = by_length(distinct)
    rank = pd.Index(names).get_indexer(distinct).astype(np.int32) + 1
    return rank[codes], names


def _pack(row: np.ndarray, codes: np.ndarray, rows: int) -> np.ndarray:
    """[rows, M] int32 with the codes of each row at its left, PAD behind them."""
    slot = pd.Series(row).groupby(row).cumcount().to_numpy()
    table = np.full((rows, int(slot.max()) + 1), PAD, np.int32)
    table[row, slot] = codes
    return table
