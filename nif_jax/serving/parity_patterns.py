"""Why two columns differ: relations that hold for all of their rows that differ.

Every function takes the values of both sides, "left" and "right", and returns a sentence, or None
if the relation does not hold. Letters: R rows, P values, n x m entries of a table.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

CLOCK = "another time zone or clock"
SHIFTS = (1, 2, 3)
"""Events that a history may end early, or late, by."""
SIDES = ("left", "right")
ENTRIES = 100_000
"""Entries of a table that a relation is looked for in, about."""


def of_numbers(left: np.ndarray, right: np.ndarray, time: bool = False) -> str | None:
    """Of numbers [P]; `time` for seconds."""
    left, right = (x.astype(np.float64) for x in (left, right))
    for one, other, side in ((left, right, "left"), (right, left, "right")):
        if np.isnan(one).all() and not np.isnan(other).any():
            return f"{side} has no values"
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        return None
    return (
        _constant(left, right)
        or _offset(left, right, time)
        or _rounded(left, right)
        or _permuted(left, right)
        or _linear(left, right, time)
    )


def _constant(left: np.ndarray, right: np.ndarray) -> str | None:
    """One side has the same value everywhere."""
    for one, other, side in ((left, right, "left"), (right, left, "right")):
        if len(one) > 1 and np.ptp(one) == 0 and np.ptp(other) > 0:
            return f"{side} is {one[0]:g} everywhere, as if it were missing"
    return None


def _offset(left: np.ndarray, right: np.ndarray, time: bool) -> str | None:
    shift = left - right
    if len(left) < 2 or np.ptp(shift) > 1e-4 * np.abs(shift).max() or not (time or np.ptp(left)):
        return None
    if time:
        return f"left is right {shift[0]:+g} s: {CLOCK}"
    return f"left is right {shift.mean():+.6g}: a constant is added"


def _linear(left: np.ndarray, right: np.ndarray, time: bool) -> str | None:
    if len(left) < 3 or np.ptp(right) == 0:
        return None
    if set(np.unique([left, right])) <= {-1.0, 0.0, 1.0}:
        flipped = np.where(right < 0, right, 1 - right)
        return "labels are flipped: 0 is 1, and 1 is 0" if (left == flipped).all() else None
    centred = right - right.mean()
    slope = (centred * left).sum() / (centred**2).sum()
    shift = left.mean() - slope * right.mean()
    if np.abs(slope * centred + left.mean() - left).max() <= 1e-4 * np.ptp(left):
        plus = f" {shift:+.6g}" if np.abs(shift) > 1e-6 * np.abs(left).max() else ""
        return f"left is {slope:.6g} x right{plus}" + (": another unit of time" if time else "")
    rising = np.diff(left[np.argsort(right, kind="stable")]) >= -1e-6
    if len(left) > 9 and rising.all():
        return "left is a rising function of right, so that ranks are equal"
    return None


def _rounded(left: np.ndarray, right: np.ndarray) -> str | None:
    for one, other, side in ((left, right, "left"), (right, left, "right")):
        if np.abs(other).max() < np.finfo(np.float16).max:
            rounded = other.astype(np.float16).astype(np.float64)
            if (one == rounded).all():
                return f"{side} is rounded to float16"
    return None


def _permuted(left: np.ndarray, right: np.ndarray) -> str | None:
    if len(left) > 1 and np.array_equal(np.sort(left), np.sort(right)):
        return "both sides have the same values, in other rows"
    return None


def of_table(left: np.ndarray, right: np.ndarray) -> str:
    """Of arrays of one shape [n, m], or of any other."""
    totals = left.sum(dtype=np.float64), right.sum(dtype=np.float64)
    if left.ndim == 2 and np.isclose(*totals, rtol=1e-9, atol=1e-9):  # before two slow sorts
        for axis, what in ((1, "columns"), (0, "rows")):
            same = np.array_equal(_sorted(left, axis), _sorted(right, axis))
            if left.shape[axis] > 1 and same:
                return f"both sides have the same {what}, in another order"
    differs = left != right
    if left.ndim and len(left) > 1:
        rows = differs.reshape(len(left), -1).any(1)
        if rows.mean() < 0.9:
            return f"{rows.sum()} of {len(rows)} rows differ: that part is older, or was changed"
    some = slice(None, None, 1 + left.size // ENTRIES)
    found = of_numbers(left.reshape(-1)[some], right.reshape(-1)[some])
    return found or "most entries differ: they are of another training (seed, step or data)"


def _sorted(table: np.ndarray, axis: int) -> np.ndarray:
    """The rows (axis 0) or columns (axis 1) of a table [n, m] in a fixed order."""
    rows = table if axis == 0 else table.T
    return rows[np.lexsort(rows.T)]


def of_names(left: Sequence[Any], right: Sequence[Any]) -> str | None:
    """Of names [P], None where one is unknown; equal pairs included."""
    pairs = dict.fromkeys(zip(left, right, strict=True))
    wrong = [pair for pair in pairs if pair[0] != pair[1]]
    for place, side in enumerate(SIDES):
        if all(pair[place] is None for pair in wrong):
            return f"{side} does not know {_shown([pair[1 - place] for pair in wrong])}"
    if len({one for one, _ in pairs}) == len({other for _, other in pairs}) == len(pairs):
        return f"names are exchanged: left has {_shown([f'{a} for {b}' for a, b in wrong])}"
    if len(left) > 1 and sorted(map(str, left)) == sorted(map(str, right)):
        return "both sides have the same names, in other rows"
    return None


def _shown(names: Sequence[Any]) -> str:
    return ", ".join(map(str, names[:3])) + (f" and {len(names) - 3} more" if names[3:] else "")


def of_lists(
    left: Sequence[list], right: Sequence[list], own: Sequence[Any], time: bool = False
) -> str | None:
    """Of lists of events, the oldest first, of rows that differ.

    Args:
      left: [R] lists; right likewise.
      own: [R] what the row itself would be in the list: its item, or its time.
      time: see of_numbers.
    """
    rows = list(zip(left, right, own, strict=True))
    for side, turned in (("left", rows), ("right", [(b, a, x) for a, b, x in rows])):
        if all(not a for a, _, _ in turned):
            return f"{side} has no events"
        if all(_leaks(*row) for row in turned):
            return f"{side} ends with the row itself: an event sees its own label (leak)"
        for shift in SHIFTS:
            longest = max(len(b) for _, b, _ in turned)
            if longest > shift and all(_ends_early(a, b, shift) for a, b, _ in turned):
                return f"{side} lacks the newest {_events(shift)}: it is shifted, or stale"
        if all(len(a) < len(b) and a == b[-len(a) :] for a, b, _ in turned if a):
            return f"{side} lacks the oldest events: it is truncated"
    if all(a == b[::-1] for a, b, _ in rows):
        return "left is in the reverse order"
    if any(len(a) != len(b) for a, b, _ in rows):
        return None
    one, other = ([x for row in side for x in row] for side in (left, right))
    numeric = all(isinstance(x, int | float) for x in (*one, *other))
    if numeric:
        found = of_numbers(np.array(one), np.array(other), time)
    else:
        found = of_names(one, other)
    if all(sorted(map(str, a)) == sorted(map(str, b)) for a, b, _ in rows):
        return "both sides have the same events, in another order"
    return found


def of_sets(left: Sequence[list], right: Sequence[list]) -> str | None:
    """Of lists [R] without an order, such as the values of an item's feature."""
    rows = [(set(a), set(b)) for a, b in zip(left, right, strict=True)]
    for side, turned in (("left", rows), ("right", [(b, a) for a, b in rows])):
        if not any(a for a, _ in turned):
            return f"{side} has no values"
        if all(a < b for a, b in turned):
            return f"{side} lacks some of the values"
    if all(len(a) == len(b) for a, b in zip(left, right, strict=True)):
        one, other = ([x for row in side for x in row] for side in (left, right))
        return of_names(one, other)
    return None


def _leaks(events: list, other: list, own: Any) -> bool:
    """Whether the events are the other ones and the row itself, with at most as many kept."""
    kept = events[:-1]
    return events[-1:] == [own] and kept == other[len(other) - len(kept) :]


def _ends_early(events: list, other: list, shift: int) -> bool:
    """Whether the events are those before the last `shift` ones of the other side."""
    before = other[: len(other) - shift]
    common = min(len(events), len(before))
    return len(other) >= shift and events[len(events) - common :] == before[len(before) - common :]


def _events(count: int) -> str:
    return "event" if count == 1 else f"{count} events"
