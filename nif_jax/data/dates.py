"""Periods between dates, `data.split=dates:...`, of two or four dates.

Two dates begin validation and test. With four, rows before the first are history and are not
trained on, and events from the last on are not read: a day of a longer log (docs/daily.md).
"""

import dataclasses
import datetime
import zoneinfo

import numpy as np

from nif_jax.data.schema import (
    EVENT_COLUMNS,
    NO_LABEL,
    OPTIONAL_COLUMNS,
    ConfigError,
    DataError,
    Movelines,
)


def zone(name: str) -> zoneinfo.ZoneInfo:
    """A time zone by its IANA name; raises ConfigError for one that cannot be had."""
    try:
        return zoneinfo.ZoneInfo(name)
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError) as error:
        raise ConfigError(
            f"config.data.time_zone={name!r} is no time zone: give a name of the IANA database, "
            "such as UTC or Asia/Shanghai. Where the system has no such database, install the "
            "package tzdata."
        ) from error


def cuts(kind: str, time_zone: str) -> list[int]:
    """Unix seconds at which validation and test begin, or train, validation, test and what is not
    read."""
    own_zone, words = zone(time_zone), kind.removeprefix("dates:").split("+")
    form = "dates:2022-04-22+2022-04-29, the first day of validation and that of test"
    if len(words) not in (2, 4):
        raise ConfigError(
            f"config.data.split={kind!r} has not two dates: write {form}; or four, of which the "
            "first is that of the rows to train on, and the last that of events to leave out."
        )
    found = []
    for word in words:
        try:
            date = datetime.datetime.fromisoformat(word)
        except ValueError as error:
            raise ConfigError(
                f"config.data.split={kind!r}: {word!r} is no date: {form}."
            ) from error
        if date.tzinfo is not None:
            raise ConfigError(
                f"config.data.split={kind!r}: {word!r} names a time zone: write the date alone, "
                "and give the zone with config.data.time_zone."
            )
        found.append(int(date.replace(tzinfo=own_zone).timestamp()))
    if sorted(set(found)) != found:
        raise ConfigError(
            f"config.data.split={kind!r}: test has to begin after validation, and each date has to "
            f"be after the one before it: {form}."
        )
    return found


def window(kind: str, time_zone: str) -> tuple[int, int] | None:
    """Unix seconds at which the rows to train on begin and the log ends, where `kind` has them."""
    found = cuts(kind, time_zone) if kind.startswith("dates:") else []
    return (found[0], found[3]) if len(found) == 4 else None


def before_end(movelines: Movelines, kind: str, time_zone: str) -> Movelines:
    """The store without the events that a split of four dates leaves out.

    Users and items keep their ids. Columns are copied into memory where events are left out.
    """
    bounds = window(kind, time_zone)
    kept = np.True_ if bounds is None else movelines.time < bounds[1]
    if np.all(kept):
        return movelines
    names = [n for n in (*EVENT_COLUMNS, *OPTIONAL_COLUMNS) if getattr(movelines, n) is not None]
    before = np.append(0, np.cumsum(kept))
    return dataclasses.replace(
        movelines,
        user_offsets=before[movelines.user_offsets],
        **{name: getattr(movelines, name)[kept] for name in names},
    )


def trained_rows(movelines: Movelines, train: np.ndarray, kind: str, time_zone: str) -> np.ndarray:
    """[E] bool, which of the rows of the train period [E] models are trained on.

    The others are history and are counted, as in any run.

    Raises:
      DataError: none of them is an impression.
    """
    bounds = window(kind, time_zone)
    if bounds is None:
        return train
    train = train & (movelines.time >= bounds[0])
    if not (movelines.label[train] != NO_LABEL).any():
        raise DataError(
            f"{movelines.name}: split {kind!r} leaves no impressions to train on between its first "
            "two dates: choose others."
        )
    return train
