"""From raw tables to the columnar moveline store: check, deduplicate, sort, number, encode."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from nif_jax.data import features, ordering, validate
from nif_jax.data.schema import (
    ID_FEATURE,
    PERIODS,
    DataError,
    Movelines,
    RawTables,
    require_choice,
)

MAX_ID = np.iinfo(np.int32).max
ID_COLUMNS = {"user": "user_id", "item": "item_id", "scene": "scene", "action": "action"}
"""Kind of id -> its column of RawTables.events."""
CONTENT = ("item", "scene", "action", "label")
"""Columns that order ties before they are shuffled."""
_OPTIONAL: dict[str, type] = {"truth": np.float32, "period": np.int8, "order_only": np.bool_}


def prepare(raw: RawTables, seed: int, duplicates: str = "drop") -> Movelines:
    """The moveline store of raw tables.

    The order of the rows of `raw` has no influence on the result: rows of one user and second come
    out in a random order that depends on `seed` only.

    Args:
      raw: tables; rows may be in any order.
      seed: of the order of ties in time.
      duplicates: "drop" rows that are equal to an earlier one in all columns, or "keep" them.

    Returns:
      The store. Its `counts`: duplicates_dropped,
      unsorted_rows (rows older than the same user's row before them), tied_rows (rows that share
      user and second with another), items_without_features and users_without_features (seen in
      events, not in their table), items_without_events, and users_without_events (dropped).

    Raises:
      ConfigError: an unknown choice of duplicates.
      DataError: a table breaks the contract of RawTables, or there are too many distinct values.
    """
    check_tables(raw, duplicates)
    events = validate.check_events(f"{raw.name} events", raw.events)
    codes, names = {}, {}
    for kind, column in ID_COLUMNS.items():
        also = raw.items["item_id"] if kind == "item" else None
        codes[kind], names[kind] = _number(events[column], also)
    columns = {kind: codes[kind] for kind in ("item", "scene", "action")}
    columns |= {"time": events["timestamp"].to_numpy(), "label": events["label"].to_numpy()}
    keys = ordering.sort_keys(codes["user"], columns["time"])
    order = ordering.by_content(keys, [columns[name] for name in CONTENT])
    if duplicates == "drop":
        order = ordering.without_repeats(order, keys, dict(events.items()))
    keys = keys[order]
    places, sources = ordering.shuffled_ties(keys, ordering.permutation(len(order), seed))
    order[places] = order[sources]
    counts = {
        "duplicates_dropped": len(events) - len(order),
        "unsorted_rows": ordering.count_unsorted(codes["user"], columns["time"]),
        "tied_rows": len(places),
    }
    for kind in ("item", "scene", "action"):
        columns[kind] = dense_ids(columns[kind])
    columns = {name: column[order] for name, column in (columns | optional_columns(events)).items()}
    per_user = np.bincount(codes["user"][order], minlength=len(names["user"]))
    with_events = len(np.unique(columns["item"]))
    return assemble(raw, names, per_user, columns, counts, with_events)


def check_tables(raw: RawTables, duplicates: str) -> None:
    """Raises ConfigError or DataError, see prepare, about the choice or a table but the events."""
    require_choice("data.duplicates", duplicates, ("drop", "keep"))
    for table, key in ((raw.items, "item_id"), (raw.users, "user_id")):
        _check_keys(f"{raw.name} {key[:4]}s", table, key)


def assemble(
    raw: RawTables,
    names: Mapping[str, np.ndarray],
    per_user: np.ndarray,
    columns: Mapping[str, np.ndarray],
    counts: Mapping[str, int],
    items_with_events: int,
) -> Movelines:
    """The store of sorted events, with the features of the tables of items and users.

    Args:
      raw: its events are not read.
      names: "user", "item", "scene" and "action" -> [n] text in the order of their ids.
      per_user: [U] events of each user.
      columns: item, scene, action, time, label and optional ones -> [E].
      counts: see prepare; those of the tables are added.
      items_with_events: how many of the items have some.
    """
    item_rows = _rows_of(raw.items["item_id"], names["item"])
    user_rows = _rows_of(raw.users["user_id"], names["user"])
    of_tables = {
        "items_without_features": int((item_rows < 0).sum()),
        "users_without_features": int((user_rows < 0).sum()),
        "items_without_events": len(names["item"]) - items_with_events,
        "users_without_events": len(raw.users) - int((user_rows >= 0).sum()),
    }
    titles = features.titles(raw.items, item_rows)
    item_features, item_names = features.encode_items(raw.items, item_rows, titles)
    user_features, user_names = features.encode_users(raw.users, user_rows)
    return Movelines(
        name=raw.name,
        origin=raw.origin,
        user_offsets=np.append(0, np.cumsum(per_user)).astype(np.int64),
        item_features=item_features,
        user_features=user_features,
        vocabulary=dict(names) | item_names | user_names,
        titles=titles,
        counts=dict(counts) | of_tables,
        **columns,
    )


def optional_columns(events: pd.DataFrame) -> dict[str, np.ndarray]:
    """The columns [E] of schema.OPTIONAL_COLUMNS that the events have."""
    columns = {name: events[name].to_numpy() for name in _OPTIONAL if name in events}
    if "period" in columns:
        columns["period"] = pd.Index(PERIODS).get_indexer(columns["period"])
    return {name: column.astype(_OPTIONAL[name]) for name, column in columns.items()}


def _check_keys(where: str, table: pd.DataFrame, key: str) -> None:
    """Raises DataError unless `table` has one row for each value of `key`."""
    if key not in table:
        choices = ", ".join(map(str, table.columns))
        raise DataError(f"{where}: no column {key!r}; the table has: {choices}")
    if ID_FEATURE in table:
        raise DataError(f"{where}: {ID_FEATURE!r} names the identity itself: rename the column")
    validate.check_ids(where, key, table[key])
    twice = table[key].duplicated().to_numpy()
    validate.reject(where, key, table[key], twice, "stands there twice: keep one row")


def id_names(values: pd.Series) -> np.ndarray:
    """Identifiers [n] as text; a float that pandas made of an integer loses its ".0"."""
    values = values.to_numpy()
    if np.issubdtype(values.dtype, np.floating) and (values % 1 == 0).all():
        values = values.astype(np.int64)
    return features.strings(values)


def _number(values: pd.Series, also: pd.Series | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Index [E] of each value in the names [n], see numbered."""
    codes, distinct = pd.factorize(values)
    position, every = numbered(str(values.name), id_names(pd.Series(distinct)), also)
    return position[codes], every


def numbered(
    column: str, names: np.ndarray, also: pd.Series | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Place [k] of each of these texts [k] in the names [n] of the ids, which are those of `also`
    too, in the order of features.by_length; `column` is for the message of the DataError."""
    every = features.by_length(names if also is None else [*names, *id_names(also)])
    if len(every) >= MAX_ID:
        raise DataError(
            f"column {column!r} has {len(every)} distinct values, more than int32 ids can "
            f"count ({MAX_ID - 1}): merge rare values first"
        )
    return pd.Index(every).get_indexer(names), every


def dense_ids(index: np.ndarray) -> np.ndarray:
    """Ids counted from 1 of indices counted from 0."""
    return (index + 1).astype(np.int32)


def _rows_of(keys: pd.Series, names: np.ndarray) -> np.ndarray:
    """Row [n] of each name in the table whose keys are given, -1 where it has none."""
    return pd.Index(id_names(keys)).get_indexer(names)
