"""From a table of requests to numbers: the good rows as arrays, and a reason for each other row.

Letters: n rows of the table, G requests, R candidates, P events of given movelines.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nif_jax.data.schema import NO_LABEL, DataError
from nif_jax.requests.columns import Reasons, as_text, as_whole
from nif_jax.requests.objects import COLUMNS
from nif_jax.requests.vocabulary import SEVERAL, Vocabulary

LATEST = np.iinfo(np.int64).max


class Given(NamedTuple):
    """Events of given movelines, one after another, [P] each; numbers as in Movelines."""

    item: np.ndarray
    scene: np.ndarray
    action: np.ndarray
    time: np.ndarray
    label: np.ndarray


class Numbered(NamedTuple):
    """G requests with R candidates.

    Attributes:
      row: [G] int64, the first row of the table that the request stands in.
      user: [G] int64, -1 where the user is unknown.
      time: [G] int64 seconds.
      scene: [G] int32.
      until: [G] int64, see Request.
      profile: user feature -> [G] int32 values, 0 for an unknown one; -1 for what the run has.
      given: [G] bool, whether the moveline is given.
      sizes: [G] int64, events of the given moveline.
      events: of all given movelines.
      owner: [R] int64, the request of each candidate.
      item: [R] int32.
      candidate_row: [R] int64, the row of the table; candidate: [R] its id.
    """

    row: np.ndarray
    user: np.ndarray
    time: np.ndarray
    scene: np.ndarray
    until: np.ndarray
    profile: Mapping[str, np.ndarray]
    given: np.ndarray
    sizes: np.ndarray
    events: Given
    owner: np.ndarray
    item: np.ndarray
    candidate_row: np.ndarray
    candidate: pa.Array


def number(
    table: pa.Table, vocabulary: Vocabulary, base: int, candidates: bool = True
) -> tuple[Numbered, np.ndarray]:
    """The good rows of a table, and [n] the reason of each bad one, None for a good one.

    Args:
      table: columns as in objects.COLUMNS, where item_id is one candidate a row in place of items:
        rows that follow each other and are equal in all else are one request.
      vocabulary: of the run.
      base: second of the run's first event; 31 bits hold all other seconds from there.
      candidates: whether rows have to have some.

    Raises:
      DataError: a column is missing, unknown, or of the wrong type.
    """
    _require_columns(table, vocabulary, candidates)
    reasons = Reasons(len(table))
    time, scene = _moments(table, vocabulary, base, reasons)
    given, sizes, events = _movelines(table, vocabulary, base, time, reasons)
    names = _text(table, "user_id")
    nobody = names.is_null().to_numpy(zero_copy_only=False) & ~given
    reasons.add(np.flatnonzero(nobody), lambda _: "has neither user_id nor moveline")
    until = np.where(given, LATEST, time)
    if "until" in table.column_names:
        value, there = as_whole("until", table["until"])
        until = np.where(there, value, until)
    user = vocabulary.places("user", names)
    profile = {
        name: _profile(table, name, vocabulary)
        for name in vocabulary.profile
        if name in table.column_names
    }
    owner, candidate = _candidates(table, candidates, reasons)
    good = reasons.good
    first = _first_rows([user, time, scene, until, *profile.values()], good, given)
    kept = good[owner]
    item = vocabulary.items(candidate)
    of_good = np.repeat(good & given, sizes)
    found = Numbered(
        row=np.flatnonzero(first),
        user=user[first],
        time=time[first],
        scene=scene[first].astype(np.int32),
        until=until[first],
        profile={name: values[first] for name, values in profile.items()},
        given=given[first],
        sizes=sizes[first],
        events=Given(*(column[of_good] for column in events)),
        owner=(np.cumsum(first) - 1)[owner[kept]],
        item=item[kept],
        candidate_row=owner[kept],
        candidate=candidate.filter(pa.array(kept)),
    )
    return found, reasons.text


def _require_columns(table: pa.Table, vocabulary: Vocabulary, candidates: bool) -> None:
    names = table.column_names
    needed = [("timestamp",), ("scene",), ("user_id", "moveline")]
    for either in [*needed, ("item_id", "items")] if candidates else needed:
        if not set(either) & set(names):
            raise DataError(f"no column {' or '.join(map(repr, either))}; there are {names}")
    if candidates and {"item_id", "items"} <= set(names):
        raise DataError("columns 'item_id' and 'items': give one of them")
    known = {*COLUMNS, "item_id", *vocabulary.profile}
    for name in names:
        if name not in known:
            raise DataError(f"there is no field {name!r}; choose from {sorted(known)}")


def _text(table: pa.Table, name: str) -> pa.Array:
    if name not in table.column_names:
        return pa.nulls(len(table), pa.string())
    return as_text(name, table[name])


def _moments(table, vocabulary: Vocabulary, base: int, reasons: Reasons):
    """Seconds and scenes [n] of the rows."""
    time, whole = as_whole("timestamp", table["timestamp"])
    column = table["timestamp"]
    reasons.add(
        np.flatnonzero(~whole),
        lambda place: (
            f"timestamp is {column[int(np.flatnonzero(~whole)[place])].as_py()!r}; "
            "give whole seconds"
        ),
    )
    bad = np.flatnonzero(whole & _outside(time, base))
    reasons.add(bad, lambda place: f"timestamp {time[bad[place]]} {_range(base)}")
    names = _text(table, "scene")
    scene = vocabulary.places("scene", names) + 1
    unknown = np.flatnonzero(scene == 0)
    reasons.add(
        unknown, lambda place: _no_choice("scene", names[int(unknown[place])], vocabulary.scene)
    )
    return time, scene


def _outside(time: np.ndarray, base: int) -> np.ndarray:
    return (time < 0) | (np.abs(time - base) >= 2**31)


def _range(base: int) -> str:
    return (
        f"is not from {max(0, base - 2**31 + 1)} to {base + 2**31 - 1}; give seconds, as in the "
        "run's data"
    )


def _no_choice(kind: str, value: pa.Scalar, choices: np.ndarray) -> str:
    shown = ", ".join(map(str, choices[:12])) + (", ..." if len(choices) > 12 else "")
    return f"{kind} {value.as_py()!r} is none of {shown}"


def _profile(table: pa.Table, name: str, vocabulary: Vocabulary) -> np.ndarray:
    text = _text(table, name)
    value = vocabulary.places(f"user/{name}", text) + 1
    there = text.is_valid().to_numpy(zero_copy_only=False)
    return np.where(there, value, -1).astype(np.int32)


def _candidates(table: pa.Table, wanted: bool, reasons: Reasons) -> tuple[np.ndarray, pa.Array]:
    """[R] rows and ids of the candidates of all rows."""
    rows = np.arange(len(table))
    if "items" in table.column_names:
        column = table["items"].combine_chunks()
        if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
            raise DataError(f"column 'items' is {column.type}; it has to hold lists of ids")
        size = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
        owner, names = np.repeat(rows, size), as_text("items", column.flatten())
    elif "item_id" in table.column_names:
        size, owner, names = np.ones(len(rows)), rows, _text(table, "item_id")
    else:
        size, owner, names = np.zeros(len(rows)), rows[:0], pa.array([], pa.string())
    if wanted:
        reasons.add(rows[size == 0], lambda _: "has no items")
    missing = owner[names.is_null().to_numpy(zero_copy_only=False)]
    reasons.add(
        missing,
        lambda _: "has no item_id" if "item_id" in table.column_names else "items: one is null",
    )
    return owner, names


def _first_rows(keys, good: np.ndarray, given: np.ndarray) -> np.ndarray:
    """[n] bool, where a request begins: a good row that differs from the good row before it."""
    rows = np.flatnonzero(good)
    differs = given[rows]
    differs[:1] = True
    for key in keys:
        differs[1:] |= np.diff(key[rows]) != 0
    first = np.zeros(len(good), bool)
    first[rows] = differs
    # The row behind a given moveline has none, or one of its own.
    first[rows[1:]] |= given[rows[:-1]]
    return first


def _movelines(table, vocabulary: Vocabulary, base: int, time: np.ndarray, reasons: Reasons):
    """[n] whether the row has a moveline, [n] its size, and the events of all rows."""
    nothing = np.zeros(len(table), np.int64)
    if "moveline" not in table.column_names:
        empty = np.zeros(0, np.int32)
        return nothing > 0, nothing, Given(*[empty] * len(Given._fields))
    column = table["moveline"].combine_chunks()
    kind = column.type
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if not (lists and pa.types.is_struct(kind.value_type)):
        raise DataError(f"column 'moveline' is {kind}; it has to hold lists of events")
    given = column.is_valid().to_numpy(zero_copy_only=False)
    sizes = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    events = pa.Table.from_struct_array(column.flatten())
    for name in ("item_id", "timestamp", "scene", "action"):
        if name not in events.column_names:
            raise DataError(f"events of 'moveline' have no field {name!r}: {events.column_names}")
    row = np.repeat(np.arange(len(table)), sizes)
    return given, sizes.astype(np.int64), _events(events, vocabulary, base, row, time, reasons)


def _events(events, vocabulary, base: int, row, time, reasons: Reasons) -> Given:
    """The events of movelines [P], which belong to rows [P]."""

    def reject(bad: np.ndarray, reason) -> None:
        places = np.flatnonzero(bad)
        reasons.add(row[places], lambda place: f"moveline: {reason(int(places[place]))}")

    names = {name: _text(events, name) for name in ("item_id", "scene", "action")}
    reject(names["item_id"].is_null().to_numpy(zero_copy_only=False), lambda _: "no item_id")
    second, whole = as_whole("timestamp", events["timestamp"])
    reject(~whole, lambda at: f"timestamp is {events['timestamp'][at].as_py()!r}")
    reject(_outside(second, base), lambda at: f"timestamp {second[at]} {_range(base)}")
    later = (np.diff(second) < 0) & (np.diff(row) == 0)
    reject(
        np.append(False, later)[: len(row)], lambda at: f"events at {second[at]} are not in order"
    )
    reject(second > time[row], lambda at: f"an event at {second[at]} is later than the request")
    found = {}
    for kind in ("scene", "action"):
        place = vocabulary.places(kind, names[kind])
        choices, column = getattr(vocabulary, kind), names[kind]
        reject(place < 0, lambda at, k=kind, c=column, n=choices: _no_choice(k, c[at], n))
        found[kind] = (place + 1).astype(np.int32)
    label = vocabulary.action_label[found["action"]]
    if "label" in events.column_names:
        own, there = as_whole("label", events["label"])
        label = np.where(there, own, label)
    reject(
        label == SEVERAL, lambda at: f"action {names['action'][at]} has several labels: give one"
    )
    reject((label < NO_LABEL) | (label > 1), lambda at: f"label is {label[at]}; choose 1, 0 or -1")
    item = vocabulary.items(names["item_id"])
    return Given(item, found["scene"], found["action"], second, label.astype(np.int8))
