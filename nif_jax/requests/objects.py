"""Requests as Python objects, and as the table that files have too."""

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import pyarrow as pa

EVENT = pa.struct(
    {
        "item_id": pa.string(),
        "timestamp": pa.int64(),
        "scene": pa.string(),
        "action": pa.string(),
        "label": pa.int8(),
    }
)
COLUMNS = {
    "user_id": pa.string(),
    "items": pa.list_(pa.string()),
    "timestamp": pa.int64(),
    "scene": pa.string(),
    "until": pa.int64(),
    "moveline": pa.list_(EVENT),
}
"""Columns of a table of requests; further ones are features of the user."""
FIELDS = frozenset({*COLUMNS, "item_id"})
"""Names of columns that are fields: a feature of the user with such a name is always the run's."""


class RequestError(ValueError):
    """A request that cannot be scored; the message names the field, the value and the choices."""


@dataclasses.dataclass(frozen=True)
class Event:
    """One event of a moveline.

    Attributes:
      item_id: an item, which may be unknown to the run.
      timestamp: seconds, as in the run's data.
      scene: one of the run's scenes.
      action: one of the run's actions.
      label: 1, 0, or -1 for none; None: the label that all events of this action have in the run's
        data.
    """

    item_id: str
    timestamp: int
    scene: str
    action: str
    label: int | None = None


@dataclasses.dataclass(frozen=True)
class Request:
    """What is to be scored: some items for one user at one moment.

    Attributes:
      timestamp: seconds, as in the run's data.
      scene: one of the run's scenes.
      items: the candidates, which may be unknown to the run.
      user_id: whose features are read; unknown ones, and None, have none but those in `profile`.
      moveline: the user's events in order of time; None: those that the run's data has of the user.
      until: events from this second on are not seen; None: those at the request's second and later
        of the run's data, none of a given moveline.
      profile: user feature -> value, in place of what the run's data has.
    """

    timestamp: int
    scene: str
    items: Sequence[str] = ()
    user_id: str | None = None
    moveline: Sequence[Event | Mapping[str, Any]] | None = None
    until: int | None = None
    profile: Mapping[str, str] = dataclasses.field(default_factory=dict)


Requests: TypeAlias = Request | Mapping[str, Any] | Iterable[Request | Mapping[str, Any]] | pa.Table


def as_table(requests: Requests) -> pa.Table:
    """A table of requests, one a row.

    Args:
      requests: one or several, as objects or as mappings of the same fields; or such a table.

    Raises:
      RequestError: a field that there is not, or a value of the wrong type.
    """
    if isinstance(requests, pa.Table):
        return requests
    if isinstance(requests, Request | Mapping):
        requests = [requests]
    rows = [as_row(f"request {number}", request) for number, request in enumerate(requests)]
    return table_of(rows)


def rows_as_table(
    rows: Sequence[Any], features: Collection[str]
) -> tuple[pa.Table, list[tuple[int, str]]]:
    """A table of rows of a file, and (number, reason) of rows that are no requests.

    Args:
      rows: values as JSON has them.
      features: fields that are features of the user.
    """
    good, bad, features = [], [], set(features) - FIELDS
    for number, row in enumerate(rows):
        try:
            good.append(_of_file(row, features))
        except RequestError as error:
            bad.append((number, str(error).removeprefix("row: ")))
    return table_of(good), bad


def _of_file(row: Any, features: Collection[str]) -> dict[str, Any]:
    if not isinstance(row, Mapping):
        raise RequestError(f"is {type(row).__name__}, not an object")
    fields = {name: value for name, value in row.items() if name not in features}
    if "item_id" in fields:
        fields["items"] = [fields.pop("item_id"), *fields.get("items", ())]
    given = {name: row[name] for name in features if row.get(name) is not None}
    return as_row("row", fields | {"profile": given})


def table_of(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """A table of what `as_row` gives for each of some requests."""
    features = sorted({name for row in rows for name in row if name not in COLUMNS})
    columns = COLUMNS | dict.fromkeys(features, pa.string())
    found = {
        name: pa.array([row.get(name) for row in rows], kind) for name, kind in columns.items()
    }
    return without_empty(pa.table(found))


def without_empty(table: pa.Table) -> pa.Table:
    """A table without the columns that are optional and have no value."""
    needed = ("timestamp", "scene", "user_id")
    names = [n for n in table.column_names if n not in needed]
    empty = [name for name in names if table[name].null_count == len(table)]
    if {"items", "item_id"} & set(names) <= set(empty):
        empty.remove("items")
    return table.drop_columns(empty)


def as_moveline_table(movelines: Iterable[Sequence[Event | Mapping[str, Any]]]) -> pa.Table:
    """A table of movelines, one a row, whose moment is that of the last event.

    Raises:
      RequestError: a value of the wrong type, or a moveline without events.
    """
    rows = []
    for number, moveline in enumerate(movelines):
        events = as_events(f"moveline {number}", moveline)
        if not events:
            raise RequestError(f"moveline {number} has no events: nothing follows from it")
        moment = {key: events[-1][key] for key in ("timestamp", "scene")}
        rows.append({"moveline": events, "items": []} | moment)
    return table_of(rows)


def as_row(where: str, request: Any) -> dict[str, Any]:
    """A request as a row of a table: its fields, checked for their types, and its user features.

    Args:
      where: what messages call the request.
      request: an object, or a mapping of its fields.

    Raises:
      RequestError: a field that there is not, or a value of the wrong type.
    """
    fields = _fields(where, request, Request)
    text = {"user_id": fields.get("user_id"), "scene": fields.get("scene")}
    row: dict[str, Any] = {
        key: text_of_value(f"{where}: {key}", value) for key, value in text.items()
    }
    for key in ("timestamp", "until"):
        row[key] = _whole(f"{where}: {key}", fields.get(key))
    items = fields.get("items", ())
    if isinstance(items, str | Mapping) or not isinstance(items, Iterable):
        raise RequestError(f"{where}: items is {items!r}; give a list of ids")
    row["items"] = [text_of_value(f"{where}: items", item) for item in items]
    profile = fields.get("profile") or {}
    if not isinstance(profile, Mapping):
        raise RequestError(f"{where}: profile is {profile!r}; give {{feature: value}}")
    for name, value in profile.items():
        if name in FIELDS:
            raise RequestError(
                f"{where}: profile {name!r} is the name of a field too, so that it is always that "
                "of the run's data; to give it, train with the feature under another name"
            )
        row[str(name)] = text_of_value(f"{where}: profile {name!r}", value)
    if fields.get("moveline") is not None:
        row["moveline"] = as_events(f"{where}: moveline", fields["moveline"])
    return row


def as_events(where: str, events: Any) -> list[dict[str, Any]]:
    """The fields of each of some events, checked for their types; raises RequestError."""
    if isinstance(events, str | Mapping) or not isinstance(events, Iterable):
        raise RequestError(f"{where} is {events!r}; give a list of events")
    rows = []
    for number, event in enumerate(events):
        fields, at = _fields(f"{where}, event {number}", event, Event), f"{where}, event {number}"
        row: dict[str, Any] = {
            key: text_of_value(f"{at}: {key}", fields.get(key))
            for key in ("item_id", "scene", "action")
        }
        row["timestamp"] = _whole(f"{at}: timestamp", fields.get("timestamp"))
        label = _whole(f"{at}: label", fields.get("label"))
        if label not in (None, 0, 1, -1):
            raise RequestError(f"{at}: label is {label}; choose from 1, 0 and -1 (none)")
        rows.append(row | {"label": label})
    return rows


def _fields(where: str, given: Any, kind: type) -> Mapping[str, Any]:
    """What an object or a mapping has for the fields of a class."""
    names = [field.name for field in dataclasses.fields(kind)]
    if isinstance(given, kind):
        return {name: getattr(given, name) for name in names}
    if not isinstance(given, Mapping):
        raise RequestError(f"{where} is {given!r}; give a {kind.__name__} or a mapping")
    for name in given:
        if name not in names:
            raise RequestError(f"{where}: there is no field {name!r}; choose from {names}")
    return given


def text_of_value(where: str, value: Any) -> str | None:
    """A value as text, a whole number written out; raises RequestError for any other."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise RequestError(f"{where} is {value!r}; give text, or a whole number")


def _whole(where: str, value: Any) -> int | None:
    whole = isinstance(value, float) and value.is_integer()
    if value is None or (isinstance(value, int) and not isinstance(value, bool)) or whole:
        if value is not None and not -(2**63) <= int(value) < 2**63:
            raise RequestError(f"{where} is {value!r}, which 64 bits do not hold")
        return None if value is None else int(value)
    raise RequestError(f"{where} is {value!r}; give a whole number")
