"""Events in groups of equal keys, and how many of a group come before a place.

Letters: P events with a key, Q queries.
"""

from typing import NamedTuple

import numpy as np

from nif_jax.data.schema import NO_LABEL

Bounds = tuple[np.ndarray, np.ndarray]
"""[Q] begin and end of the events of a group that come before a query."""


class Counts(NamedTuple):
    """Events of a group before a query, [Q] each: all, those with a label, those with label 1."""

    events: np.ndarray
    labelled: np.ndarray
    positive: np.ndarray


class Groups:
    """Events in groups of equal keys, each group in order of a rank.

    Args of the constructor: key [P] int64, rank [P] int64 from 0, row [P] int64 of the store and
    label [P] int8 of each event.
    """

    def __init__(self, key: np.ndarray, rank: np.ndarray, row: np.ndarray, label: np.ndarray):
        if (rank[1:] >= rank[:-1]).all():  # one sort instead of two
            order = np.argsort(key, kind="stable")
        else:
            order = np.lexsort((rank, key))
        key, label = key[order], label[order]
        begin = np.flatnonzero(np.append(True, key[1:] != key[:-1])[: len(key)])
        size = np.diff(np.append(begin, len(key)))
        self._keys = key[begin]
        # The last entry of each stands for a group without events.
        self._begin = np.append(begin, 0).astype(np.int32)
        self._row = np.append(row[order], -1).astype(np.int32)
        self._ranks = int(rank.max(initial=-1)) + 1
        # Group and rank as one sorted number: one search finds a place in a group.
        self._place = np.repeat(np.arange(len(begin)), size) * (self._ranks + 1) + rank[order]
        known = label != NO_LABEL
        # [P + 1] labels before each place, and [C + 1] positive ones before each label.
        self._labelled = np.append(0, np.cumsum(known)).astype(np.int32)
        self._positive = np.append(0, np.cumsum(label[known] == 1)).astype(np.int32)
        self._label = np.append(np.where(label[known] == 1, 1, -1), 0).astype(np.int8)

    def bounds(self, key: np.ndarray, rank: np.ndarray) -> Bounds:
        """The events of group `key` [Q] whose rank is smaller than `rank` [Q]."""
        none = len(self._keys)
        if none and self._keys[-1] < 4 * len(self._row):  # small keys: a table instead of a search
            table = np.full(self._keys[-1] + 2, none)
            table[self._keys] = np.arange(none)
            group = table[np.clip(key, -1, len(table) - 1)]
        else:
            group = np.searchsorted(self._keys, key)
            group[np.append(self._keys, -1)[group] != key] = none
        at = group * (self._ranks + 1) + np.minimum(rank, self._ranks)
        end = np.searchsorted(self._place, at)
        begin = self._begin[group]
        return begin, np.where(group == none, 0, end).astype(np.int32)

    def counts(self, bounds: Bounds) -> Counts:
        """How many events there are."""
        begin, end = bounds
        first, last = self._labelled[begin], self._labelled[end]
        return Counts(end - begin, last - first, self._positive[last] - self._positive[first])

    def last_label(self, bounds: Bounds) -> np.ndarray:
        """[Q] 1 or -1 (label 0) of the last labelled event, 0 without one."""
        first, last = (self._labelled[bound] for bound in bounds)
        return np.where(last > first, self._label[last - 1], 0)

    def last_row(self, bounds: Bounds) -> np.ndarray:
        """[Q] row of the last event, -1 without one."""
        begin, end = bounds
        return self._row[np.where(end > begin, end - 1, -1)]

    def recent(self, bounds: Bounds, number: int) -> tuple[np.ndarray, np.ndarray]:
        """[Q] labelled and positive events among the last `number` labelled ones."""
        first, last = (self._labelled[bound] for bound in bounds)
        first = np.maximum(first, last - number)
        return last - first, self._positive[last] - self._positive[first]
