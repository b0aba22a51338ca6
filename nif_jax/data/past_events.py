"""The events of all users in order of time, and how many of them came before a query.

Letters: P events, Q queries, n ids of items or scenes, M values of a feature.
"""

import copy
import itertools
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from nif_jax.data.groups import BLOCK, Counts, Groups, Ordered, pairs, sort_with_places
from nif_jax.data.schema import NO_LABEL


class Moments(NamedTuple):
    """Queries in order of how many events came before.

    Attributes:
      until: [Q] int32 how many events came before, in this order.
      order: [Q] places of the queries in this order.
      place: [Q] where each query is in this order.
    """

    until: np.ndarray
    order: np.ndarray
    place: np.ndarray


class PastEvents(Ordered):
    """Events in order of time, numbered from 0.

    Args of the constructor:
      time: [E] int64 seconds.
      label: [E] int8.
      event: [E] bool, rows of the store that are events.

    Attributes:
      row: [P] rows of the store.
      label: [P] int8.
    """

    def __init__(self, time: np.ndarray, label: np.ndarray, event: np.ndarray):
        row = np.flatnonzero(event)
        self._start = time[row].min(initial=np.iinfo(np.int64).max)
        self._seconds, order = sort_with_places(time[row] - self._start)
        self.row = row.take(order).astype(np.int32)
        self.label = label.take(self.row)
        super().__init__(self.label)

    def moments(self, time: np.ndarray, later: np.ndarray) -> Moments:
        """Of queries [Q] that see the events at seconds before `time`, or all where `later`."""
        early, late = np.flatnonzero(~later), np.flatnonzero(later)
        seconds, order = sort_with_places(np.maximum(time[early] - self._start, 0))
        until = np.full(len(time), len(self.row), np.int32)
        until[: len(early)] = np.searchsorted(self._seconds, seconds)
        order = np.append(early[order], late)
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        return Moments(until, order, place)

    def before(self, moments: Moments) -> Counts:
        """Events before each query, [Q]."""
        found = self.counts((np.zeros_like(moments.until), moments.until))
        return Counts(*(column.take(moments.place) for column in found))


class PastTotals:
    """PastEvents without the events, for queries that see all of them.

    Args of the constructor: counts [3], numbers of all events, labelled and positive ones.
    """

    def __init__(self, counts: np.ndarray):
        self.counts = counts

    def moments(self, time: np.ndarray, later: np.ndarray) -> Moments:
        """See PastEvents.moments; raises ValueError for a query that does not see all events."""
        if not later.all():
            raise ValueError("totals have no times: every query has to be after the train period")
        order = np.arange(len(time))
        return Moments(np.zeros(len(time), np.int32), order, order)

    def before(self, moments: Moments) -> Counts:
        """See PastEvents.before."""
        return Counts(*(np.full(len(moments.until), count, np.int32) for count in self.counts))


class PastValues:
    """Events of all users with each value of a feature.

    Args of the constructor:
      values: [n, M] int32 of each id, padded with 0.
      ids: [P] ids of the events in order of time.
      label: [P] int8.
    """

    def __init__(self, values: np.ndarray, ids: np.ndarray, label: np.ndarray):
        self._values, self._ids, self._label = values, ids, label
        self._largest = int(values.max(initial=0))
        of_id = np.bincount(_kind(label) * len(values) + ids, minlength=3 * len(values))
        self._total = self._none()
        for total, number in zip(self._total, of_id.reshape(3, -1, 1), strict=True):
            np.add.at(total, values, number)
        self._total[:, 0] = 0  # padding

    def before(self, ids: np.ndarray, moments: Moments) -> Counts:
        """Events before each query, [Q], once for each value that they have in common.

        Args:
          ids: [Q] ids of the queries in the order of moments.
          moments: see PastEvents.moments.
        """
        before = np.zeros((len(ids), len(Counts._fields)), np.int32)
        starts = range(0, len(self._ids), BLOCK)
        edges = np.searchsorted(moments.until, [*starts, len(self._ids)])
        total = self._none()  # of the blocks so far
        for begin, (first, end) in zip(starts, itertools.pairwise(edges), strict=True):
            if first == edges[-1]:
                break  # the other queries see all events
            block, queries = slice(begin, begin + BLOCK), slice(first, end)
            place, key = pairs(self._values.take(self._ids[block], axis=0))
            label = self._label[block].take(place)
            groups, until = Groups(key, place, label), moments.until[queries] - begin
            for value in self._wanted(ids[queries]):
                within = groups.counts(groups.bounds(np.where(value, value, -1), until))
                before[queries] += np.stack(_counts(total, value), axis=1)
                before[queries] += np.stack(within, axis=1)
            np.add.at(total.reshape(-1), _kind(label) * total.shape[1] + key, np.int32(1))
        last = slice(edges[-1], None)
        for value in self._wanted(ids[last]):
            before[last] += np.stack(_counts(self._total, value), axis=1)
        return Counts(*before.take(moments.place, axis=0).T)

    def with_rows(self, values: np.ndarray) -> "PastValues":
        """The same events, for queries of further ids, which have these values [n, M]. Values that
        no event could have are left out."""
        found = copy.copy(self)
        known = np.where(values < self._total.shape[1], values, 0).astype(np.int32)
        found._values = stacked(self._values, known)
        return found

    @property
    def totals(self) -> tuple[np.ndarray, np.ndarray]:
        """[n, M] values of each id, and [3, values] events of each value; see `of_totals`."""
        return self._values, self._total

    @classmethod
    def of_totals(cls, values: np.ndarray, total: np.ndarray) -> "PastValues":
        """PastValues without the events, for queries that see all of them; see `totals`."""
        none = np.zeros(0, np.int32)
        found = cls(np.zeros((1, 1), np.int32), none, none)
        found._values, found._total = values, total
        return found

    def _none(self) -> np.ndarray:
        """[3, values] int32 events of each value without a label, with 0 and with 1."""
        return np.zeros((3, 1 + self._largest), np.int32)

    def _wanted(self, ids: np.ndarray) -> Iterator[np.ndarray]:
        """M times [q] int64 values of some ids."""
        yield from self._values.take(ids, axis=0).T.astype(np.int64)


class Past(NamedTuple):
    """What count features read of all users.

    Attributes:
      values: feature -> [n, M] int32 of each id, padded with 0, in the order of the statistics.
      events: of all users.
      of_values: feature -> events with each value.
      first: [N] second of the first event of each item, or infinity.
    """

    values: dict[str, np.ndarray]
    events: PastEvents | PastTotals
    of_values: dict[str, PastValues]
    first: np.ndarray

    def arrays(self) -> dict[str, np.ndarray]:
        """What queries after the train period read, as plain arrays; see `of_arrays`."""
        events = self.events
        if isinstance(events, PastEvents):
            label = np.bincount(_kind(events.label), minlength=3)
            events = PastTotals(np.array([label.sum(), label[1:].sum(), label[2]]))
        found = {"past/first": self.first, "past/counts": events.counts}
        for name, values in self.values.items():
            known, total = self.of_values[name].totals
            found |= {f"values/{name}": values, f"known/{name}": known, f"total/{name}": total}
        return found

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "Past":
        """The inverse of `arrays`, which keep their order."""
        names = [name.removeprefix("values/") for name in arrays if name.startswith("values/")]
        return cls(
            {name: arrays[f"values/{name}"] for name in names},
            PastTotals(arrays["past/counts"]),
            {n: PastValues.of_totals(arrays[f"known/{n}"], arrays[f"total/{n}"]) for n in names},
            arrays["past/first"],
        )


def stacked(values: np.ndarray, more: np.ndarray) -> np.ndarray:
    """[m + n, M] values of ids [m, M1] and of further ids [n, M2], padded with 0."""
    width = max(values.shape[1], more.shape[1])
    parts = (np.pad(part, ((0, 0), (0, width - part.shape[1]))) for part in (values, more))
    return np.concatenate(list(parts))


def _kind(label: np.ndarray) -> np.ndarray:
    """Row of a label in totals."""
    return (label - NO_LABEL).astype(np.int64)


def _counts(total: np.ndarray, value: np.ndarray) -> Counts:
    """Events with each value [q]."""
    unlabelled, negative, positive = (part.take(value) for part in total)
    return Counts(unlabelled + negative + positive, negative + positive, positive)
