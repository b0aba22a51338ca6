"""Train, validation and test by time, by a column or at random (protocols.md, "Splits")."""

import logging

import numpy as np

from nif_jax.data import dates
from nif_jax.data.schema import (
    NO_LABEL,
    PERIODS,
    ConfigError,
    DataError,
    Movelines,
    require_choice,
)

TRAIN, VALIDATION, TEST = 0, 1, 2
KINDS = ("temporal_user", "temporal_global", "random")
_LOG = logging.getLogger(__name__)


def period_column(kind: str) -> str:
    """The column that "column:<name>" names, "" for another kind of split."""
    return kind.removeprefix("column:") if kind.startswith("column:") else ""


def require_split(kind: str, time_zone: str) -> None:
    """Raises ConfigError for a kind of split or a time zone that cannot be used."""
    dates.zone(time_zone)
    if kind.startswith("dates:"):
        dates.cuts(kind, time_zone)
    elif not period_column(kind):
        forms = ("column:<column of the events>", "dates:<date>+<date>", "dates: of four dates")
        require_choice("data.split", kind, (*KINDS, *forms))


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


def _given(movelines: Movelines, kind: str) -> np.ndarray:
    """The periods of the data set, with a warning where they do not follow each other in time."""
    period = movelines.period
    if period is None:
        raise DataError(
            f"{movelines.name}: the store has no periods, which config.data.split={kind!r} reads "
            "from a column of the events file: use config.data.source=files."
        )
    back = (np.diff(period) < 0) & (np.diff(movelines.user) == 0)
    if back.any():
        _LOG.warning(
            "%s: %d events follow an event of a later period of the same user, so that histories "
            "of earlier periods contain events of later ones",
            movelines.name,
            int(back.sum()),
        )
    return period


def _random(movelines: Movelines, train: float, validation: float, seed: int) -> np.ndarray:
    split = np.zeros(movelines.num_events, np.int8)
    rows = np.flatnonzero(movelines.label != NO_LABEL)
    order = np.random.default_rng(seed).permutation(len(rows))
    split[rows[order]] = _period(np.arange(len(rows)) / max(len(rows), 1), train, validation)
    return split


def assign_splits(
    movelines: Movelines,
    kind: str,
    train: float,
    validation: float,
    seed: int,
    time_zone: str = "UTC",
) -> np.ndarray:
    """The period of every event.

    Args:
      movelines: the store.
      kind: "temporal_user" (each user's last share of impressions), "temporal_global" (quantiles of
        impression times; events tied with a cut go to the later period), "random" (impressions
        alone; it leaks the future through histories and is for matching papers only),
        "column:<name>" (Movelines.period), or "dates:<date>+<date>" (ISO 8601; validation begins
        with the first, test with the second; four dates: see dates.py).
      train: share of impressions to train on; no column and no dates read it.
      validation: share to select on; the rest is test.
      seed: of the random split.
      time_zone: of dates, a name of the IANA database.

    Returns:
      [E] int8 of TRAIN, VALIDATION, TEST, for impressions and other events alike.

    Raises:
      ConfigError: for an unknown kind, impossible shares, or dates or a zone that are none.
      DataError: for a period without impressions, or a store without periods.
    """
    require_split(kind, time_zone)
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
    elif kind == "random":
        split = _random(movelines, train, validation, seed)
    elif period_column(kind):
        split = _given(movelines, kind)
    else:
        cuts = dates.cuts(kind, time_zone)[-3:][:2]
        split = np.searchsorted(cuts, movelines.time, "right").astype(np.int8)
    sizes = np.bincount(split[impressions], minlength=3)
    if (sizes == 0).any():
        shares = "Change config.data.train_share and validation_share, or "
        remedy = shares if kind in KINDS else "Correct the column or the dates, or "
        raise DataError(
            f"{movelines.name}: split {kind!r} leaves {PERIODS[int(np.argmin(sizes))]} without "
            f"impressions (train, validation, test = {sizes.tolist()}). {remedy}choose another "
            "config.data.split."
        )
    return split


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
