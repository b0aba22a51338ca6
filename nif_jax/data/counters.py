"""Count features: what earlier events say about a user, an item and their features.

Counts and positive rates of the user, the item, each item feature and the scene, and of the user
with each of them. All are read from events before the row (Counters), so a row's own label and
later labels change none of them. The papers leave them out; every production ranker has them.

Two kinds of groups are counted:

* A user's own events, up to the row (rolling) or up to the split (cut), as for histories.
* Events of all users in the train period: for a train row those at strictly earlier seconds, for
  a later row all of them.

Letters: E events, Q queries, M values of a feature.
"""

import concurrent.futures
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from nif_jax.data import rates
from nif_jax.data.groups import Bounds, in_blocks
from nif_jax.data.own_events import Block, OwnEvents
from nif_jax.data.past_events import Moments, Past, PastEvents, PastTotals, PastValues, stacked

USER_PRIOR, PAIR_PRIOR, ITEM_PRIOR = 3.0, 2.0, 5.0
"""Events at the expected rate that are added to each count of a user, of a user with a value, and
of a value: rates of few events stay near the rate that they are a part of."""
RECENT = (5, 20)
"""Numbers of last labels whose positive rate is a statistic of the user."""
NOT_COUNTED = ("title",)  # item features whose values are too many for an item
THREADS, FEW = 2, 10_000
"""NumPy's sorts and searches run side by side in threads, each with about 40 bytes a query. Fewer
than FEW queries take less time than threads take to start."""
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

    def ids(self, name: str) -> np.ndarray:
        """[Q] ids that have the values of a feature."""
        return self.scene if name == "scene" else self.item


class _Seen(NamedTuple):
    """What several statistics of queries read.

    Attributes:
      queries: Q of them.
      time: [Q], see known_times.
      moments: their order in time.
      bounds: of the user's events.
      blocks: of users.
      prior: [Q] float32 positive rate of all events so far.
      rate: [Q] float64 positive rate of the user.
    """

    queries: Queries
    time: np.ndarray
    moments: Moments
    bounds: Bounds
    blocks: Sequence[Block]
    prior: np.ndarray
    rate: np.ndarray


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
        self._time = rates.known_times(time, order_only)
        # An item may have features and no event.
        items = max([1 + int(item.max()), *(len(ids) for ids in features.values())])
        self._values = {"item": np.arange(items, dtype=np.int32)[:, None]} | {
            name: ids for name, ids in features.items() if name not in NOT_COUNTED
        }
        self._values["scene"] = np.arange(1 + int(scene.max()), dtype=np.int32)[:, None]
        self._ids = {name: scene if name == "scene" else item for name in self._values}
        self._own = OwnEvents(user, label, event)
        used = event & train
        events = PastEvents(time, label, used)
        self._past: PastEvents | PastTotals = events
        self._first = np.full(len(self._values["item"]), np.inf)
        np.fmin.at(self._first, item[used], self._time[used])

        past_ids = {of: ids.take(events.row) for of, ids in (("item", item), ("scene", scene))}

        def past(name: str) -> PastValues:
            ids = past_ids["scene" if name == "scene" else "item"]
            return PastValues(self._values[name], ids, events.label)

        with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
            self._past_values = dict(zip(self._values, pool.map(past, self._values), strict=True))

    @classmethod
    def of_past(cls, past: Past) -> "Counters":
        """What `past` gives, without a store: only with_movelines makes queries of it possible."""
        found = cls.__new__(cls)
        found._values, found._past, found._past_values, found._first = past
        return found

    @property
    def past(self) -> Past:
        """What queries read of all users."""
        return Past(self._values, self._past, self._past_values, self._first)

    def with_movelines(self, user, item, scene, time, label, event, order_only=None) -> "Counters":
        """The same past of all users, with other movelines: `user` and `row` of queries count in
        them. Arguments [E] as in the constructor."""
        found = copy.copy(self)
        found._time = rates.known_times(time, order_only)
        found._ids = {name: scene if name == "scene" else item for name in self._values}
        found._own = OwnEvents(user, label, event)
        return found

    def with_items(
        self, features: Mapping[str, np.ndarray], named: np.ndarray, first: int
    ) -> "Counters":
        """Knows more items, which have no event in the past.

        Args:
          features: name -> [n, M] int32 of each further item, padded with 0.
          named: [n] bool; a user's events with an item that is not named are not counted, because
            it may be several.
          first: number of the first of them.
        """
        found, known = copy.copy(self), len(self._values["item"])
        own = np.arange(known, first + len(named), dtype=np.int32)  # some may have had no event
        own[first - known :] *= named
        values = {name: ids for name, ids in features.items() if name in self._values}
        past = values | {"item": np.zeros((len(own), 1), np.int32)}
        values |= {"item": own[:, None]}
        found._values = self._values | {n: stacked(self._values[n], v) for n, v in values.items()}
        found._past_values = self._past_values | {
            name: self._past_values[name].with_rows(ids) for name, ids in past.items()
        }
        found._first = np.append(self._first, np.full(len(own), np.inf))
        return found

    def columns(
        self, queries: Queries, change: Callable[[str, np.ndarray], Any] = lambda _, column: column
    ) -> Iterator[tuple[str, Any]]:
        """Yields (name, change(name, column)) of each statistic.

        Rates are log odds, and counts and times are log(1 + x).

        Args:
          queries: Q.
          change: a function of the name and the column, [Q] float with NaN where there is nothing
            to count from. It may be called in threads.
        """
        seen = self._seen(queries)
        parts = [self._of_user(seen)]
        for name in self._values:
            parts += [self._of_value(name, seen), self._of_user_and_value(name, seen)]
        parts.append(self._of_time(seen))

        def changed(part: Iterator[tuple[str, np.ndarray]]) -> list[tuple[str, Any]]:
            return [(name, change(name, column)) for name, column in part]

        few = len(queries.row) < FEW
        with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:  # starts no thread by itself
            for found in map(changed, parts) if few else pool.map(changed, parts):
                yield from found

    def _seen(self, queries: Queries) -> _Seen:
        moments = self._past.moments(queries.time, queries.later)
        every = self._past.before(moments)
        prior = ((every.positive + 1.0) / (every.labelled + 2.0)).astype(np.float32)
        bounds = self._own.bounds(queries.user, queries.row)
        own = self._own.counts(bounds)
        rate = rates.smooth(own.positive, own.labelled, prior, USER_PRIOR)
        time = rates.known_times(queries.time, queries.order_only)
        return _Seen(queries, time, moments, bounds, self._own.blocks(queries.user), prior, rate)

    def _of_user(self, seen: _Seen) -> Iterator[tuple[str, np.ndarray]]:
        yield "user events", rates.log1p(self._own.counts(seen.bounds).events)
        yield "user rate", in_blocks(rates.log_odds, seen.rate)
        yield "user seconds since", self._since(self._own.last_row(seen.bounds), seen.time)
        for number in RECENT:
            labelled, positive = self._own.recent(seen.bounds, number)
            rate = rates.smoothed_log_odds(positive, labelled, seen.rate, 1.0)
            yield f"user rate of last {number}", rate

    def _of_value(self, name: str, seen: _Seen) -> Iterator[tuple[str, np.ndarray]]:
        ids = seen.queries.ids(name).take(seen.moments.order)
        value = self._past_values[name].before(ids, seen.moments)
        yield f"{name} events", rates.log1p(value.events)
        rate = rates.smoothed_log_odds(value.positive, value.labelled, seen.prior, ITEM_PRIOR)
        yield f"{name} rate", rate

    def _of_user_and_value(self, name: str, seen: _Seen) -> Iterator[tuple[str, np.ndarray]]:
        ids, end = seen.queries.ids(name), seen.bounds[1]
        met = self._own.with_values(self._values[name], self._ids[name], ids, end, seen.blocks)
        yield f"user and {name} events", rates.log1p(met.counts.events)
        positive, labelled = met.counts.positive, met.counts.labelled
        rate = rates.smoothed_log_odds(positive, labelled, seen.rate, PAIR_PRIOR)
        yield f"user and {name} rate", rate
        yield f"user and {name} last label", met.last_label.astype(np.float32)
        yield f"user and {name} seconds since", self._since(met.last_row, seen.time)
        between = np.where(met.last_row < 0, np.nan, seen.queries.row - met.last_row)
        yield f"user and {name} events since", rates.log1p(between)

    def _of_time(self, seen: _Seen) -> Iterator[tuple[str, np.ndarray]]:
        first, time = self._first[seen.queries.item], seen.time
        yield "item age", rates.log1p(np.where(first < time, time - first, np.nan))
        angle = 2 * np.pi * (time % DAY) / DAY
        yield "hour sine", np.sin(angle)
        yield "hour cosine", np.cos(angle)

    def _since(self, row: np.ndarray, time: np.ndarray) -> np.ndarray:
        def since(row: np.ndarray, time: np.ndarray) -> np.ndarray:
            seconds = np.maximum(time - self._time.take(row), 0)
            return np.where(row < 0, np.nan, rates.log1p(seconds))

        return in_blocks(since, row, time)
