"""Train, validation and test by time, by a column or at random (protocols.md, "Splits")."""

import logging
from collections.abc import Callable

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


def _quantiles(movelines: Movelines, train: float, validation: float) -> np.ndarray:
    """[2] seconds at which validation and test begin."""
    times = movelines.time[movelines.label != NO_LABEL]
    cut = np.minimum(np.array([train, train + validation]) * len(times), len(times) - 1)
    cut = cut.astype(np.int64)
    times.partition(cut)
    return times[cut]


def _require_periods(movelines: Movelines, kind: str) -> None:
    """Warns where the periods of the data set do not follow each other in time."""
    period = movelines.period
    if period is None:
        raise DataError(
            f"{movelines.name}: the store has no periods, which config.data.split={kind!r} reads "
            "from a column of the events file: use config.data.source=files."
        )
    back = period[1:] < period[:-1]
    begins = movelines.user_offsets[1:-1]
    back[begins[(begins > 0) & (begins < len(period))] - 1] = False  # of two users
    if back.any():
        _LOG.warning(
            "%s: %d events follow an event of a later period of the same user, so that histories "
            "of earlier periods contain events of later ones",
            movelines.name,
            int(back.sum()),
        )


def _random(movelines: Movelines, train: float, validation: float, seed: int) -> np.ndarray:
    split = np.zeros(movelines.num_events, np.int8)
    rows = np.flatnonzero(movelines.label != NO_LABEL)
    order = np.random.default_rng(seed).permutation(len(rows))
    split[rows[order]] = _period(np.arange(len(rows)) / max(len(rows), 1), train, validation)
    return split


def split_rule(
    movelines: Movelines,
    kind: str,
    train: float,
    validation: float,
    seed: int,
    time_zone: str = "UTC",
) -> Callable[[Movelines, slice], np.ndarray]:
    """How the period of an event is found.

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
      (part, rows) -> [E_part] int8 of TRAIN, VALIDATION, TEST, for impressions and other events
      alike: of a part of the users, with the slice of their rows in the store.

    Raises:
      ConfigError: for an unknown kind, impossible shares, or dates or a zone that are none.
      DataError: for a store without impressions or periods.
    """
    require_split(kind, time_zone)
    if not (0 < train < 1 and 0 < validation < 1 and train + validation < 1):
        raise ConfigError(
            f"config.data.train_share={train} and validation_share={validation} have to be "
            "positive and to leave a share for test."
        )
    if (movelines.label == NO_LABEL).all():
        raise DataError(f"{movelines.name}: no event has a label of 0 or 1, so nothing to predict.")
    if kind == "temporal_user":
        return lambda part, rows: _temporal_user(part, train, validation)
    if kind == "random":
        split = _random(movelines, train, validation, seed)
        return lambda part, rows: split[rows]
    if period_column(kind):
        _require_periods(movelines, kind)
        return lambda part, rows: np.asarray(part.period)
    if kind == "temporal_global":
        cuts = _quantiles(movelines, train, validation)
    else:
        cuts = np.array(dates.cuts(kind, time_zone)[-3:][:2])
    return lambda part, rows: np.searchsorted(cuts, part.time, "right").astype(np.int8)


def assign_splits(
    movelines: Movelines,
    kind: str,
    train: float,
    validation: float,
    seed: int,
    time_zone: str = "UTC",
) -> np.ndarray:
    """[E] int8, the period of every event; see `split_rule`, and `require_impressions` too."""
    rule = split_rule(movelines, kind, train, validation, seed, time_zone)
    split = rule(movelines, slice(None))
    sizes = np.bincount(split[movelines.label != NO_LABEL], minlength=len(PERIODS))
    require_impressions(movelines.name, kind, sizes)
    return split


def require_impressions(name: str, kind: str, sizes: np.ndarray) -> None:
    """Raises DataError unless each period has impressions, which `sizes` [3] counts."""
    if (sizes == 0).any():
        shares = "Change config.data.train_share and validation_share, or "
        remedy = shares if kind in KINDS else "Correct the column or the dates, or "
        raise DataError(
            f"{name}: split {kind!r} leaves {PERIODS[int(np.argmin(sizes))]} without "
            f"impressions (train, validation, test = {sizes.tolist()}). {remedy}choose another "
            "config.data.split."
        )
