"""Events in an order and in groups of equal keys, and how many lie between bounds.

Letters: P events with a key, C those with a label, Q queries.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from nif_jax.data.schema import NO_LABEL

Bounds = tuple[np.ndarray, np.ndarray]
"""[Q] begin and end of events that lie one behind the other."""
INT64_BITS, LABEL_BITS = 63, 2
BLOCK = 1 << 16
"""Events that are counted at a time, about: their arrays stay in the processor's cache."""


class Counts(NamedTuple):
    """Events of a query, [Q] each: all, those with a label, those with label 1."""

    events: np.ndarray
    labelled: np.ndarray
    positive: np.ndarray


def no_counts(queries: int) -> Counts:
    """Of each of some queries, to be added to."""
    return Counts(*(np.zeros(queries, np.int32) for _ in Counts._fields))


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
        first, last = self._labelled.take(begin), self._labelled.take(end)
        positive = self._positive.take(last) - self._positive.take(first)
        return Counts(end - begin, last - first, positive)

    def last_label(self, bounds: Bounds) -> np.ndarray:
        """[Q] int8, 1 or -1 (label 0) of the last labelled event, 0 without one."""
        first, last = (self._labelled.take(bound) for bound in bounds)
        return self._label.take(np.where(last > first, last - 1, -1))

    def recent(self, bounds: Bounds, number: int) -> tuple[np.ndarray, np.ndarray]:
        """[Q] labelled and positive events among the last `number` labelled ones."""
        first, last = (self._labelled.take(bound) for bound in bounds)
        first = np.maximum(first, last - number)
        return last - first, self._positive.take(last) - self._positive.take(first)


class Groups(Ordered):
    """Numbered events in groups of equal keys.

    Args of the constructor:
      key: [P] int64 from 0.
      number: [P] int64 from 0.
      label: [P] int8.

    Raises:
      ValueError: keys and numbers are too large for one int64.
    """

    def __init__(self, key: np.ndarray, number: np.ndarray, label: np.ndarray):
        self._bits = (1 + int(number.max(initial=0))).bit_length()
        bits = int(key.max(initial=0)).bit_length() + self._bits + LABEL_BITS
        if bits > INT64_BITS:
            raise ValueError(
                f"The largest key, {key.max()}, and number, {number.max()}, take {bits} bits, "
                f"more than the {INT64_BITS} that are sorted. Number the keys without gaps."
            )
        # Key, number and label as one number: to sort numbers takes a tenth of the time that it
        # takes to sort places by them.
        code = np.sort(((key << self._bits) + number << LABEL_BITS) + (label - NO_LABEL))
        super().__init__((code & (1 << LABEL_BITS) - 1).astype(np.int8) + np.int8(NO_LABEL))
        # [P + 1] key and number. The last entry stands for no event.
        self._place = np.append(code >> LABEL_BITS, np.iinfo(np.int64).min)
        begin = np.flatnonzero(np.diff(self._place >> self._bits, prepend=-1))
        # [P + 1] where the group of each event begins.
        self._begin = np.repeat(begin, np.diff(begin, append=len(self._place)))

    def bounds(self, key: np.ndarray, number: np.ndarray) -> Bounds:
        """The events of group `key` [Q] int64 before `number` [Q]; none of a key below 0."""
        at = (key << self._bits) + np.minimum(number, (1 << self._bits) - 1)
        # A search for sorted numbers is several times as fast.
        at, order = sort_with_places(np.maximum(at, 0))
        end = np.empty(len(key), np.int64)
        end[order] = np.searchsorted(self._place[:-1], at)
        last = end - 1
        exists = self._place.take(last) >> self._bits == key
        return np.where(exists, self._begin.take(last), end), end

    def last_number(self, bounds: Bounds) -> np.ndarray:
        """[Q] number of the last event, -1 without one."""
        begin, end = bounds
        number = self._place.take(end - 1) & (1 << self._bits) - 1
        return np.where(end > begin, number, -1)


def pairs(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[p] row and int64 value of each value of [n, M], which are padded with 0."""
    flat = np.flatnonzero(values)
    return flat // values.shape[1], values.reshape(-1).take(flat).astype(np.int64)


def sort_with_places(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[n] int64 from 0 in order, and the place that each had. They are sorted as one number where
    they fit, in a fifth of the time of argsort."""
    bits = len(numbers).bit_length()
    if int(numbers.max(initial=0)).bit_length() + bits > INT64_BITS:
        order = np.argsort(numbers)
        return numbers[order], order
    packed = np.sort((numbers << bits) + np.arange(len(numbers)))
    return packed >> bits, packed & (1 << bits) - 1


def in_blocks(function: Callable[..., np.ndarray], *columns: np.ndarray) -> np.ndarray:
    """function(*columns) of [n] columns, for a function of each element alone: what it allocates
    stays in the cache."""
    if len(columns[0]) <= BLOCK:
        return function(*columns)
    first = function(*(column[:BLOCK] for column in columns))
    whole = np.empty(len(columns[0]), first.dtype)
    whole[:BLOCK] = first
    for begin in range(BLOCK, len(whole), BLOCK):
        block = slice(begin, begin + BLOCK)
        whole[block] = function(*(column[block] for column in columns))
    return whole
