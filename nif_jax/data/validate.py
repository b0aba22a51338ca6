"""Checks on tables of events: every message names the table, column, row, value and the fix."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from nif_jax.data.schema import NO_LABEL, PERIODS, DataError

EVENT_COLUMNS = ("user_id", "item_id", "timestamp", "scene", "action", "label")
"""The columns every table of events has; RawTables describes the optional ones."""

_REMEDIES = {
    "label": " A rating makes labels with source.label_from='rating>=4'. In a log of positives, "
    "such as purchases, source.label_from=all makes each a label 1, and data.negatives=1 samples "
    "what they are compared with."
}

LATEST_SECONDS = 10**11
"""Year 5138 in seconds, March 1973 in milliseconds: whatever is larger is not in seconds, and so on
with each finer unit."""

UNITS = {10**9: "nanoseconds", 10**6: "microseconds", 1000: "milliseconds", 1: "seconds"}
"""How many a second has of each unit."""


def reject(where: str, column: str, values: pd.Series, bad: np.ndarray, problem: str) -> None:
    """Raises DataError about the first row where `bad` [E] is set; returns None if there is none.

    Rows are counted from 0, without a header line; the index of a piece of a file counts on.
    """
    bad = np.asarray(bad, bool)
    if bad.any():
        at = int(np.argmax(bad))
        row, value = values.index[at], values.iloc[at]
        value = value.item() if isinstance(value, np.generic) else value  # nan, not np.float64(nan)
        raise DataError(
            f"{where}: column {column!r}, row {row}: value {value!r} {problem} "
            f"({int(bad.sum())} of {len(bad)} rows)"
        )


def check_columns(
    where: str, table: pd.DataFrame, columns: Mapping[str, str], hint: str = ""
) -> None:
    """Raises DataError unless `table` has every column of `columns` (our name -> its name).

    `hint` is what else the message says.
    """
    for ours, theirs in columns.items():
        if theirs not in table:
            choices = ", ".join(map(str, table.columns))
            raise DataError(
                f"{where}: no column {theirs!r} for {ours!r}; the file has: {choices}. "
                f"Name the right one with source.columns='{ours}=<column>'."
                f"{hint or _REMEDIES.get(ours, '')}"
            )


def check_ids(where: str, column: str, values: pd.Series) -> None:
    """Raises DataError on a null identifier."""
    reject(where, column, values, values.isna(), "is null; identifiers have to be given: drop it")


def check_timestamps(
    where: str, column: str, values: pd.Series, per_second: int = 1, time_format: str = ""
) -> pd.Series:
    """Returns [E] int64 unix seconds; raises DataError on a value that is no time.

    Args:
      where: file or data set, for messages.
      column: for messages.
      values: [E] whole seconds since 1970; or, with `per_second` 1000, milliseconds; or dates, as
        such or as text of ISO 8601 ("2024-05-31 18:00:00"), UTC where they name no zone.
      per_second: units of a second; parts of a second are cut off.
      time_format: how the values are written, if it is none of these: "YYMMDDHH", or in the letters
        of strftime; UTC.
    """
    if time_format:
        return _formatted(where, column, values, time_format)
    unit = UNITS[per_second]
    missing = "is missing: every event needs a time; drop the row or fill it in"
    reject(where, column, values, values.isna(), missing)
    problem = f"is not a whole number: convert to unix {unit}, or write all as dates of ISO 8601"
    numbers = values
    if not pd.api.types.is_numeric_dtype(values.dtype):
        text = values.astype(str)
        digits = text.str.fullmatch(r"-?\d+(\.\d+)?")
        if digits.any():
            reject(where, column, values, ~digits, problem)
            numbers = pd.to_numeric(text)
        else:
            dates = pd.to_datetime(text, format="ISO8601", utc=True, errors="coerce")
            problem = (
                f"is neither unix {unit} nor a date of ISO 8601, such as 2024-05-31 18:00:00; name "
                "another form with source.time_format, such as YYMMDDHH"
            )
            reject(where, column, values, dates.isna(), problem)
            since = dates - pd.Timestamp(0, tz="UTC")
            numbers = since // pd.Timedelta(1 / per_second, "s")
    sizes = numbers.to_numpy(np.float64)
    whole = np.isfinite(sizes) & ((np.trunc(sizes) == sizes) | (per_second > 1))
    reject(where, column, values, ~whole, problem)
    reject(where, column, values, sizes < 0, f"is negative: unix {unit} count from 1970")
    for finer, name in UNITS.items():  # the finest first
        if finer > per_second:
            fix = f"divide by {finer // per_second:,}"
            if finer == 1000:
                fix = "name the column with source.columns='timestamp_ms=<column>', or " + fix
            late = f"is too large for {unit}, it looks like {name}: {fix}"
            reject(where, column, values, sizes > LATEST_SECONDS * (finer // 1000), late)
    return numbers.floordiv(per_second).astype(np.int64)


def strftime_format(time_format: str) -> str:
    """ "%y%m%d%H" of "YYMMDDHH"; what holds "%" is returned as it is. MM behind HH are minutes."""
    if "%" in time_format:
        return time_format
    hours = time_format.find("HH")
    day, time = (time_format, "") if hours < 0 else (time_format[:hours], time_format[hours:])
    for word, letter in (("YYYY", "%Y"), ("YY", "%y"), ("MM", "%m"), ("DD", "%d")):
        day = day.replace(word, letter)
    for word, letter in (("HH", "%H"), ("MM", "%M"), ("SS", "%S")):
        time = time.replace(word, letter)
    return day + time


def _formatted(where: str, column: str, values: pd.Series, time_format: str) -> pd.Series:
    """[E] int64 unix seconds of times in a form of the user's own."""
    missing = "is missing: every event needs a time; drop the row or fill it in"
    reject(where, column, values, values.isna(), missing)
    given = strftime_format(time_format)
    try:
        dates = pd.to_datetime(values.astype(str), format=given, utc=True, errors="coerce")
    except ValueError as error:  # of the format itself
        message = f"source.time_format={time_format!r} is no format of times: {error}"
        raise DataError(message) from error
    problem = f"is no time of the form source.time_format={time_format!r} ({given})"
    reject(where, column, values, dates.isna(), problem)
    return (dates - pd.Timestamp(0, tz="UTC")) // pd.Timedelta(1, "s")


def check_labels(where: str, column: str, values: pd.Series) -> pd.Series:
    """Returns [E] int8 of 1, 0 and NO_LABEL (-1 or null); raises DataError on other values."""
    numbers = _numbers(values)
    unlabelled = values.isna().to_numpy() | (numbers == NO_LABEL)
    problem = (
        "is not a label: 1 and 0 are, -1 or null is history without a label; "
        "make labels of a rating with source.label_from='rating>=4'"
    )
    reject(where, column, values, ~(unlabelled | np.isin(numbers, (0, 1))), problem)
    return pd.Series(np.where(unlabelled, NO_LABEL, numbers).astype(np.int8), index=values.index)


def _numbers(values: pd.Series) -> np.ndarray:
    """[E] float64, NaN for what is no number."""
    if values.dtype == object:  # lists, which pandas cannot convert, are none
        values = values.map(lambda value: value if np.isscalar(value) else None)
    return pd.to_numeric(values, errors="coerce").to_numpy(np.float64, na_value=np.nan)


def check_truth(where: str, values: pd.Series) -> pd.Series:
    """Returns [E] float32 log odds; raises DataError on a value that is none."""
    numbers = _numbers(values).astype(np.float32)
    problem = "is not a finite number: truth is the log odds of label 1"
    reject(where, "truth", values, ~np.isfinite(numbers), problem)
    return pd.Series(numbers, index=values.index)


def check_periods(where: str, column: str, values: pd.Series) -> None:
    """Raises DataError on a value that is none of PERIODS."""
    problem = f"is no period: write {', '.join(PERIODS[:-1])} or {PERIODS[-1]}"
    reject(where, column, values, ~values.isin(PERIODS).to_numpy(bool), problem)


def check_events(
    where: str, events: pd.DataFrame, names: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """Checks a table that has the columns of RawTables.events and gives them their types.

    Args:
      where: file or data set, for messages.
      events: [E] rows; columns other than ours, "truth" and "period" pass through.
      names: our column name -> the name that the user knows it by.

    Returns:
      A new table: timestamp int64, label int8, truth float32, the rest as given.

    Raises:
      DataError: a column is missing, there is no row, or a value cannot be used.
    """
    names = {ours: (names or {}).get(ours, ours) for ours in (*EVENT_COLUMNS, "period")}
    check_columns(where, events, {ours: ours for ours in EVENT_COLUMNS})
    if events.empty:
        raise DataError(f"{where}: no rows; a data set needs at least one event")
    for ours in ("user_id", "item_id"):
        check_ids(where, names[ours], events[ours])
    for ours in ("scene", "action"):
        missing = events[ours].isna()
        reject(where, names[ours], events[ours], missing, "is null: write a name, say 'unknown'")
    if "period" in events:
        check_periods(where, names["period"], events["period"])
    truth = {"truth": check_truth(where, events["truth"])} if "truth" in events else {}
    return events.assign(
        **truth,
        timestamp=check_timestamps(where, names["timestamp"], events["timestamp"]),
        label=check_labels(where, names["label"], events["label"]),
    )
