"""The events of each user, in blocks of users: what is counted of them needs no other user's.

Letters: E rows of the store, P events, U users, Q queries, M values of a feature.
"""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from nif_jax.data.groups import Bounds, Counts, Groups, Ordered

BLOCK = 1 << 16
"""Events and queries of a block, about: its arrays stay in the processor's cache."""


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


class _Block(NamedTuple):
    """Some users: places of their queries and events, and the number of the user of each."""

    queries: np.ndarray
    query_user: np.ndarray
    events: np.ndarray
    event_user: np.ndarray
    begin: np.ndarray


class OwnEvents(Ordered):
    """The events of each user in order, numbered from 0.

    Args of the constructor:
      user: [E] int32, sorted.
      label: [E] int8.
      event: [E] bool, rows that are events.
    """

    def __init__(self, user: np.ndarray, label: np.ndarray, event: np.ndarray):
        super().__init__(label[event])
        self._event_label = label[event]
        # [P + 1] rows of the events; the last entry stands for no event.
        self._row = np.append(np.flatnonzero(event), -1).astype(np.int32)
        self._before = np.append(np.int32(0), np.cumsum(event, dtype=np.int32))  # [E + 1]
        users = 1 + int(user.max(initial=-1))
        self._begin = self._before[np.searchsorted(user, np.arange(users + 1))]  # [U + 1]

    def bounds(self, user: np.ndarray, row: np.ndarray) -> Bounds:
        """The events of `user` [Q] before `row` [Q] of the store."""
        begin, end = self._begin[user], self._begin[user + 1]
        return begin, np.clip(self._before[row], begin, end)

    def last_row(self, bounds: Bounds) -> np.ndarray:
        """[Q] row of the store of the last event, -1 without one."""
        begin, end = bounds
        return self._row[np.where(end > begin, end - 1, -1)]

    def with_values(
        self,
        values: np.ndarray,
        event_ids: np.ndarray,
        user: np.ndarray,
        ids: np.ndarray,
        bounds: Bounds,
    ) -> Met:
        """The user's events within bounds that have a value of the query.

        Args:
          values: [n, M] int32 of each id, padded with 0.
          event_ids: [E] ids of the rows of the store.
          user: [Q] int.
          ids: [Q] ids of the queries.
          bounds: see `bounds`.
        """
        number = 1 + int(values.max(initial=0))
        counts = Counts(*(np.zeros(len(user), np.int32) for _ in Counts._fields))
        last, label = np.full(len(user), -1, np.int32), np.zeros(len(user), np.int8)
        for block in self._blocks(user):
            value = values[event_ids[self._row[block.events]]]
            place, slot = np.nonzero(value)
            key = block.event_user[place] * number + value[place, slot]
            rank = block.events - block.begin[block.event_user]
            groups = Groups(key, rank[place], self._event_label[block.events[place]])
            until = bounds[1][block.queries] - block.begin[block.query_user]
            block_last = np.full(len(block.queries), -1)
            block_label = np.zeros(len(block.queries), np.int8)
            for value in values[ids[block.queries]].T:
                key = np.where(value, block.query_user * number + value, -1)
                found = groups.bounds(key, until)
                for total, part in zip(counts, groups.counts(found), strict=True):
                    total[block.queries] += part
                rank = groups.last_rank(found)
                newer = rank > block_last
                block_last = np.where(newer, rank, block_last)
                block_label = np.where(newer, groups.last_label(found), block_label)
            at = np.where(block_last < 0, -1, block_last + block.begin[block.query_user])
            last[block.queries] = self._row[at]
            label[block.queries] = block_label
        return Met(counts, last, label)

    def _blocks(self, user: np.ndarray) -> Iterator[_Block]:
        """Users of queries, about BLOCK of their queries and events at a time."""
        order = np.argsort(user, kind="stable")
        users, first, queries = np.unique(user[order], return_index=True, return_counts=True)
        begin, events = self._begin[users], self._begin[users + 1] - self._begin[users]
        block = np.cumsum(events + queries) // BLOCK
        ends = np.append(0, np.flatnonzero(np.diff(block, append=-1)) + 1)
        for low, high in itertools.pairwise(ends):
            chosen, numbers = slice(low, high), np.arange(high - low)
            event_user = np.repeat(numbers, events[chosen])
            # The numbers of the users' events, one user after another.
            gap = begin[chosen] - (np.cumsum(events[chosen]) - events[chosen])
            yield _Block(
                order[first[low] : first[high - 1] + queries[high - 1]],
                np.repeat(numbers, queries[chosen]),
                np.arange(len(event_user)) + gap[event_user],
                event_user,
                begin[chosen],
            )
