"""The events of each user, in blocks of users: what is counted of them needs no other user's.

Letters: E rows of the store, P events, U users, Q queries, M values of a feature.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from nif_jax.data.groups import BLOCK, Bounds, Counts, Groups, Ordered, no_counts, pairs


class Met(NamedTuple):
    """A user's events with one of a query's values, [Q] each.

    Attributes:
      counts: how many.
      last_row: row of the store of the last one, -1 without one.
      last_label: see Ordered.last_label.
    """

    counts: Counts
    last_row: np.ndarray
    last_label: np.ndarray


class Block(NamedTuple):
    """Some users, u, with their queries, q, and events, p.

    Attributes:
      queries: [q] places of the queries.
      query_user: [q] which of the users.
      events: [p] numbers of the events, one user after another.
      event_user: [p] which of the users.
      skipped: [u] how much larger an event's number is than its place in the block.
    """

    queries: np.ndarray
    query_user: np.ndarray
    events: np.ndarray
    event_user: np.ndarray
    skipped: np.ndarray


class OwnEvents(Ordered):
    """The events of each user in order, numbered from 0.

    Args of the constructor:
      user: [E] int32, sorted.
      label: [E] int8.
      event: [E] bool, rows that are events.
    """

    def __init__(self, user: np.ndarray, label: np.ndarray, event: np.ndarray):
        self._event_label = label[event]
        super().__init__(self._event_label)
        # [P + 1] rows of the events; the last entry stands for no event.
        self._row = np.append(np.flatnonzero(event), -1).astype(np.int32)
        # [E + 1] events before each row.
        self._before = np.append(np.int32(0), np.cumsum(event, dtype=np.int32))
        users = 1 + int(user.max(initial=-1))
        self._begin = self._before[np.searchsorted(user, np.arange(users + 1))]  # [U + 1]

    def bounds(self, user: np.ndarray, row: np.ndarray) -> Bounds:
        """The events of `user` [Q] before `row` [Q] of the store."""
        begin, end = self._begin.take(user), self._begin[1:].take(user)
        return begin, np.clip(self._before.take(row), begin, end)

    def last_row(self, bounds: Bounds) -> np.ndarray:
        """[Q] row of the store of the last event, -1 without one."""
        begin, end = bounds
        return self._row.take(np.where(end > begin, end - 1, -1))

    def blocks(self, user: np.ndarray) -> list[Block]:
        """The users of queries [Q], with about BLOCK events and queries in a block."""
        order = np.argsort(user, kind="stable").astype(np.int32)
        users, queries = np.unique(user, return_counts=True)
        begin, events = self._begin[users], self._begin[users + 1] - self._begin[users]
        last = np.flatnonzero(np.diff(np.cumsum(events + queries) // BLOCK, append=-1))
        first_query = np.append(0, np.cumsum(queries))

        def block(low: int, high: int) -> Block:
            users, size = np.arange(high - low, dtype=np.int32), events[low:high]
            skipped = begin[low:high] - (np.cumsum(size) - size)
            event_user = np.repeat(users, size)
            return Block(
                order[first_query[low] : first_query[high]],
                np.repeat(users, queries[low:high]),
                (np.arange(len(event_user)) + skipped[event_user]).astype(np.int32),
                event_user,
                skipped,
            )

        return [block(*pair) for pair in itertools.pairwise(np.append(0, last + 1))]

    def with_values(
        self,
        values: np.ndarray,
        event_ids: np.ndarray,
        ids: np.ndarray,
        end: np.ndarray,
        blocks: Sequence[Block],
    ) -> Met:
        """The user's events that have a value of the query.

        Args:
          values: [n, M] int32 of each id, padded with 0.
          event_ids: [E] ids of the rows of the store.
          ids: [Q] ids of the queries.
          end: [Q] number of the first event that a query does not see, see `bounds`.
          blocks: of the users of the queries.
        """
        met = Met(no_counts(len(ids)), np.empty(len(ids), np.int32), np.empty(len(ids), np.int8))
        for block in blocks:
            row, users = self._row.take(block.events), len(block.skipped)
            place, value = pairs(values.take(event_ids.take(row), axis=0))
            label = self._event_label.take(block.events.take(place))
            groups = Groups(value * users + block.event_user.take(place), place, label)
            queries, user = block.queries.astype(np.int64), block.query_user.astype(np.int64)
            until = end.take(queries) - block.skipped.take(user)
            counts, last = no_counts(len(queries)), np.full(len(queries), -1)
            last_label = np.zeros(len(queries), np.int8)
            for value in values.take(ids.take(queries), axis=0).T:
                bounds = groups.bounds(np.where(value, value * users + user, -1), until)
                counts = Counts(*map(np.add, counts, groups.counts(bounds)))
                number = groups.last_number(bounds)
                newer = number > last
                last = np.where(newer, number, last)
                last_label = np.where(newer, groups.last_label(bounds), last_label)
            for column, part in zip(met.counts, counts, strict=True):
                column[queries] = part
            met.last_row[queries] = np.append(row, -1).take(last)
            met.last_label[queries] = last_label
        return met
