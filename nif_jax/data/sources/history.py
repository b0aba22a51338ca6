"""Earlier events without labels, of a file of their own: tidy rows, or lists per user.

Such a file says what users did before, or elsewhere; its events stand in histories and in the
generator's training, and are never impressions.
"""

import ast
import dataclasses
import itertools
import json

import numpy as np
import pandas as pd

from nif_jax.data import validate
from nif_jax.data.schema import NO_LABEL
from nif_jax.data.sources import columns as column_log
from nif_jax.data.sources import events as event_source
from nif_jax.data.sources import ids
from nif_jax.data.sources.events import Rules
from nif_jax.data.sources.ids import Ids
from nif_jax.data.sources.readers import Table

GAP = 60
"""Seconds between neighbours of a list, whose true times are not known."""

NAMES = ("user_id", "item_id", "timestamp", "timestamp_ms", "scene", "action")
_SCENE = "history"  # of entries whose scene is not known
_LISTS = list | tuple | np.ndarray


def from_table(table: Table, rules: Rules, events: pd.DataFrame) -> tuple[pd.DataFrame, Ids, Ids]:
    """Events of a history file, without labels; its labels, if it has any, are not read.

    Args:
      table: the file.
      rules: how it is read; their names are those of this file.
      events: [E] checked events of the log.

    Returns:
      The columns of RawTables.events; and the users and the items, for checks against the log's.

    Raises:
      DataError: a column is missing, a value is no list, or a list ends after the log begins.
    """
    names = rules.names
    item_column = names.get("item_id", "item_id")
    user = ids.read(table, names.get("user_id", "user_id"), "history_columns", rules.ids)
    if _are_lists(table.column(item_column, "history_columns")):
        return _from_lists(table, rules, user, events)
    rules = dataclasses.replace(
        rules, label_from="", unlabelled="", action_columns="", labelled=False
    )
    found = event_source.from_table(table, rules)[list(validate.EVENT_COLUMNS)]
    return found, user, Ids(table.file, item_column, found["item_id"])


def _are_lists(values: pd.Series) -> bool:
    """Whether a column holds a list for each user, as such or as text."""
    given = values.dropna()
    return len(given) > 0 and (
        isinstance(given.iloc[0], _LISTS) or str(given.iloc[0]).lstrip().startswith("[")
    )


def _from_lists(
    table: Table, rules: Rules, user: Ids, events: pd.DataFrame
) -> tuple[pd.DataFrame, Ids, Ids]:
    """Events of lists, one row of the table a user.

    A list's last entry gets the row's timestamp, which has to be that of the last entry and not
    later than the user's first event; the others precede it GAP seconds apart. Where the two are
    equal, all entries move one second back, so that no tie decides whether they are history.
    "action" names list columns, "liked+watched": the action of an entry says in which of them its
    item stands.
    """
    where, names = str(table.file), rules.names
    twice = user.values.duplicated().to_numpy()
    validate.reject(where, user.column, user.values, twice, "stands there twice: keep one row")
    last = event_source.seconds(table, names, rules.time_format)
    first = events.groupby("user_id")["timestamp"].min().reindex(user.values)
    late = last.to_numpy() > first.to_numpy()  # False where the user has no event
    column = event_source.time_column(table, names)
    validate.reject(
        where,
        column,
        table.frame[column],
        late,
        "is later than the user's first event: lists have to end before the log begins",
    )
    last = last - (last.to_numpy() == first.to_numpy())
    items, roles = _lists(table, names.get("item_id", "item_id")), {}
    length = items.map(len).to_numpy()
    row = np.repeat(np.arange(len(items)), length)
    behind = np.repeat(np.cumsum(length), length) - np.arange(length.sum()) - 1
    item = _flat(table, items, names.get("item_id", "item_id"), row, rules)
    action = pd.Series("", index=item.values.index)
    for name in filter(None, names.get("action", "").split("+")):
        inside = _stands_in(table, row, item, name.strip(), rules)
        action += f" {name.strip()}=" + pd.Series(inside, action.index).map({True: "1", False: "0"})
        roles[name.strip()] = "action, lists"
    named = names.get("scene")
    scene = table.column(named, "scene").to_numpy()[row] if named else _SCENE
    roles |= {user.column: "user_id", item.column: "item_id, lists", column: "timestamp"}
    column_log.log(table, roles)
    found = pd.DataFrame(
        {
            "user_id": user.values.to_numpy()[row],
            "item_id": item.values.to_numpy(),
            "timestamp": last.to_numpy()[row] - GAP * behind,
            "scene": scene,
            "action": action.str.strip().to_numpy() if "action" in names else _SCENE,
            "label": np.int8(NO_LABEL),
        }
    )
    return validate.check_events(where, found), user, item


def _lists(table: Table, column: str) -> pd.Series:
    """[n] lists, also those written as text, "[1, 2]"; a null is an empty one."""
    values = table.column(column, "history_columns")
    lists = values.map(_as_list)
    bad = lists.isna() & values.notna()
    problem = 'is no list of items, such as [1, 2] or ["a", "b"]'
    validate.reject(str(table.file), column, values, bad.to_numpy(), problem)
    return lists.map(lambda value: [] if value is None else value)


def _as_list(value: object) -> list | None:
    if isinstance(value, _LISTS):
        return list(value)
    if not isinstance(value, str):
        return None
    for parse in (json.loads, ast.literal_eval):  # JSON's, and what pandas writes into a CSV file
        try:
            found = parse(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        return list(found) if isinstance(found, list | tuple) else None
    return None


def _flat(table: Table, lists: pd.Series, column: str, row: np.ndarray, rules: Rules) -> Ids:
    """[M] entries of all lists, one after the other; the index says the row."""
    entries = pd.Series(list(itertools.chain(*lists)), dtype=object).infer_objects()
    entries.index = row
    missing = entries.isna()
    if missing.any():
        bad = np.isin(np.arange(len(lists)), row[missing])
        problem = "holds an empty entry: lists have to be whole"
        validate.reject(str(table.file), column, lists, bad, problem)
    return Ids(table.file, column, ids.as_text(str(table.file), column, entries, rules.ids))


def _stands_in(table: Table, row: np.ndarray, item: Ids, column: str, rules: Rules) -> np.ndarray:
    """[M] bool, item m is in the list of its row."""
    lists = _lists(table, column)
    inside = np.repeat(np.arange(len(lists)), lists.map(len).to_numpy())
    there = _flat(table, lists, column, inside, rules)
    wanted = pd.MultiIndex.from_arrays([row, item.values])
    return wanted.isin(pd.MultiIndex.from_arrays([inside, there.values]))
