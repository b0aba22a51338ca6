"""What the data layer promises to the rest: raw tables in, one columnar moveline store out.

A *moveline* is one user's chronological list of events from all scenes (method.md, section 0).
Identifiers are dense integers: items, scenes and actions count from 1 because 0 is padding, users
count from 0 because they are never padded.
"""

import dataclasses
import difflib
import functools
import hashlib
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd

PAD = 0
"""Item, scene, action and feature id of a padded position."""

ID_FEATURE = "id"
"""Name of the feature that tells items, or users, apart; a column of that name gets another."""

NO_LABEL = -1
"""Label of an event that is history only and never an impression."""

PERIODS = ("train", "validation", "test")
"""Names of the periods of a split; the index is the number of the period."""


EVENT_COLUMNS = ("item", "scene", "action", "time", "label")
"""Columns [E] of Movelines."""

OPTIONAL_COLUMNS = ("truth", "period", "order_only")
"""Columns [E] of Movelines that may be None."""


class ConfigError(ValueError):
    """A setting that cannot be used; the message names key, value, choices and the fix."""


def require_choice(key: str, value: str, choices: Iterable[str]) -> None:
    """Raises ConfigError, naming the choices, unless `value` of config.<key> is one of them."""
    choices = list(choices)
    if value not in choices:
        near = difflib.get_close_matches(str(value), choices, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"config.{key}={value!r} is none of {', '.join(choices)}{hint}")


class DataError(ValueError):
    """Input data that cannot be used; the message names file, column, row, value and the fix."""


@dataclasses.dataclass(frozen=True)
class RawTables:
    """What a source returns: tidy tables with identifiers as the data set writes them.

    Attributes:
      name: data set name, for messages and results.
      events: one row an event: user_id, item_id, timestamp (int64 seconds), scene (str), action
        (str, what the user did: it is hidden from the event's own prediction), label
        (int8: 1, 0, or NO_LABEL), optional truth (true log odds of label 1, where they are known),
        optional other (numbers that differ where the rest of the data set's columns do, so that
        only rows that are equal in all columns count as duplicates), optional period (one of
        PERIODS) and order_only (bool), which Movelines describes.
      items: item_id, optional title (str), and categorical columns; a value with "|" is a set.
      users: user_id and categorical columns.
      origin: where the bytes came from (path, package and version, sha256), for results.json.
    """

    name: str
    events: pd.DataFrame
    items: pd.DataFrame
    users: pd.DataFrame
    origin: str


@runtime_checkable  # Beam compares types
class RowGroups(Protocol):
    """Groups of rows of a log, which several processes read; it can be pickled."""

    def __len__(self) -> int: ...

    def read(self, group: int) -> Iterator[pd.DataFrame]:
        """Pieces of a group, as those of RawPieces.events."""


@dataclasses.dataclass(frozen=True)
class RawPieces:
    """What a source returns for a log that is read in pieces, because memory may not hold it.

    Attributes:
      events: (folder for its own files) -> pieces of RawTables.events, checked, with text as
        user_id, item_id, scene and action; the index continues from piece to piece.
      finish: (users, items, actions, occurs) -> RawTables without events, and [A, 3] text that
        histories show as the action, or None for the action itself. Distinct users [U] and items
        [N] with their first row as the index, distinct actions [A], and [A, 3] bool, the labels
        NO_LABEL, 0 and 1 that each occurs with. Raises DataError for ids that cannot be used.
      groups: (folder for its own files) -> what other processes read `events` by, see RowGroups.
    """

    events: Callable[[pathlib.Path], Iterator[pd.DataFrame]]
    finish: Callable[
        [pd.Series, pd.Series, np.ndarray, np.ndarray], tuple[RawTables, np.ndarray | None]
    ]
    groups: Callable[[pathlib.Path], RowGroups]


@dataclasses.dataclass(frozen=True)
class Movelines:
    """Columnar event store, sorted by (user, time); ties in time are in a seeded random order.

    Attributes:
      name: data set name.
      origin: see RawTables.
      user_offsets: [U + 1] int64; user u owns rows user_offsets[u] to user_offsets[u + 1].
      item: [E] int32 in 1..N.
      scene: [E] int32 in 1..S.
      action: [E] int32 in 1..A.
      time: [E] int64 seconds.
      label: [E] int8, 1, 0 or NO_LABEL.
      item_features: feature name -> [N + 1, M] int32 ids counted from 1 and padded with PAD; row
        0 is the padding item. M is the largest number of values an item has for the feature.
      user_features: feature name -> [U] int32 ids counted from 1, PAD where unknown.
      vocabulary: "user", "item", "scene", "action", "item/<feature>" and "user/<feature>" ->
        [n] object array of str, the name of each id in order. User ids start at 0, so entry i names
        user i; all others start at 1, so entry i names id i + 1.
      titles: [N] object array of str, "" where unknown.
      counts: what preparation did, e.g. {"duplicates_dropped": 3}.
      truth: [E] float32 true log odds of label 1, for the bound that no model beats in expectation,
        or None where they are not known. No model reads it.
      period: [E] int8 index in PERIODS, for a split that the data set defines, or None.
      order_only: [E] bool, the time of the event gives its place in the user's order and is not
        known otherwise, so that no feature is computed from it; None: all times are known.
    """

    name: str
    origin: str
    user_offsets: np.ndarray
    item: np.ndarray
    scene: np.ndarray
    action: np.ndarray
    time: np.ndarray
    label: np.ndarray
    item_features: Mapping[str, np.ndarray]
    user_features: Mapping[str, np.ndarray]
    vocabulary: Mapping[str, np.ndarray]
    titles: np.ndarray
    counts: Mapping[str, int]
    truth: np.ndarray | None = None
    period: np.ndarray | None = None
    order_only: np.ndarray | None = None

    @property
    def num_events(self) -> int:
        return len(self.item)

    @property
    def num_users(self) -> int:
        return len(self.user_offsets) - 1

    @property
    def num_items(self) -> int:
        return len(self.titles)

    @functools.cached_property
    def user(self) -> np.ndarray:
        """[E] int32, the user of each row."""
        return np.repeat(np.arange(self.num_users, dtype=np.int32), np.diff(self.user_offsets))

    def of_users(self, first: int, end: int) -> "Movelines":
        """The rows of users `first` to `end` - 1, who are counted from 0; columns are views."""
        rows = slice(self.user_offsets[first], self.user_offsets[end])
        columns: dict[str, Any] = {}
        for name in (*EVENT_COLUMNS, *OPTIONAL_COLUMNS):
            values = getattr(self, name)
            columns[name] = None if values is None else values[rows]
        return dataclasses.replace(
            self,
            user_offsets=self.user_offsets[first : end + 1] - self.user_offsets[first],
            user_features={name: ids[first:end] for name, ids in self.user_features.items()},
            **columns,
        )

    @functools.cached_property
    def digests(self) -> dict[str, str]:
        """SHA-256 of each part of the store, by content.

        "events": who met what, where and when, the labels, and the names of all ids. "items":
        features and titles of the items. "users": features of the users.
        """
        columns = ("user_offsets", *EVENT_COLUMNS, *OPTIONAL_COLUMNS)
        events = {name: getattr(self, name) for name in columns if getattr(self, name) is not None}
        parts = {"events": events, "items": {"titles": self.titles}, "users": {}}
        for part, features in (("items", self.item_features), ("users", self.user_features)):
            parts[part] |= {f"feature {name}": ids for name, ids in features.items()}
        for name, values in self.vocabulary.items():
            group = {"item/": "items", "user/": "users"}.get(name[:5], "events")
            parts[group][f"vocabulary {name}"] = values
        return {part: digest(arrays) for part, arrays in parts.items()}


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of named arrays; texts are equal whether NumPy or Python holds them."""
    total = hashlib.sha256()
    for name in sorted(arrays):
        array = np.asarray(arrays[name])
        content: bytes | memoryview
        if array.dtype.kind in "OU":
            # With their lengths: ["ab", "c"] is not ["a", "bc"].
            texts = [str(text).encode("utf-8", "surrogatepass") for text in array.ravel().tolist()]
            lengths = np.array([len(text) for text in texts], "<i8")
            kind, content = "text", lengths.tobytes() + b"".join(texts)
        else:
            flat = np.ascontiguousarray(array).reshape(-1)
            kind, content = array.dtype.str, flat.view(np.uint8).data
        total.update(repr((name, kind, array.shape)).encode())
        total.update(content)
    return total.hexdigest()
