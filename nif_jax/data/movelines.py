"""From raw tables to the columnar moveline store: check, deduplicate, sort, number, encode."""

import time
from collections.abc import Iterable

import numpy as np
import pandas as pd

from nif_jax.data import features, validate
from nif_jax.data.schema import (
    ID_FEATURE,
    NO_LABEL,
    PERIODS,
    DataError,
    Movelines,
    RawTables,
    require_choice,
)

MAX_ID = np.iinfo(np.int32).max
YEAR_1990 = 631_152_000
HOUR, DAY = 3600, 86_400
MAX_SHOWN = 20
"""Names of scenes, actions or features in a line of the log."""
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
    require_choice("data.duplicates", duplicates, ("drop", "keep"))
    events = validate.check_events(f"{raw.name} events", raw.events)
    for table, key in ((raw.items, "item_id"), (raw.users, "user_id")):
        _check_keys(f"{raw.name} {key[:4]}s", table, key)
    duplicate = np.zeros(len(events), bool)
    if duplicates == "drop":
        duplicate = _whole_numbers(events).duplicated().to_numpy()
    counts = {"duplicates_dropped": int(duplicate.sum()), "unsorted_rows": _unsorted(events)}
    events = events[~duplicate]

    user, users = _number(events["user_id"])
    scene, scenes = _number(events["scene"])
    action, actions = _number(events["action"])
    item, items = _number(events["item_id"], also=raw.items["item_id"])
    time, label = events["timestamp"].to_numpy(), events["label"].to_numpy()

    order = _order(user, time, (item, scene, action, label), seed)
    user, time = user[order], time[order]
    same = (user[1:] == user[:-1]) & (time[1:] == time[:-1])
    counts["tied_rows"] = int((np.append(same, False) | np.append(False, same)).sum())

    item_rows = _rows_of(raw.items["item_id"], items)
    user_rows = _rows_of(raw.users["user_id"], users)
    counts["items_without_features"] = int((item_rows < 0).sum())
    counts["users_without_features"] = int((user_rows < 0).sum())
    counts["items_without_events"] = len(items) - len(np.unique(item))
    counts["users_without_events"] = len(raw.users) - int((user_rows >= 0).sum())
    titles = features.titles(raw.items, item_rows)
    item_features, item_names = features.encode_items(raw.items, item_rows, titles)
    user_features, user_names = features.encode_users(raw.users, user_rows)
    vocabulary = {"user": users, "item": items, "scene": scenes, "action": actions}
    return Movelines(
        name=raw.name,
        origin=raw.origin,
        user_offsets=np.searchsorted(user, np.arange(len(users) + 1)).astype(np.int64),
        item=_dense_ids(item[order]),
        scene=_dense_ids(scene[order]),
        action=_dense_ids(action[order]),
        time=time,
        label=label[order],
        item_features=item_features,
        user_features=user_features,
        vocabulary=vocabulary | item_names | user_names,
        titles=titles,
        counts=counts,
        **_optional(events, order),
    )


def _optional(events: pd.DataFrame, order: np.ndarray) -> dict[str, np.ndarray]:
    """The columns [E] of schema.OPTIONAL_COLUMNS that the events have."""
    columns = {name: events[name].to_numpy() for name in _OPTIONAL if name in events}
    if "period" in columns:
        columns["period"] = pd.Index(PERIODS).get_indexer(columns["period"])
    return {name: column[order].astype(_OPTIONAL[name]) for name, column in columns.items()}


def summary(lines: Movelines) -> tuple[str, str]:
    """What a store holds, in two lines for the log."""
    labelled, positive = int((lines.label != NO_LABEL).sum()), int((lines.label == 1).sum())
    first, last = (_date(t) for t in (lines.time.min(), lines.time.max()))
    counts = lines.counts
    return (
        f"{lines.name}: {lines.num_events:,} events ({labelled:,} with a label, {positive:,} of "
        f"them 1) of {lines.num_users:,} users and {lines.num_items:,} items, {first} to {last}; "
        f"scenes: {_some(lines.vocabulary['scene'])}; actions: {_some(lines.vocabulary['action'])}",
        f"{lines.name}: item features: {_some(lines.item_features)}; user features: "
        f"{_some(lines.user_features)}; duplicates dropped: {counts['duplicates_dropped']:,}; "
        f"items without features: {counts['items_without_features']:,}, without events: "
        f"{counts['items_without_events']:,}; users without features: "
        f"{counts['users_without_features']:,}",
    )


def odd_times(lines: Movelines) -> list[str]:
    """What looks wrong with the times of a store, a sentence each."""
    first, last = int(lines.time.min()), int(lines.time.max())
    span = f"{lines.name}: times reach from {_date(first)} to {_date(last)}"
    found = []
    if last < YEAR_1990:
        found.append(f"{span}, all before 1990: are they unix seconds?")
    elif last - first < HOUR:
        found.append(f"{span}, less than an hour: are they seconds, and when the events happened?")
    if last > time.time() + DAY:
        found.append(f"{span}, later than today: {_some_event(lines, int(lines.time.argmax()))}")
    far = far_times(lines.time)
    if far.any():
        inside = lines.time[~far]
        found.append(
            f"{lines.name}: {int(far.sum()):,} of {len(far):,} events are far from all others, "
            f"which reach from {_date(inside.min())} to {_date(inside.max())}: "
            f"{_some_event(lines, int(far.argmax()))}. Splits by time follow them: correct the "
            "times, or drop the rows"
        )
    return found


def far_times(times: np.ndarray) -> np.ndarray:
    """[E] bool, events that an empty stretch of time separates from nine tenths of all.

    The stretch is longer than those nine tenths take together, and than a month.
    """
    ordered = np.sort(times)
    low, high = (len(ordered) * share // 20 for share in (1, 19))
    reach = max(int(ordered[min(high, len(ordered) - 1)] - ordered[low]), 30 * DAY)
    early = np.flatnonzero(np.diff(ordered[: low + 1]) > reach)
    late = np.flatnonzero(np.diff(ordered[high:]) > reach)
    first = ordered[early[-1] + 1] if len(early) else ordered[0]
    last = ordered[high + late[0]] if len(late) else ordered[-1]
    return (times < first) | (times > last)


def _some_event(lines: Movelines, row: int) -> str:
    user, item = (lines.vocabulary[kind] for kind in ("user", "item"))
    return f"user {user[lines.user[row]]!r}, item {item[lines.item[row] - 1]!r} at " + _date(
        lines.time[row]
    )


def _date(seconds: int) -> str:
    return str(np.datetime64(int(seconds), "s"))


def _some(words: Iterable[str]) -> str:
    """How many there are, and the first of them: "2 (a, b)"."""
    words = list(words)
    shown = ", ".join([*words[:MAX_SHOWN], *["..."] * (len(words) > MAX_SHOWN)])
    return f"{len(words)} ({shown})" if words else "none"


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


def _whole_numbers(events: pd.DataFrame) -> pd.DataFrame:
    """Each column as a code of its values: what is equal is compared fast, and null equals null."""
    return events.apply(lambda column: pd.factorize(column)[0])


def _unsorted(events: pd.DataFrame) -> int:
    """Rows whose timestamp is smaller than that of the same user's row before them."""
    user = pd.factorize(events["user_id"])[0]
    order = np.argsort(user, kind="stable")
    user, time = user[order], events["timestamp"].to_numpy()[order]
    return int(((user[1:] == user[:-1]) & (time[1:] < time[:-1])).sum())


def id_names(values: pd.Series) -> np.ndarray:
    """Identifiers [n] as text; a float that pandas made of an integer loses its ".0"."""
    values = values.to_numpy()
    if np.issubdtype(values.dtype, np.floating) and (values % 1 == 0).all():
        values = values.astype(np.int64)
    return features.strings(values)


def _number(values: pd.Series, also: pd.Series | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Index [E] of each value in the names [n], which are those of `also` too.

    Names are in the order of features.by_length.
    """
    codes, distinct = pd.factorize(values)
    names = id_names(pd.Series(distinct))
    every = features.by_length(names if also is None else [*names, *id_names(also)])
    if len(every) >= MAX_ID:
        raise DataError(
            f"column {values.name!r} has {len(every)} distinct values, more than int32 ids can "
            f"count ({MAX_ID - 1}): merge rare values first"
        )
    position = pd.Index(every).get_indexer(names)
    return position[codes], every


def _dense_ids(index: np.ndarray) -> np.ndarray:
    """Ids counted from 1 of indices counted from 0."""
    return (index + 1).astype(np.int32)


def _order(
    user: np.ndarray, time: np.ndarray, content: tuple[np.ndarray, ...], seed: int
) -> np.ndarray:
    """Permutation [E] to (user, time), ties shuffled by `seed`.

    The shuffle starts from an order by content, so that file order cannot show through it.
    """
    by_content = np.lexsort((*content, time, user))
    shuffle = np.random.default_rng(seed).permutation(len(user))
    by_time = np.lexsort((shuffle, time[by_content], user[by_content]))
    return by_content[by_time]


def _rows_of(keys: pd.Series, names: np.ndarray) -> np.ndarray:
    """Row [n] of each name in the table whose keys are given, -1 where it has none."""
    return pd.Index(id_names(keys)).get_indexer(names)
