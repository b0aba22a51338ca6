"""Count features: what earlier events say about a user, an item and their features.

Counts and positive rates of the user, the item, each item feature and the scene, and of the user
with each of them. All are read from events before the row (Counters), so a row's own label and
later labels change none of them. The papers leave them out; every production ranker has them.

Two kinds of groups are counted:

* A user's own events, up to the row (rolling) or up to the split (cut), as for histories.
* Events of all users in the train period: for a train row those at strictly earlier seconds, for
  a later row all of them.

Letters: E events, Q queries, F statistics, M values of a feature, G groups.
"""

import concurrent.futures
import dataclasses
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from scipy.special import logit

from nif_jax.data.groups import Counts, Groups

USER_PRIOR, PAIR_PRIOR, ITEM_PRIOR = 3.0, 2.0, 5.0
"""Events at the expected rate that are added to each count of a user, of a user with a value, and
of a value: rates of few events stay near the rate that they are a part of."""
RECENT = (5, 20)
"""Numbers of last labels whose positive rate is a statistic of the user."""
LIMIT = 10.0
"""Standardised values are cut off at this many standard deviations."""
NOT_COUNTED = ("title",)
"""Item features whose values are too many for an item."""
MIN_STD = 1e-6
THREADS = 4
"""NumPy's sorts and searches run side by side in threads."""
DAY = 24 * 3600


class Queries(NamedTuple):
    """What statistics are computed for; every column has one entry a query.

    Attributes:
      user: [Q] int, user of the store.
      row: [Q] int64, the user's events before this row of the store are seen.
      time: [Q] int64 seconds.
      item: [Q] int32 in 1..N.
      scene: [Q] int32 in 1..S.
      later: [Q] bool, the query is after the train period, so all of train is before it.
      order_only: [Q] bool, see Movelines.
    """

    user: np.ndarray
    row: np.ndarray
    time: np.ndarray
    item: np.ndarray
    scene: np.ndarray
    later: np.ndarray
    order_only: np.ndarray | None = None


def known_times(time: np.ndarray, order_only: np.ndarray | None) -> np.ndarray:
    """Times as float64, NaN where only the order is known: what is computed from them is NaN."""
    return time.astype(np.float64) if order_only is None else np.where(order_only, np.nan, time)


class Counters:
    """The events of a store, grouped in every way that statistics need.

    Args of the constructor:
      user, item, scene: [E] int32, rows sorted by (user, time).
      time: [E] int64 seconds.
      label: [E] int8, the labels that statistics may read, else NO_LABEL.
      event: [E] bool, False for a sampled negative, which nobody has met.
      train: [E] bool, events of the train period.
      features: name -> [N + 1, M] int32 of the items, padded with 0.
      order_only: [E] bool, see Movelines.
    """

    def __init__(
        self, user, item, scene, time, label, event, train, features: Mapping, order_only=None
    ):
        self._time = known_times(time, order_only)
        self._values = {"item": np.arange(1 + int(item.max()))[:, None]} | {
            name: ids for name, ids in features.items() if name not in NOT_COUNTED
        }
        self._scene_values = np.arange(1 + int(scene.max()))[:, None]
        own = np.flatnonzero(event)
        self._start = time.min() if len(time) else 0
        self._user = Groups(user[own].astype(np.int64), own, own, label[own])
        used = np.flatnonzero(event & train)
        seconds = time - self._start
        self._all = Groups(np.zeros(len(used), np.int64), seconds[used], used, label[used])
        self._first = np.full(len(self._values["item"]), np.inf)
        np.fmin.at(self._first, item[used], self._time[used])

        def groups(name: str) -> tuple[Groups, Groups]:
            values = self._scene_values if name == "scene" else self._values[name]
            ids = scene if name == "scene" else item
            row, value = _pairs(values, ids, used)
            of_value = Groups(value, seconds[row], row, label[row])
            row, value = _pairs(values, ids, own)
            key = user[row].astype(np.int64) * (1 + int(values.max(initial=0))) + value
            return of_value, Groups(key, row, row, label[row])

        names = (*self._values, "scene")
        with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
            self._groups = dict(zip(names, pool.map(groups, names), strict=True))

    def columns(self, queries: Queries) -> Iterator[tuple[str, np.ndarray]]:
        """Yields (name, [Q] float) of each statistic; NaN where there is nothing to count from.

        Rates are log odds, and counts and times are log(1 + x).
        """
        seconds = np.where(queries.later, np.iinfo(np.int32).max, queries.time - self._start)
        user = queries.user.astype(np.int64)
        every = self._all.counts(self._all.bounds(np.zeros_like(user), seconds))
        prior = ((every.positive + 1.0) / (every.labelled + 2.0)).astype(np.float32)
        bounds = self._user.bounds(user, queries.row)
        own = self._user.counts(bounds)
        rate = _smooth(own.positive, own.labelled, prior, USER_PRIOR)
        yield "user events", _log1p(own.events)
        yield "user rate", logit(rate)
        time = known_times(queries.time, queries.order_only)
        yield "user seconds since", self._since(self._user.last_row(bounds), time)
        for number in RECENT:
            labelled, positive = self._user.recent(bounds, number)
            yield f"user rate of last {number}", logit(_smooth(positive, labelled, rate, 1.0))
        with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:

            def of(name: str) -> list:
                return list(self._of(name, queries, time, user, seconds, prior, rate))

            for found in pool.map(of, (*self._values, "scene")):
                yield from found
        first = self._first[queries.item]
        yield "item age", _log1p(np.where(first < time, time - first, np.nan))
        angle = 2 * np.pi * (time % DAY) / DAY
        yield "hour sine", np.sin(angle)
        yield "hour cosine", np.cos(angle)

    def _of(self, name, queries: Queries, time, user, seconds, prior, rate):
        """Statistics of one feature's values, and of the user with them."""
        ids = queries.scene if name == "scene" else queries.item
        values = self._scene_values if name == "scene" else self._values[name]
        of_value, of_pair = self._groups[name]
        found = values[ids].astype(np.int64)  # [Q, M]
        value = _pooled([of_value.counts(of_value.bounds(key, seconds)) for key in found.T])
        yield f"{name} events", _log1p(value.events)
        smoothed = _smooth(value.positive, value.labelled, prior, ITEM_PRIOR)
        yield f"{name} rate", logit(smoothed)
        keys = np.where(found, user[:, None] * (1 + int(values.max(initial=0))) + found, -1)
        bounds = [of_pair.bounds(key, queries.row) for key in keys.T]
        pair = _pooled([of_pair.counts(bound) for bound in bounds])
        last_rows = np.stack([of_pair.last_row(bound) for bound in bounds])  # [M, Q]
        last_labels = np.stack([of_pair.last_label(bound) for bound in bounds])
        last_row = last_rows.max(0)
        last_label = np.take_along_axis(last_labels, last_rows.argmax(0)[None], 0)[0]
        yield f"user and {name} events", _log1p(pair.events)
        smoothed = _smooth(pair.positive, pair.labelled, rate, PAIR_PRIOR)
        yield f"user and {name} rate", logit(smoothed)
        yield f"user and {name} last label", last_label.astype(np.float32)
        yield f"user and {name} seconds since", self._since(last_row, time)
        between = np.where(last_row < 0, np.nan, queries.row - last_row)
        yield f"user and {name} events since", _log1p(between)

    def _since(self, row: np.ndarray, time: np.ndarray) -> np.ndarray:
        seconds = np.maximum(time - self._time[row], 0)
        return np.where(row < 0, np.nan, _log1p(seconds))


def _pairs(values: np.ndarray, ids: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[P] row and value of each value of the rows' items (or scenes)."""
    found = values[ids[rows]]
    place, slot = np.nonzero(found)
    return rows[place], found[place, slot].astype(np.int64)


def _pooled(parts: list[Counts]) -> Counts:
    """Sums over the values of a feature."""
    if len(parts) == 1:
        return parts[0]
    return Counts(*(np.sum(columns, axis=0) for columns in zip(*parts, strict=True)))


def _smooth(positive, labelled, expected, prior: float) -> np.ndarray:
    """Posterior mean of a rate under a Beta prior at `expected` that weighs `prior` events."""
    return (positive + np.float32(prior) * expected) / (labelled + np.float32(prior))


def _log1p(count: np.ndarray) -> np.ndarray:
    """[Q] float32, which is exact enough for what is kept as float16, and twice as fast."""
    return np.log1p(count.astype(np.float32))


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Statistics of any query, standardised on train rows.

    Attributes:
      counters: what they are computed from.
      names: F names.
      mean: [F] of the train rows.
      std: [F], 0 for a statistic that has one value in train: it is 0 everywhere.
    """

    counters: Counters
    names: tuple[str, ...]
    mean: np.ndarray
    std: np.ndarray

    def values(self, queries: Queries) -> np.ndarray:
        """[Q, F] float16."""
        columns = (column for _, column in self.counters.columns(queries))
        return np.stack(list(map(_standardised, columns, self.mean, self.std)), axis=1)


def fit(counters: Counters, queries: Queries, fitted: np.ndarray) -> tuple[Statistics, np.ndarray]:
    """Statistics whose mean is 0 and standard deviation 1 over some queries, and those of all.

    Args:
      counters: of the store.
      queries: Q of them.
      fitted: [n] places of the queries to standardise on.
    """
    names: list[str] = []
    means: list[float] = []
    stds: list[float] = []
    parts: list[np.ndarray] = []
    for name, column in counters.columns(queries):
        seen = column[fitted]
        seen = seen[~np.isnan(seen)]
        mean, std = (float(seen.mean()), float(seen.std())) if len(seen) else (0.0, 0.0)
        std = std if std > MIN_STD else 0.0
        parts.append(_standardised(column, mean, std))
        names.append(name)
        means.append(mean)
        stds.append(std)
    statistics = Statistics(counters, tuple(names), np.array(means), np.array(stds))
    return statistics, np.stack(parts, axis=1)


def _standardised(column: np.ndarray, mean: float, std: float) -> np.ndarray:
    """[Q] float16: two bytes a number are exact enough, and a store has many."""
    scaled = (column - mean) / std if std else np.zeros(len(column))
    return np.clip(np.nan_to_num(scaled), -LIMIT, LIMIT).astype(np.float16)
