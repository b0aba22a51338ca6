"""Sampled negatives: for data that says what was bought, and not what was seen and left.

For each event with label 1, n impressions with label 0 of items that the user has not bought, with
the user, scene and second of the event. An item is drawn with probability proportional to how often
it was bought in the same fortnight, to the power 3/4: an impression at Christmas shows
Christmas goods, else the season alone would tell bought items from drawn ones. The fortnight
reaches across the cuts between periods and past the event itself: it says what was on offer, is the
same for all models, and no model sees it but through the rows it is trained and tested on.

Sampled rows stand right before their event and never in a history, so their history is the event's.
"""

import dataclasses
from typing import Any

import numpy as np

from nif_jax.data.schema import ConfigError, Movelines, require_choice

FORTNIGHT = 14 * 86_400
POWER = 0.75
_ROUNDS = 20  # of drawing again what may not be drawn, before what is left is drawn exactly


def sample_negatives(
    movelines: Movelines, count: int, exclude: str, seed: int
) -> tuple[Movelines, np.ndarray]:
    """The store with sampled negatives in it.

    Args:
      movelines: the store.
      count: n, negatives of each event with label 1; 0 = none.
      exclude: which items are not drawn for a user: "user", whatever has a label 1 of this user at
        any time, or "basket", what has one at the same second. With "user" an item in the history
        is a certain positive; with "basket" buying again is to be predicted too.
      seed: of the draws: the rows are the same for all models.

    Returns:
      The store, with counts["sampled_negatives"] and counts["without_negatives"] (events for which
      their fortnight offers nothing that may be drawn), and source [E'] int64: the row of the given
      store that each row is, or that it was drawn for.

    Raises:
      ConfigError: for a negative count or an unknown choice.
    """
    require_choice("data.negatives_exclude", exclude, ("user", "basket"))
    if count < 0:
        raise ConfigError(f"config.data.negatives={count} is negative; 0 = none.")
    if not count:
        return movelines, np.arange(movelines.num_events)
    positive = np.flatnonzero(movelines.label == 1)
    group = movelines.user.astype(np.int64)
    if exclude == "basket":
        second = movelines.time - movelines.time.min()
        _, group = np.unique(group * (second.max() + 1) + second, return_inverse=True)
    size = movelines.num_items + 1
    taken = np.unique(group[positive] * size + movelines.item[positive])
    row = np.repeat(positive, count)
    item = _draw(movelines, row, group[row] * size, taken, np.random.default_rng(seed))
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
    counts = {"sampled_negatives": len(row), "without_negatives": without}
    store = dataclasses.replace(
        movelines,
        **columns,
        user_offsets=movelines.user_offsets + np.append(0, np.cumsum(added)),
        counts=dict(movelines.counts) | counts,
    )
    return store, np.insert(np.arange(movelines.num_events), row, row)


def _draw(
    movelines: Movelines,
    row: np.ndarray,
    key: np.ndarray,
    taken: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """[R] int32 items drawn for rows [R], 0 where there is none to draw.

    `taken` holds the sorted key + item that may not be drawn.
    """
    fortnight = movelines.time // FORTNIGHT
    item = np.zeros(len(row), np.int32)
    for period in np.unique(fortnight[row]):
        bought = movelines.item[(fortnight == period) & (movelines.label == 1)]
        weight = np.bincount(bought, minlength=movelines.num_items + 1) ** POWER
        total = np.cumsum(weight)
        places = np.flatnonzero(fortnight[row] == period)
        for _ in range(_ROUNDS):
            drawn = np.searchsorted(total, rng.random(len(places)) * total[-1], side="right")
            item[places] = drawn
            places = places[_member(taken, key[places] + drawn)]
            if not len(places):
                break
        for place in places:  # few: users who have bought nearly all that the fortnight offers
            allowed = weight * ~_member(taken, key[place] + np.arange(len(weight)))
            none = not allowed.any()
            item[place] = 0 if none else rng.choice(len(weight), p=allowed / allowed.sum())
    return item


def _member(ordered: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Whether each value is in a sorted array."""
    place = np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)
    return ordered[place] == values
