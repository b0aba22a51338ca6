"""Movelines of requests: of users of the run's data, and given ones, as one small store.

Letters: G requests, U movelines, E rows of the store.
"""

import dataclasses
import functools
from typing import NamedTuple

import numpy as np

from nif_jax.data.schema import NO_LABEL
from nif_jax.data.windows import Store
from nif_jax.requests.numbered import Numbered


class Rows(NamedTuple):
    """Rows of movelines, [E] each; see Movelines and Dataset.

    Attributes:
      item, scene, action, time: of Movelines.
      label: [E] int8 of every event, Dataset.event_label; ranked: those that rankers may use.
      event: [E] bool, False for a sampled negative.
      eligible: [E] bool, the row may stand in a history.
      order_only: [E] bool.
    """

    item: np.ndarray
    scene: np.ndarray
    action: np.ndarray
    time: np.ndarray
    label: np.ndarray
    ranked: np.ndarray
    event: np.ndarray
    eligible: np.ndarray
    order_only: np.ndarray

    def take(self, rows: np.ndarray) -> "Rows":
        """Some rows."""
        return Rows(*(column[rows] for column in self))


@dataclasses.dataclass(frozen=True)
class Log:
    """The movelines of the run's data.

    Attributes:
      rows: sorted by (user, time).
      offsets: [U + 1] int64 bounds of users.
      base: second of the first event.
      history: "all" events stand in histories, or "positive" ones.
      ranked_scene: [S + 1] bool, scenes whose labels rankers may use.
    """

    rows: Rows
    offsets: np.ndarray
    base: int
    history: str
    ranked_scene: np.ndarray

    @functools.cached_property
    def _moment(self) -> np.ndarray:
        """[E] user and second as one number, in order."""
        user = np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))
        return (user << 33) + (self.rows.time - self.base)

    def before(self, user: np.ndarray, until: np.ndarray) -> np.ndarray:
        """[G] number of rows of users [G] before seconds [G]."""
        second = np.clip(until - self.base, 0, (1 << 33) - 1)
        return np.searchsorted(self._moment, (user << 33) + second) - self.offsets[user]


class Lines(NamedTuple):
    """Movelines of G requests as a store.

    Attributes:
      rows: [E] of U movelines.
      user: [E] int32 moveline of each row.
      store: the same for windows.gather_history; columns that it does not read are empty.
      line: [G] moveline of each request.
      first, row: [G] int64, the request sees the rows from `first` to before `row`.
      begin, end: [G] int32 bounds in history_row of what it sees.
    """

    rows: Rows
    user: np.ndarray
    store: Store
    line: np.ndarray
    first: np.ndarray
    row: np.ndarray
    begin: np.ndarray
    end: np.ndarray


def lay_out(log: Log, requests: Numbered) -> Lines:
    """The movelines that requests read: each user of the run's data once, then the given ones."""
    stored = np.flatnonzero(~requests.given & (requests.user >= 0))
    users, place = np.unique(requests.user[stored], return_inverse=True)
    sizes = np.diff(log.offsets)[users]
    number = np.flatnonzero(requests.given)
    # A last moveline of unknown users: one row that is no event, so that no column is empty.
    all_sizes = np.concatenate([sizes, requests.sizes[number], [1]])
    first = np.append(0, np.cumsum(all_sizes))
    line = np.full(len(requests.user), len(all_sizes) - 1)
    line[stored], line[number] = place, len(users) + np.arange(len(number))
    source = np.repeat(log.offsets[users] - first[: len(users)], sizes)
    source = source + np.arange(len(source))
    parts = zip(log.rows.take(source), _given(log, requests), strict=True)
    rows = Rows(*(np.concatenate([own, more, np.zeros(1, more.dtype)]) for own, more in parts))
    user = np.repeat(np.arange(len(all_sizes), dtype=np.int32), all_sizes)
    row = first[line].copy()
    row[stored] += log.before(requests.user[stored], requests.until[stored])
    cut = _given_rows(requests, number)
    row[number] += cut
    before = np.append(0, np.cumsum(rows.eligible)).astype(np.int32)
    bounds = before[first[line]], before[row]
    return Lines(rows, user, store_of(log, rows), line, first[line], row, *bounds)


def _given(log: Log, requests: Numbered) -> Rows:
    events = requests.events
    every = np.ones(len(events.item), bool)
    return Rows(
        events.item,
        events.scene,
        events.action,
        events.time,
        events.label,
        np.where(log.ranked_scene[events.scene], events.label, np.int8(NO_LABEL)),
        every,
        every if log.history == "all" else events.label != 0,
        ~every,
    )


def _given_rows(requests: Numbered, number: np.ndarray) -> np.ndarray:
    """Events of each given moveline that its request sees."""
    request = np.repeat(number, requests.sizes[number])
    seen = requests.events.time < requests.until[request]
    return np.bincount(request, seen, minlength=len(requests.user))[number].astype(np.int64)


def store_of(log: Log, rows: Rows) -> Store:
    """Rows as a Store, and one of padding behind: what is gathered from is never empty."""

    def padded(column: np.ndarray) -> np.ndarray:
        return np.append(column, column.dtype.type(0))

    none = np.zeros(0, np.int32)
    return Store(
        item=padded(rows.item),
        scene=padded(rows.scene),
        action=padded(rows.action),
        time=padded((rows.time - log.base).astype(np.int32)),
        label=none,
        train=none,
        user=none,
        user_features={},
        history_row=np.append(np.flatnonzero(rows.eligible), len(rows.item)).astype(np.int32),
        history_begin=none,
        history_end=none,
        frozen_end=none,
        order_only=padded(rows.order_only),
    )
