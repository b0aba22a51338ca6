"""The days of a log, and the config of the run that a day's model is trained by.

Three ways to have a model for a day: "updated", the model of the day before trained on with the
newest days; "retrained", from scratch on all days before; "never", the model of the first days.
Each is an ordinary run, whose split has four dates (nif_jax/data/dates.py).
"""

import dataclasses
import datetime
import pathlib
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from nif_jax.data import dates
from nif_jax.data.schema import ConfigError, DataError
from nif_jax.variants import FITTED, VARIANTS

UPDATED, RETRAINED, NEVER = "updated", "retrained", "never"
WAYS = (NEVER, UPDATED, RETRAINED)


@dataclasses.dataclass(frozen=True)
class Day:
    """A calendar day with impressions.

    Attributes:
      name: ISO 8601 date.
      begin: unix seconds; end: those of the next day.
      held_out: unix seconds from which its last impressions are validation, where a model that is
        trained up to this day is stopped and calibrated.
    """

    name: str
    begin: int
    end: int
    held_out: int


def list_days(time: np.ndarray, time_zone: str, validation: float) -> list[Day]:
    """The days of impressions at some times.

    Args:
      time: [n] unix seconds.
      time_zone: a name of the IANA database.
      validation: share of a day's impressions that is held out.
    """
    zone, time = dates.zone(time_zone), np.sort(time)
    found: list[Day] = []
    place = 0
    while place < len(time):
        # The day of the next impression: days without any are left out.
        date = datetime.datetime.fromtimestamp(int(time[place]), zone).date()
        following = date + datetime.timedelta(days=1)
        begin, end = (
            int(datetime.datetime.combine(one, datetime.time(), zone).timestamp())
            for one in (date, following)
        )
        last = int(np.searchsorted(time, end))
        cut = min(place + int((1 - validation) * (last - place)), last - 1)
        found.append(Day(date.isoformat(), begin, end, max(int(time[cut]), begin + 1)))
        place = last
    return found


def require_days(days: Sequence[Day], name: str, first_days: int) -> None:
    """Raises DataError where no day is left to predict."""
    if len(days) <= first_days:
        raise DataError(
            f"{name}: impressions of {len(days)} days leave none to predict after "
            f"config.daily.first_days={first_days}: give a longer log or a smaller number."
        )


def require_supported(config: ConfigDict) -> None:
    """Raises ConfigError for what the daily mode cannot do."""
    if config.init_from:
        raise ConfigError(
            f"config.init_from={config.init_from!r}: --mode=daily starts each day from the one "
            "before; leave it empty."
        )
    cohorts = [row for row in config.rows if VARIANTS[row].cohorts]
    if cohorts:
        raise ConfigError(
            f"config.rows has {cohorts}, whose semantic IDs are made anew for another catalogue, "
            "so that no model of the day before fits them: leave them out of --mode=daily."
        )
    if all(row in FITTED for row in config.rows):
        raise ConfigError(
            f"config.rows={tuple(config.rows)!r} has no variant that is trained: add one, such as "
            "base, to --mode=daily."
        )


def way_config(
    config: ConfigDict, days: Sequence[Day], index: int, way: str, init_from: pathlib.Path | None
) -> ConfigDict:
    """The config of the run that predicts a day.

    Args:
      config: of the whole.
      days: of the log.
      index: of the day to predict.
      way: one of WAYS.
      init_from: workdir of the run to start from; of "updated" and "never".
    """
    own = config.copy_and_resolve_references()
    own.rows = tuple(row for row in config.rows if row not in FITTED)
    own.init_from = "" if init_from is None else str(init_from)
    first = days[0]
    known, tested = days[index - 1], days[index]
    if way == UPDATED:
        first = days[max(index - config.daily.replay_days, 0)]
        _scale(own, config.daily.epochs_share, config.daily.learning_rate_share)
    if way == NEVER:
        known = days[config.daily.first_days - 1]
        tested = dataclasses.replace(days[config.daily.first_days], end=tested.end)
        _scale(own, 0.0, 0.0)
    cuts = (first.begin, known.held_out, tested.begin, tested.end)
    zone = dates.zone(config.data.time_zone)
    words = [
        datetime.datetime.fromtimestamp(seconds, zone).replace(tzinfo=None).isoformat()
        for seconds in cuts
    ]
    own.data.split = f"dates:{'+'.join(words)}"
    own.data.fixed_shapes = True  # programs of one day are those of the next
    return own


def _scale(config: ConfigDict, epochs: float, learning_rate: float) -> None:
    """Makes training shorter, and its steps smaller; with 0 nothing is changed by it."""
    for name in ("train", "pretrain"):
        if name not in config:
            continue
        section = config[name]
        section.epochs *= epochs
        section.learning_rate *= learning_rate
        section.warmup_steps = round(section.warmup_steps * epochs)
        if epochs:
            section.eval_epochs = min(section.eval_epochs, section.epochs)
    config.train.min_steps = round(config.train.min_steps * epochs)
