"""Train, validation and test by time or at random (protocols.md, "Splits")."""

import numpy as np

from nif_jax.data.schema import NO_LABEL, ConfigError, DataError, Movelines, require_choice

TRAIN, VALIDATION, TEST = 0, 1, 2
SPLIT_NAMES = ("train", "validation", "test")


def _period(fraction_before: np.ndarray, train: float, validation: float) -> np.ndarray:
    """[n] int8 period of events that have this fraction of the events before them."""
    return (fraction_before >= train).astype(np.int8) + (fraction_before >= train + validation)


def _temporal_user(movelines: Movelines, train: float, validation: float) -> np.ndarray:
    """Counts impressions, so that other events fall into the period they were made in.

    A user without impressions is history only, and is cut by events instead.
    """
    user, offsets = movelines.user, movelines.user_offsets
    impression = movelines.label != NO_LABEL
    before = np.cumsum(impression) - impression
    first = np.append(before, impression.sum())[offsets]
    index, total = before - first[user], np.diff(first)[user]
    rows = np.arange(movelines.num_events)
    none = total == 0
    index = np.where(none, rows - offsets[user], index)
    total = np.where(none, np.diff(offsets)[user], total)
    # Floors, as the peers' splits have them.
    train_end = np.floor(train * total + 1e-9)
    validation_end = train_end + np.floor(validation * total + 1e-9)
    return (index >= train_end).astype(np.int8) + (index >= validation_end)


def _temporal_global(movelines: Movelines, train: float, validation: float) -> np.ndarray:
    times = np.sort(movelines.time[movelines.label != NO_LABEL])
    cut = np.minimum(np.array([train, train + validation]) * len(times), len(times) - 1)
    train_end, validation_end = times[cut.astype(np.int64)]
    return (movelines.time >= train_end).astype(np.int8) + (movelines.time >= validation_end)


def _random(movelines: Movelines, train: float, validation: float, seed: int) -> np.ndarray:
    split = np.zeros(movelines.num_events, np.int8)
    rows = np.flatnonzero(movelines.label != NO_LABEL)
    order = np.random.default_rng(seed).permutation(len(rows))
    split[rows[order]] = _period(np.arange(len(rows)) / max(len(rows), 1), train, validation)
    return split


def assign_splits(
    movelines: Movelines, kind: str, train: float, validation: float, seed: int
) -> np.ndarray:
    """The period of every event.

    Args:
      movelines: the store.
      kind: "temporal_user" (each user's last share of impressions), "temporal_global" (quantiles of
        impression times; events tied with a cut go to the later period), or "random" (impressions
        alone; it leaks the future through histories and is for matching papers only).
      train: share of impressions to train on.
      validation: share to select on; the rest is test.
      seed: of the random split.

    Returns:
      [E] int8 of TRAIN, VALIDATION, TEST, for impressions and other events alike.

    Raises:
      ConfigError: for an unknown kind or impossible shares.
      DataError: for a period without impressions.
    """
    require_choice("data.split", kind, ("temporal_user", "temporal_global", "random"))
    if not (0 < train < 1 and 0 < validation < 1 and train + validation < 1):
        raise ConfigError(
            f"config.data.train_share={train} and validation_share={validation} have to be "
            "positive and to leave a share for test."
        )
    impressions = movelines.label != NO_LABEL
    if not impressions.any():
        raise DataError(f"{movelines.name}: no event has a label of 0 or 1, so nothing to predict.")
    if kind == "temporal_user":
        split = _temporal_user(movelines, train, validation)
    elif kind == "temporal_global":
        split = _temporal_global(movelines, train, validation)
    else:
        split = _random(movelines, train, validation, seed)
    sizes = np.bincount(split[impressions], minlength=3)
    if (sizes == 0).any():
        raise DataError(
            f"{movelines.name}: split {kind!r} leaves {SPLIT_NAMES[int(np.argmin(sizes))]} without "
            f"impressions (train, validation, test = {sizes.tolist()}). Change "
            "config.data.train_share and validation_share, or choose another config.data.split."
        )
    return split


def visible_rows(
    movelines: Movelines, split: np.ndarray, ties: str
) -> tuple[np.ndarray, np.ndarray]:
    """[E] int64 each: a row sees its user's events before `visible`, and before `cut` where what it
    sees ends at the beginning of its period; for a train row both are the same."""
    rows, user = np.arange(movelines.num_events), movelines.user
    visible = rows
    if ties == "exclude":
        new = np.ones(len(rows), bool)
        new[1:] = (np.diff(movelines.time) != 0) | (np.diff(user) != 0)
        visible = np.maximum.accumulate(np.where(new, rows, 0))
    # The first row of each (user, period) in store order: cut histories end there.
    key = user.astype(np.int64) * 3 + split
    _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
    cut = np.where(split == TRAIN, visible, np.minimum(first[inverse], visible))
    return visible, cut
