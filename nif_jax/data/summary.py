"""What a store holds, in lines for the log, and what looks wrong with its times."""

import time
from collections.abc import Iterable

import numpy as np

from nif_jax.data.schema import NO_LABEL, Movelines

YEAR_1990 = 631_152_000
HOUR, DAY = 3600, 86_400
MAX_SHOWN = 20
"""Names of scenes, actions or features in a line of the log."""


def summary(lines: Movelines) -> tuple[str, str]:
    """What a store holds, in two lines for the log."""
    labelled, positive = int((lines.label != NO_LABEL).sum()), int((lines.label == 1).sum())
    first, last = (_date(t) for t in (lines.time.min(), lines.time.max()))
    counts = lines.counts
    return (
        f"{lines.name}: {lines.num_events:,} events ({labelled:,} with a label, {positive:,} of "
        f"them 1) of {lines.num_users:,} users and {lines.num_items:,} items, {first} to {last}; "
        f"scenes: {_some(lines.vocabulary['scene'])}; actions: {_some(lines.vocabulary['action'])}",
        f"{lines.name}: item features: {_some(lines.item_features)}; user features: "
        f"{_some(lines.user_features)}; duplicates dropped: {counts['duplicates_dropped']:,}; "
        f"items without features: {counts['items_without_features']:,}, without events: "
        f"{counts['items_without_events']:,}; users without features: "
        f"{counts['users_without_features']:,}",
    )


def odd_times(lines: Movelines) -> list[str]:
    """What looks wrong with the times of a store, a sentence each."""
    first, last = int(lines.time.min()), int(lines.time.max())
    span = f"{lines.name}: times reach from {_date(first)} to {_date(last)}"
    found = []
    if last < YEAR_1990:
        found.append(f"{span}, all before 1990: are they unix seconds?")
    elif last - first < HOUR:
        found.append(f"{span}, less than an hour: are they seconds, and when the events happened?")
    if last > time.time() + DAY:
        found.append(f"{span}, later than today: {_some_event(lines, int(lines.time.argmax()))}")
    far = far_times(lines.time)
    if far.any():
        inside = lines.time[~far]
        found.append(
            f"{lines.name}: {int(far.sum()):,} of {len(far):,} events are far from all others, "
            f"which reach from {_date(inside.min())} to {_date(inside.max())}: "
            f"{_some_event(lines, int(far.argmax()))}. Splits by time follow them: correct the "
            "times, or drop the rows"
        )
    return found


def far_times(times: np.ndarray) -> np.ndarray:
    """[E] bool, events that an empty stretch of time separates from nine tenths of all.

    The stretch is longer than those nine tenths take together, and than a month.
    """
    ordered = np.sort(times)
    low, high = (len(ordered) * share // 20 for share in (1, 19))
    reach = max(int(ordered[min(high, len(ordered) - 1)] - ordered[low]), 30 * DAY)
    early = np.flatnonzero(np.diff(ordered[: low + 1]) > reach)
    late = np.flatnonzero(np.diff(ordered[high:]) > reach)
    first = ordered[early[-1] + 1] if len(early) else ordered[0]
    last = ordered[high + late[0]] if len(late) else ordered[-1]
    return (times < first) | (times > last)


def _some_event(lines: Movelines, row: int) -> str:
    user, item = (lines.vocabulary[kind] for kind in ("user", "item"))
    return f"user {user[lines.user[row]]!r}, item {item[lines.item[row] - 1]!r} at " + _date(
        lines.time[row]
    )


def _date(seconds: int) -> str:
    return str(np.datetime64(int(seconds), "s"))


def _some(words: Iterable[str]) -> str:
    """How many there are, and the first of them: "2 (a, b)"."""
    words = list(words)
    shown = ", ".join([*words[:MAX_SHOWN], *["..."] * (len(words) > MAX_SHOWN)])
    return f"{len(words)} ({shown})" if words else "none"
