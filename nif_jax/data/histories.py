"""Which events a row may see: those of its user before it, or before its period."""

import numpy as np

from nif_jax.data.schema import Movelines, require_choice
from nif_jax.data.splits import TEST, VALIDATION


def visible_rows(
    movelines: Movelines, split: np.ndarray, ties: str
) -> tuple[np.ndarray, np.ndarray]:
    """Where the user's events end that each row may see.

    Args:
      movelines: the store.
      split: [E] int8, see assign_splits.
      ties: "order" lets a row see the events that the seeded shuffle put before it at the same
        second; "exclude" lets it see strictly earlier seconds only.

    Returns:
      visible and cut, [E] int32 each: a row sees events before the row `visible`, and before `cut`
      where they end at the beginning of its period; for a train row both are the same.

    Raises:
      ConfigError: for an unknown choice.
    """
    require_choice("data.ties", ties, ("order", "exclude"))
    rows, user = np.arange(movelines.num_events, dtype=np.int32), movelines.user
    visible = rows
    if ties == "exclude":
        new = np.ones(len(rows), bool)
        new[1:] = (np.diff(movelines.time) != 0) | (np.diff(user) != 0)
        visible = np.maximum.accumulate(np.where(new, rows, np.int32(0)))
    cut = visible.copy()
    for period in (VALIDATION, TEST):
        # The first row of each user's period in store order: cut histories end there.
        own = np.flatnonzero(split == period)
        begins = np.append(True, np.diff(user[own]) != 0)[: len(own)]
        first = np.repeat(own[begins], np.diff(np.append(np.flatnonzero(begins), len(own))))
        cut[own] = np.minimum(first, visible[own])
    return visible, cut


def history_bounds(
    movelines: Movelines,
    history: str,
    bounds: tuple[np.ndarray, np.ndarray],
    sampled: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Which entries of the history each row may see.

    Args:
      movelines: the store.
      history: "all" events or "positive" ones only (label 1; events without a label stay).
      bounds: see visible_rows.
      sampled: [E] bool, rows that stand in no history; each sees what the event behind it does.

    Returns:
      [E] bool eligible, and history_begin, history_end, frozen_end, each [E] int32: bounds count
      the eligible rows.

    Raises:
      ConfigError: for an unknown choice.
    """
    require_choice("data.history", history, ("all", "positive"))
    eligible = ~sampled
    if history == "positive":
        eligible &= movelines.label != 0
    before = np.zeros(len(eligible) + 1, np.int32)  # entries before each row
    np.cumsum(eligible, dtype=np.int32, out=before[1:])
    visible, cut = bounds
    offsets = movelines.user_offsets
    begin = np.repeat(before[offsets[:-1]], np.diff(offsets))
    return eligible, begin, before[visible], before[cut]
