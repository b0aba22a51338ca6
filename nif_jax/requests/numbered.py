"""From a table of requests to numbers: the good rows as arrays, and a reason for each other row.

Letters: n rows of the table, G requests, R candidates, P events of given movelines.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nif_jax.data.schema import DataError
from nif_jax.requests.columns import Reasons, as_text, as_whole, text_of
from nif_jax.requests.events import Given, is_outside, movelines, no_choice, range_of
from nif_jax.requests.objects import COLUMNS, FIELDS
from nif_jax.requests.vocabulary import Vocabulary

LATEST = np.iinfo(np.int64).max


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
) -> tuple[Numbered, list[tuple[int, str]]]:
    """The good rows of a table, and (row, reason) of the bad ones.

    Args:
      table: columns as in objects.COLUMNS, where item_id is one candidate a row in place of items:
        rows that follow each other and are equal in all else are one request.
      vocabulary: of the run.
      base: second of the run's first event; 31 bits hold all other seconds from there.
      candidates: whether rows have to have some; without, each row is a request.

    Raises:
      DataError: a column is missing, unknown, or of the wrong type.
    """
    _require_columns(table, vocabulary, candidates)
    reasons = Reasons(len(table))
    time, scene = _moments(table, vocabulary, base, reasons)
    given, sizes, events = movelines(table, vocabulary, base, time, reasons)
    names = text_of(table, "user_id")
    nobody = names.is_null().to_numpy(zero_copy_only=False) & ~given
    reasons.add(np.flatnonzero(nobody), lambda _: "has neither user_id nor moveline")
    until = _untils(table, base, np.where(given, LATEST, time), reasons)
    user = vocabulary.places("user", names)
    profile = {
        name: _profile(table, name, vocabulary)
        for name in vocabulary.profile
        if name in table.column_names and name not in FIELDS
    }
    owner, candidate = _candidates(table, candidates, reasons)
    good = reasons.good
    alone = given | (not candidates)
    first = _first_rows([user, time, scene, until, *profile.values()], good, alone)
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
    return found, reasons.bad


def take(requests: Numbered, begin: int, end: int) -> Numbered:
    """Requests begin to end, with their candidates and events."""
    chosen = slice(begin, end)
    rows = slice(*np.searchsorted(requests.owner, [begin, end]))
    bounds = np.append(0, np.cumsum(np.where(requests.given, requests.sizes, 0)))
    events = slice(bounds[begin], bounds[min(end, len(requests.row))])
    return Numbered(
        row=requests.row[chosen],
        user=requests.user[chosen],
        time=requests.time[chosen],
        scene=requests.scene[chosen],
        until=requests.until[chosen],
        profile={name: values[chosen] for name, values in requests.profile.items()},
        given=requests.given[chosen],
        sizes=requests.sizes[chosen],
        events=Given(*(column[events] for column in requests.events)),
        owner=requests.owner[rows] - begin,
        item=requests.item[rows],
        candidate_row=requests.candidate_row[rows],
        candidate=requests.candidate[rows],
    )


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
    bad = np.flatnonzero(whole & is_outside(time, base))
    reasons.add(bad, lambda place: f"timestamp {time[bad[place]]} {range_of(base)}")
    names = text_of(table, "scene")
    scene = vocabulary.places("scene", names) + 1
    unknown = np.flatnonzero(scene == 0)
    reasons.add(
        unknown, lambda place: no_choice("scene", names[int(unknown[place])], vocabulary.scene)
    )
    return time, scene


def _untils(table, base: int, default: np.ndarray, reasons: Reasons) -> np.ndarray:
    """Seconds [n] from which on rows see no events."""
    if "until" not in table.column_names:
        return default
    value, there = as_whole("until", table["until"])
    bad = np.flatnonzero(there & is_outside(value, base))
    reasons.add(bad, lambda place: f"until {value[bad[place]]} {range_of(base)}")
    return np.where(there, value, default)


def _profile(table: pa.Table, name: str, vocabulary: Vocabulary) -> np.ndarray:
    text = text_of(table, name)
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
        size, owner, names = np.ones(len(rows)), rows, text_of(table, "item_id")
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


def _first_rows(keys, good: np.ndarray, alone: np.ndarray) -> np.ndarray:
    """[n] bool, where a request begins: a good row that differs from the good row before it."""
    rows = np.flatnonzero(good)
    differs = alone[rows]
    differs[:1] = True
    for key in keys:
        differs[1:] |= np.diff(key[rows]) != 0
    first = np.zeros(len(good), bool)
    first[rows] = differs
    first[rows[1:]] |= alone[rows[:-1]]
    return first
