"""Earlier events without labels, of a file of their own: tidy rows, or lists per user.

Such a file says what users did before, or elsewhere; its events stand in histories and in the
generator's training, and are never impressions.
"""

import itertools
import pathlib
from collections.abc import Mapping

import numpy as np
import pandas as pd

from nif_jax.data import validate
from nif_jax.data.schema import NO_LABEL
from nif_jax.data.sources import tables

GAP = 60
"""Seconds between neighbours of a list, whose true times are not known."""

NAMES = ("user_id", "item_id", "timestamp", "timestamp_ms", "scene", "action")
_SCENE = "history"  # of entries whose scene is not known


def is_lists(file: pathlib.Path, table: pd.DataFrame, names: Mapping[str, str]) -> bool:
    """Whether the item column holds a list for each user."""
    column = tables.column_of(file, table, names.get("item_id", "item_id"), "history_columns")
    given = column.dropna()
    return len(given) > 0 and isinstance(given.iloc[0], list | tuple | np.ndarray)


def from_lists(
    file: pathlib.Path, table: pd.DataFrame, names: Mapping[str, str], events: pd.DataFrame
) -> pd.DataFrame:
    """Events of lists, one row of the table a user.

    A list's last entry gets the row's timestamp, which has to be that of the last entry and not
    later than the user's first event; the others precede it GAP seconds apart. Where the two are
    equal, all entries move one second back, so that no tie decides whether they are history.

    Args:
      file: for messages.
      table: user_id, item_id (lists, oldest entry first), timestamp or timestamp_ms.
      names: our name -> the file's; "action" names list columns, "liked+watched", and the action
        of an entry says in which of them its item stands.
      events: [E] checked events of the log.

    Returns:
      user_id, item_id, timestamp, scene, action and label, an entry a row, lists in their order.

    Raises:
      DataError: a column is missing, a value is no list, or a list ends after the log begins.
    """
    user = tables.column_of(file, table, names.get("user_id", "user_id"), "history_columns")
    validate.check_ids(str(file), str(user.name), user)
    twice = user.duplicated().to_numpy()
    validate.reject(str(file), str(user.name), user, twice, "stands there twice: keep one row")
    last = seconds(file, table, names)
    first = events.groupby("user_id")["timestamp"].min().reindex(user)
    late = last.to_numpy() > first.to_numpy()  # False where the user has no event
    validate.reject(
        str(file), _time_column(names), table[_time_column(names)], late,
        "is later than the user's first event: lists have to end before the log begins",
    )  # fmt: skip
    last = last - (last.to_numpy() == first.to_numpy())
    items = _lists(file, table, names.get("item_id", "item_id"))
    length = items.map(len).to_numpy()
    row = np.repeat(np.arange(len(table)), length)
    behind = np.repeat(np.cumsum(length), length) - np.arange(length.sum()) - 1
    item = _flat(items)
    action = pd.Series("", index=item.index)
    for column in filter(None, names.get("action", "").split("+")):
        inside = _stands_in(row, item, _lists(file, table, column.strip()))
        action += f" {column.strip()}=" + inside.map({True: "1", False: "0"})
    scene = table[names["scene"]].to_numpy()[row] if "scene" in names else _SCENE
    return pd.DataFrame(
        {
            "user_id": user.to_numpy()[row],
            "item_id": item,
            "timestamp": last.to_numpy()[row] - GAP * behind,
            "scene": scene,
            "action": action.str.strip() if "action" in names else _SCENE,
            "label": np.int8(NO_LABEL),
        }
    )


def seconds(file: pathlib.Path, table: pd.DataFrame, names: Mapping[str, str]) -> pd.Series:
    """[n] int64 unix seconds of the column named for timestamp or timestamp_ms."""
    column = _time_column(names)
    values = tables.column_of(file, table, column, "timestamp")
    per_second = 1000 if "timestamp_ms" in names else 1
    return validate.check_timestamps(str(file), column, values, per_second)


def _time_column(names: Mapping[str, str]) -> str:
    return names.get("timestamp_ms") or names.get("timestamp", "timestamp")


def _lists(file: pathlib.Path, table: pd.DataFrame, column: str) -> pd.Series:
    """[n] lists; a null is an empty one."""
    values = tables.column_of(file, table, column, "history_columns")
    good = values.map(lambda value: isinstance(value, list | tuple | np.ndarray)) | values.isna()
    validate.reject(str(file), column, values, ~good.to_numpy(), "is no list of items")
    return values.map(lambda value: list(value) if np.ndim(value) else [])


def _flat(lists: pd.Series) -> pd.Series:
    """[M] entries of all lists, one after the other, with the type that they have."""
    return pd.Series(list(itertools.chain(*lists)), dtype=object).infer_objects()


def _stands_in(row: np.ndarray, item: pd.Series, lists: pd.Series) -> pd.Series:
    """[M] bool, item m is in the list of its row."""
    length = lists.map(len).to_numpy()
    wanted = pd.MultiIndex.from_arrays([row, item])
    there = pd.MultiIndex.from_arrays([np.repeat(np.arange(len(lists)), length), _flat(lists)])
    return pd.Series(wanted.isin(there))
