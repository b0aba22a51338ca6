"""Sampled negatives: for data that says what was bought, and not what was seen and left.

For each event with label 1, n impressions with label 0 of items that the user has not bought, with
the user, scene and second of the event. An item is drawn with probability proportional to how often
it was bought within a window around that second, to the power 3/4: an impression at Christmas shows
Christmas goods, else the season alone would tell bought items from drawn ones.

The window extends as far after the event as before it, and across the cuts between periods. With
past events only, an item at its first event would be a certain positive, since it is never drawn
before. The same would hold of new items if the window were long compared with the lives of items:
it would draw old items beside new positives. `window_seconds` therefore derives its length from the
log, such that drawn items are new as often as bought ones. The window says what was on offer. It is
the same for all models, and models see it through the rows they are trained and tested on only.

Sampled rows stand right before their event and never in a history, so their history is the event's.
"""

import dataclasses
from typing import Any

import numpy as np
from absl import logging

from nif_jax.data.schema import ConfigError, Movelines, require_choice

DAY = 86_400
LONGEST = 7 * DAY
"""Seconds before and after an event that a derived window extends at most: seasons are longer."""
POWER = 0.75
TOLERANCE = 0.02
"""Largest difference between the shares of new items among bought and drawn ones."""
_CUTS = (0.5, 0.6, 0.7, 0.8, 0.9)  # quantiles of time after which an item counts as new
_HALVINGS = 16  # of LONGEST: down to 9 seconds
_EXAMPLES = 20_000  # positives whose windows are compared
_ROUNDS = 40  # of drawing again what may not be drawn, before what is left is drawn exactly


def sample_negatives(
    movelines: Movelines, count: int, exclude: str, seed: int, days: float = 0.0
) -> tuple[Movelines, np.ndarray]:
    """The store with sampled negatives in it.

    Args:
      movelines: the store.
      count: n, negatives of each event with label 1; 0 = none.
      exclude: which items are not drawn for a user: "user", whatever has a label 1 of this user at
        any time, or "basket", what has one at the same second. With "user" an item in the history
        is a certain positive; with "basket" buying again is to be predicted too.
      seed: of the draws: the rows are the same for all models.
      days: that the window extends before and after an event; 0 = derived, see `window_seconds`.

    Returns:
      The store, with counts["sampled_negatives"] and counts["without_negatives"] (events for which
      their window offers nothing that may be drawn), and source [E'] int64: the row of the given
      store that each row is, or that it was drawn for.

    Raises:
      ConfigError: for a negative count or window, or an unknown choice.
    """
    require_choice("data.negatives_exclude", exclude, ("user", "basket"))
    if count < 0:
        raise ConfigError(f"config.data.negatives={count} is negative; 0 = none.")
    if days < 0:
        raise ConfigError(f"config.data.negatives_days={days} is negative; 0 = from the log.")
    if not count:
        return movelines, np.arange(movelines.num_events, dtype=np.int32)
    positive = np.flatnonzero(movelines.label == 1)
    group = movelines.user.astype(np.int64)
    if exclude == "basket":
        second = movelines.time - movelines.time.min()
        _, group = np.unique(group * (second.max() + 1) + second, return_inverse=True)
    size = movelines.num_items + 1
    taken = np.unique(group[positive] * size + movelines.item[positive])
    row = np.repeat(positive, count)
    pool = _Pool(movelines)
    reach = round(days * DAY) if days else window_seconds(pool, seed)
    item = _draw(pool, reach, row, group[row] * size, taken, np.random.default_rng(seed))
    found = item > 0
    row, item = row[found], item[found]
    where = {"item": item, "label": np.int8(0)}
    # np.insert puts values before the given row.
    columns: dict[str, Any] = {
        name: np.insert(
            getattr(movelines, name), row, where.get(name, getattr(movelines, name)[row])
        )
        for name in ("item", "scene", "action", "time", "label", "period", "order_only")
        if getattr(movelines, name) is not None
    }
    added = np.bincount(movelines.user[row], minlength=movelines.num_users)
    without = len(np.setdiff1d(positive, row))
    logging.info(
        "%s: %d negatives of %d positives, of items bought within %.3g days before or after%s; %d "
        "positives have none",
        movelines.name,
        len(row),
        len(positive),
        reach / DAY,
        "" if days else " (derived; config.data.negatives_days sets it)",
        without,
    )
    counts = {"sampled_negatives": len(row), "without_negatives": without}
    store = dataclasses.replace(
        movelines,
        **columns,
        user_offsets=movelines.user_offsets + np.append(0, np.cumsum(added)),
        counts=dict(movelines.counts) | counts,
    )
    return store, np.insert(np.arange(movelines.num_events), row, row)


class _Pool:
    """The events with label 1 of a store, by time.

    Attributes:
      time, item, user: [P] of the events, in order of time.
      first: [N + 1] time of an item's first event of any label.
    """

    def __init__(self, movelines: Movelines):
        positive = np.flatnonzero(movelines.label == 1)
        self._start = movelines.time.min()
        order = positive[np.argsort(movelines.time[positive], kind="stable")]
        self.lines, self.user = movelines, movelines.user[order]
        self.item = movelines.item[order].astype(np.int64)
        self.time = movelines.time[order] - self._start
        self.first = np.full(movelines.num_items + 1, np.iinfo(np.int64).max)
        np.minimum.at(self.first, movelines.item, movelines.time - self._start)
        self._span = 2 * (int(movelines.time.max() - self._start) + 1)
        self._by_item = np.sort(self.item * self._span + self.time)

    def time_of(self, row: np.ndarray) -> np.ndarray:
        """[R] seconds since the first event of the log."""
        return self.lines.time[row] - self._start

    def bounds(self, time: np.ndarray, reach: int) -> tuple[np.ndarray, np.ndarray]:
        """[R] the events of the windows around times."""
        low = np.searchsorted(self.time, time - reach, side="left")
        return low, np.searchsorted(self.time, time + reach, side="right")

    def count(self, item: np.ndarray, time: np.ndarray, reach: int) -> np.ndarray:
        """[R] how often items were bought in the windows around times."""
        low = item * self._span + np.maximum(time - reach, 0)
        high = item * self._span + np.minimum(time + reach, self._span - 1)
        found = np.searchsorted(self._by_item, high, side="right")
        return found - np.searchsorted(self._by_item, low, side="left")


def window_seconds(pool: _Pool, seed: int) -> int:
    """Seconds that a window extends before and after an event.

    The largest of LONGEST, LONGEST / 2, ... for which drawn items are new as often as bought ones,
    within TOLERANCE: new since a quantile of time, of the events after it, or without any earlier
    event. If there is none, the one with the smallest difference.

    Args:
      pool: the events with label 1.
      seed: of the events that are compared.
    """
    rng = np.random.default_rng(seed)
    chosen = np.arange(len(pool.time))
    if not len(chosen):
        return LONGEST
    if len(chosen) > _EXAMPLES:
        chosen = np.sort(rng.choice(chosen, _EXAMPLES, replace=False))
    time = pool.time[chosen]
    best, least = LONGEST, np.inf
    for halving in range(_HALVINGS + 1):
        reach = LONGEST >> halving
        low, high = pool.bounds(time, reach)
        drawn = low + (rng.random(len(time)) * (high - low)).astype(np.int64)
        other = pool.user[drawn] != pool.user[chosen]
        if other.mean() < 0.5:  # the window holds hardly anything but the event itself
            break
        bought, shown = (pool.first[pool.item[x[other]]] for x in (chosen, drawn))
        gap = _difference(bought, shown, time[other])
        if gap <= TOLERANCE:
            return reach
        if gap < least:
            best, least = reach, gap
    return best


def _difference(bought: np.ndarray, shown: np.ndarray, time: np.ndarray) -> float:
    """Largest difference of the shares of new items, from first times [R] of items, at [R]."""
    gaps = [abs((bought >= time).mean() - (shown >= time).mean())]
    for cut in np.quantile(time, _CUTS):
        late = time > cut
        if late.any():
            gaps.append(abs((bought[late] > cut).mean() - (shown[late] > cut).mean()))
    return float(max(gaps))


def _draw(
    pool: _Pool,
    reach: int,
    row: np.ndarray,
    key: np.ndarray,
    taken: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """[R] int32 items drawn for rows [R], 0 where there is none to draw.

    `taken` holds the sorted key + item that may not be drawn. An event of the window is drawn, and
    kept with probability count^(POWER - 1) of its item: the item has the odds count^POWER.
    """
    item = np.zeros(len(row), np.int32)
    time = pool.time_of(row)
    low, high = pool.bounds(time, reach)
    places = np.arange(len(row))
    for _ in range(_ROUNDS):
        width = high[places] - low[places]
        drawn = pool.item[low[places] + (rng.random(len(places)) * width).astype(np.int64)]
        kept = rng.random(len(places)) < pool.count(drawn, time[places], reach) ** (POWER - 1.0)
        kept &= ~_member(taken, key[places] + drawn)
        item[places[kept]] = drawn[kept]
        places = places[~kept]
        if not len(places):
            break
    for place in places:  # few: users who have bought nearly all that the window offers
        offered, count = np.unique(pool.item[low[place] : high[place]], return_counts=True)
        odds = count**POWER * ~_member(taken, key[place] + offered)
        item[place] = rng.choice(offered, p=odds / odds.sum()) if odds.any() else 0
    return item


def _member(ordered: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Whether each value is in a sorted array."""
    place = np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)
    return ordered[place] == values
