"""What two models have besides their programs, part by part, in the order of their use.

Letters: n entries of an array.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from nif_jax.serving import parity_patterns
from nif_jax.serving.model import Model
from nif_jax.serving.parity_columns import unequal
from nif_jax.serving.parity_tables import Difference, shown
from nif_jax.serving.programs import SPARE_ITEMS

TOLERANCE = 1e-6
"""As that of parity_columns, for parameters: constants may have been computed on both sides."""
KINDS = ("user", "item", "scene", "action")


def _settings(left: Model, right: Model) -> Iterator[Difference]:
    """What decides how requests are encoded."""
    sides = [_described(model) for model in (left, right)]
    for name in dict.fromkeys((*sides[0], *sides[1])):
        values = [side.get(name, "none") for side in sides]
        if values[0] != values[1]:
            reason = "another config, variant or version of the code"
            if name == "second of the first event":
                reason = f"left is right {values[0] - values[1]:+} s: {parity_patterns.CLOCK}"
            if "none" in values:
                reason = f"{parity_patterns.SIDES[values.index('none')]} has none"
            both = shown(values[0]), shown(values[1])
            yield Difference(name, "a setting", "settings", both, reason)


def _described(model: Model) -> dict[str, Any]:
    encoder, log = model.encoder, model.encoder.log
    scenes = [
        str(name)
        for name, ranked in zip(model.vocabulary.scene, log.ranked_scene[1:], strict=True)
        if ranked
    ]
    statistics = encoder.statistics
    names = "none" if statistics is None else list(statistics.names)
    return {
        "variant": model.variant,
        "length of the history": encoder.length,
        "events of histories": log.history,
        "scenes whose labels are read": scenes,
        "second of the first event": log.base,
        "user features": sorted(encoder.user_features),
        "item features": sorted(model.features.items),
        "count features": names,
        "labels of count features": "those of rankers" if encoder.ranked else "all",
        "context of the generator": encoder.context,
        "windows are chunks": encoder.chunked,
        "label head is read": encoder.past,
    }


def _vocabularies(left: Model, right: Model) -> Iterator[Difference]:
    sides = [_vocabulary(model) for model in (left, right)]
    for name in dict.fromkeys((*sides[0], *sides[1])):
        one, other = (side.get(name, np.zeros(0, object)) for side in sides)
        if np.array_equal(one, other):
            continue
        least = min(len(one), len(other))
        place = int(np.argmax(np.append(one[:least] != other[:least], True)))
        first, second = (shown(x[place]) if place < len(x) else "none" for x in (one, other))
        sizes = f"{len(one):,} names on the left, {len(other):,} on the right"
        reason = _why_names(one, other)
        where = f"number {place + 1}"
        yield Difference(f"vocabulary {name}", sizes, where, (first, second), reason)


def _vocabulary(model: Model) -> dict[str, np.ndarray]:
    names = model.vocabulary
    found = {kind: getattr(names, kind) for kind in KINDS}
    found |= {f"user/{name}": values for name, values in names.profile.items()}
    found |= {f"item/{name}": values for name, values in names.item_profile.items()}
    return found | {"label of each action": names.action_label}


def _why_names(one: np.ndarray, other: np.ndarray) -> str:
    sides = [set(x.tolist()) for x in (one, other)]
    if sides[0] == sides[1]:
        return "both sides have the same names in another order: rows of tables are exchanged"
    more = [sides[0] - sides[1], sides[1] - sides[0]]
    lacks = [
        f"{side} lacks {len(x):,}" for side, x in zip(("right", "left"), more, strict=True) if x
    ]
    return f"{' and '.join(lacks)}: other data, which may be older"


def _data(left: Model, right: Model) -> Iterator[Difference]:
    """Movelines of the run's data, and features of users."""
    logs, names = (left.encoder.log, right.encoder.log), left.vocabulary.user
    sizes = [np.diff(log.offsets) for log in logs]
    users = np.flatnonzero(sizes[0] != sizes[1])
    if len(users):
        few = "left" if sizes[0].sum() < sizes[1].sum() else "right"
        counts = f"{sizes[0][users[0]]} events", f"{sizes[1][users[0]]} events"
        extent = f"movelines of {len(users):,} of {len(names):,} users"
        reason = f"{few} has fewer events: older data, or events were left out"
        yield Difference("moveline/length", extent, f"user {names[users[0]]}", counts, reason)
        return
    owner = np.repeat(np.arange(len(names)), sizes[0])

    def event(row: int) -> str:
        return f"user {names[owner[row]]}, event {row - logs[0].offsets[owner[row]]}"

    for name in logs[0].rows._fields:
        columns = getattr(logs[0].rows, name), getattr(logs[1].rows, name)
        yield from of_array(f"moveline/{name}", columns, event)
    users_of = [model.encoder.user_features for model in (left, right)]
    for name in users_of[0]:
        columns = users_of[0][name], users_of[1][name]
        yield from of_array(f"user/{name}", columns, lambda n: f"user {[*names, 'unknown'][n]}")


def _tables(left: Model, right: Model) -> Iterator[Difference]:
    """Parameters and constants, the arguments of every program."""
    sides, items = [model.tables for model in (left, right)], left.vocabulary.item
    for name in dict.fromkeys((*sides[0], *sides[1])):
        one, other = (side.get(name) for side in sides)
        if one is None or other is None:
            lacks = "left" if one is None else "right"
            none, some = "none", "a table"
            values = (none, some) if one is None else (some, none)
            yield Difference(name, "a table", "tables", values, f"{lacks} does not have it")
            continue

        def item(row: int, size: int = len(one)) -> str:
            known = size == len(items) + 2 + SPARE_ITEMS and 0 < row <= len(items)
            return f"row {row}, item {items[row - 1]}" if known else f"row {row}"

        yield from of_array(name, (np.asarray(one), np.asarray(other)), item)


def _count_features(left: Model, right: Model) -> Iterator[Difference]:
    """Totals of all users' events, and what their features are standardised by."""
    one, other = left.encoder.statistics, right.encoder.statistics
    if one is None or other is None:
        return
    sides = [statistics.counters.past.arrays() for statistics in (one, other)]
    for name in sides[0]:
        columns = sides[0][name], sides[1][name]
        yield from of_array(f"count features/{name}", columns, lambda n: f"row {n}")
    for name in ("mean", "std"):
        columns = getattr(one, name), getattr(other, name)
        yield from of_array(f"count features/{name}", columns, lambda n: other.names[n])


def _calibration(left: Model, right: Model) -> Iterator[Difference]:
    sides = [dataclasses.asdict(model.calibration) for model in (left, right)]
    for side in sides:
        del side["log_loss"]  # a measurement, which no score depends on
    if sides[0] != sides[1]:
        wrong = [name for name in sides[0] if sides[0][name] != sides[1][name]]
        one, other = (shown(", ".join(f"{n} {side[n]}" for n in wrong)) for side in sides)
        reason = "another calibration: fitted again, or of another variant or seed"
        yield Difference("calibration", "the map of logits", "its numbers", (one, other), reason)


PARTS: Mapping[str, Callable[[Model, Model], Iterator[Difference]]] = {
    "settings": _settings,
    "vocabularies": _vocabularies,
    "data": _data,
    "parameters": _tables,
    "count features": _count_features,
    "calibration": _calibration,
}
"""What is compared without a request, in this order."""


def of_array(
    name: str,
    sides: tuple[np.ndarray, np.ndarray],
    place: Callable[[int], str],
    tolerance: float = TOLERANCE,
) -> Iterator[Difference]:
    """Yields the difference of two arrays [n, ...], whose entries `place` names."""
    left, right = sides
    if left.shape != right.shape or left.dtype != right.dtype:
        values = f"{left.dtype} {list(left.shape)}", f"{right.dtype} {list(right.shape)}"
        alike = left.shape == right.shape
        reason = "another precision" if alike else "another config or version of the code"
        yield Difference(name, "an array", "shape and type", values, reason)
        return
    differs = unequal(left, right, tolerance)
    if not differs.any():
        return
    first = np.unravel_index(np.argmax(differs), differs.shape)
    values = shown(left[first].item()), shown(right[first].item())
    where = place(int(first[0])) if first else "the value"
    where += f", column {', '.join(map(str, first[1:]))}" if len(first) > 1 else ""
    if name.endswith("/time"):
        reason = parity_patterns.of_numbers(left, right, time=True) or parity_patterns.of_table(
            left, right
        )
    else:
        reason = parity_patterns.of_table(left, right)
    extent = f"{differs.sum():,} of {differs.size:,} entries"
    yield Difference(name, extent, where, values, reason)
