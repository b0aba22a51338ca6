"""Events in groups of equal keys, and how many of a group come before a place.

Letters: P events with a key, C those with a label, Q queries.
"""

from typing import NamedTuple

import numpy as np

from nif_jax.data.schema import NO_LABEL

Bounds = tuple[np.ndarray, np.ndarray]
"""[Q] begin and end of the events of a group that come before a query."""
LABEL_BITS = 2


class Counts(NamedTuple):
    """Events of a group before a query, [Q] each: all, those with a label, those with label 1."""

    events: np.ndarray
    labelled: np.ndarray
    positive: np.ndarray


class Ordered:
    """Labels of events in an order, counted between bounds.

    Args of the constructor: label [P] int8.
    """

    def __init__(self, label: np.ndarray):
        known = label != NO_LABEL
        # [P + 1] labels before each place, and [C + 1] positive ones before each label.
        self._labelled = np.append(np.int32(0), np.cumsum(known, dtype=np.int32))
        positive = label[known] == 1
        self._positive = np.append(np.int32(0), np.cumsum(positive, dtype=np.int32))
        # The last entry stands for no label.
        self._label = np.append(2 * positive.astype(np.int8) - np.int8(1), np.int8(0))

    def counts(self, bounds: Bounds) -> Counts:
        """How many events there are."""
        begin, end = bounds
        first, last = self._labelled[begin], self._labelled[end]
        return Counts(end - begin, last - first, self._positive[last] - self._positive[first])

    def last_label(self, bounds: Bounds) -> np.ndarray:
        """[Q] int8, 1 or -1 (label 0) of the last labelled event, 0 without one."""
        first, last = (self._labelled[bound] for bound in bounds)
        return self._label[np.where(last > first, last - 1, -1)]

    def recent(self, bounds: Bounds, number: int) -> tuple[np.ndarray, np.ndarray]:
        """[Q] labelled and positive events among the last `number` labelled ones."""
        first, last = (self._labelled[bound] for bound in bounds)
        first = np.maximum(first, last - number)
        return last - first, self._positive[last] - self._positive[first]


class Groups(Ordered):
    """Events in groups of equal keys, each group in order of a rank.

    Args of the constructor:
      key: [P] int64 from 0.
      rank: [P] int64 from 0.
      label: [P] int8.

    Raises:
      ValueError: keys and ranks are too large for one int64.
    """

    def __init__(self, key: np.ndarray, rank: np.ndarray, label: np.ndarray):
        self._bits = int(rank.max(initial=0)).bit_length()
        bits = int(key.max(initial=0)).bit_length() + self._bits + LABEL_BITS
        if bits > 63:
            raise ValueError(
                f"The largest key, {key.max()}, and rank, {rank.max()}, take {bits} bits, more "
                "than the 63 of a sorted number. Number keys and ranks without gaps."
            )
        # Key, rank and label as one number: it takes a tenth of the time to sort numbers as to
        # sort places by them.
        code = np.sort(((key << self._bits) + rank << LABEL_BITS) + label - NO_LABEL)
        super().__init__((code & (1 << LABEL_BITS) - 1).astype(np.int8) + np.int8(NO_LABEL))
        # [P + 1] key and rank. The last entry stands for no event.
        self._place = np.append(code >> LABEL_BITS, np.iinfo(np.int64).min)
        begin = np.flatnonzero(np.diff(self._place >> self._bits, prepend=-1))
        # [P + 1] where the group of each event begins.
        self._begin = np.repeat(begin.astype(np.int32), np.diff(begin, append=len(code) + 1))

    def bounds(self, key: np.ndarray, rank: np.ndarray) -> Bounds:
        """The events of group `key` [Q] int64 whose rank is smaller than `rank` [Q]."""
        at = (key << self._bits) + np.minimum(rank, 1 << self._bits)
        order = np.argsort(at)  # a search for sorted numbers is several times as fast
        end = np.empty(len(at), np.int32)
        end[order] = np.searchsorted(self._place[:-1], at[order])
        before = end - 1
        exists = self._place[before] >> self._bits == key
        return np.where(exists, self._begin[before], end), end

    def last_rank(self, bounds: Bounds) -> np.ndarray:
        """[Q] rank of the last event, -1 without one."""
        begin, end = bounds
        rank = self._place[end - 1] & (1 << self._bits) - 1
        return np.where(end > begin, rank, -1)
