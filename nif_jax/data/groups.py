"""Events in groups of equal keys, and how many of a group come before a place.

Letters: P events with a key, Q queries.
"""

from typing import NamedTuple

import numpy as np

from nif_jax.data.schema import NO_LABEL


class Counts(NamedTuple):
    """Events of a group before a query: [Q] each.

    Attributes:
      events: number of events.
      labelled: number of events with a label.
      positive: number of events with label 1.
      last_label: 1, -1 (label 0), or 0 without a labelled event.
      last_row: row of the last event, -1 without one.
    """

    events: np.ndarray
    labelled: np.ndarray
    positive: np.ndarray
    last_label: np.ndarray
    last_row: np.ndarray


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
        key = key[order]
        begin = np.flatnonzero(np.append(True, key[1:] != key[:-1])[: len(key)])
        size = np.diff(np.append(begin, len(key)))
        self._keys = key[begin]
        self._begin, self._end = (np.append(x, 0) for x in (begin, begin + size))
        self._ranks = int(rank.max(initial=-1)) + 1
        # Group and rank as one sorted number: one search finds a place in a group.
        self._place = np.repeat(np.arange(len(begin)), size) * (self._ranks + 1) + rank[order]
        self._row, label = row[order], label[order]
        known = label != NO_LABEL
        self._labelled = np.append(0, np.cumsum(known))  # [P + 1] labels before each place
        self._positive = np.append(0, np.cumsum(label[known] == 1))  # [C + 1] by label
        self._label = np.append(np.where(label[known] == 1, 1, -1), 0)

    def bounds(self, key: np.ndarray, rank: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """[Q] begin and end of a group's events whose rank is smaller than a query's."""
        group = np.searchsorted(self._keys, key)
        found = np.append(self._keys, -1)[group] == key
        group = np.where(found, group, len(self._keys))
        end = np.searchsorted(
            self._place, group * (self._ranks + 1) + np.minimum(rank, self._ranks)
        )
        return self._begin[group], np.where(found, end, 0)

    def before(self, key: np.ndarray, rank: np.ndarray) -> Counts:
        """Counts of the group `key` [Q] before `rank` [Q]."""
        begin, end = self.bounds(key, rank)
        first, last = self._labelled[begin], self._labelled[end]
        return Counts(
            events=end - begin,
            labelled=last - first,
            positive=self._positive[last] - self._positive[first],
            last_label=np.where(last > first, self._label[last - 1], 0),
            last_row=np.where(end > begin, np.append(self._row, -1)[end - 1], -1),
        )

    def recent(self, key: np.ndarray, rank: np.ndarray, number: int) -> tuple:
        """[Q] labelled and positive events among the last `number` labelled ones before `rank`."""
        first, last = (self._labelled[bound] for bound in self.bounds(key, rank))
        first = np.maximum(first, last - number)
        return last - first, self._positive[last] - self._positive[first]
