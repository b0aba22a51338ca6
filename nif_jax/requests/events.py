"""Events of given movelines as numbers, and what is wrong with them.

Letters: n rows of a table, P events.
"""

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nif_jax.data.schema import NO_LABEL, DataError
from nif_jax.requests.columns import Reasons, as_whole, text_of
from nif_jax.requests.objects import Event, RequestError, text_of_value
from nif_jax.requests.vocabulary import SEVERAL, Vocabulary


class Given(NamedTuple):
    """Events of given movelines, one after another, [P] each; numbers as in Movelines."""

    item: np.ndarray
    scene: np.ndarray
    action: np.ndarray
    time: np.ndarray
    label: np.ndarray


def is_outside(time: Any, base: int) -> Any:
    """[n] bool, seconds before 0, or too far from the run's data for 31 bits."""
    return (time < 0) | (abs(time - base) >= 2**31)


def range_of(base: int) -> str:
    """What to say of a second that is outside."""
    return (
        f"is not from {max(0, base - 2**31 + 1)} to {base + 2**31 - 1}; give seconds, as in the "
        "run's data"
    )


def no_choice(kind: str, value: pa.Scalar, choices: np.ndarray) -> str:
    """What to say of a name that is unknown."""
    shown = ", ".join(map(str, choices[:12])) + (", ..." if len(choices) > 12 else "")
    return f"{kind} {value.as_py()!r} is none of {shown}"


def number_event(
    event: Event, vocabulary: Vocabulary, base: int, earliest: int
) -> tuple[int, int, int, int]:
    """Item, scene, action and label of one event at `earliest` or later; raises RequestError."""
    second = event.timestamp
    if (
        not isinstance(second, int)
        or isinstance(second, bool)
        or is_outside(np.int64(second), base)
    ):
        raise RequestError(f"timestamp {second!r} {range_of(base)}")
    if second < earliest:
        raise RequestError(f"the event at {second} is earlier than the last one, at {earliest}")
    found = {}
    for kind in ("scene", "action"):
        name = text_of_value(kind, getattr(event, kind))
        found[kind] = 1 + vocabulary.place(kind, name)
        if not found[kind]:
            raise RequestError(no_choice(kind, pa.scalar(name), getattr(vocabulary, kind)))
    label = vocabulary.action_label[found["action"]] if event.label is None else event.label
    if label not in (NO_LABEL, 0, 1):
        raise RequestError(f"label is {event.label}: action {event.action!r} needs 1, 0 or -1")
    name = text_of_value("item_id", event.item_id)
    if name is None:
        raise RequestError("no item_id")
    item = int(vocabulary.items(pa.array([name]))[0])
    return item, found["scene"], found["action"], int(label)


def movelines(table, vocabulary: Vocabulary, base: int, time: np.ndarray, reasons: Reasons):
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

    names = {name: text_of(events, name) for name in ("item_id", "scene", "action")}
    reject(names["item_id"].is_null().to_numpy(zero_copy_only=False), lambda _: "no item_id")
    second, whole = as_whole("timestamp", events["timestamp"])
    reject(~whole, lambda at: f"timestamp is {events['timestamp'][at].as_py()!r}")
    reject(is_outside(second, base), lambda at: f"timestamp {second[at]} {range_of(base)}")
    later = (np.diff(second) < 0) & (np.diff(row) == 0)
    reject(
        np.append(False, later)[: len(row)], lambda at: f"events at {second[at]} are not in order"
    )
    reject(second > time[row], lambda at: f"an event at {second[at]} is later than the request")
    found = {}
    for kind in ("scene", "action"):
        place = vocabulary.places(kind, names[kind])
        choices, column = getattr(vocabulary, kind), names[kind]
        reject(place < 0, lambda at, k=kind, c=column, n=choices: no_choice(k, c[at], n))
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
