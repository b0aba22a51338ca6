"""Count features of the rows of a store, laid out for the devices."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from nif_jax.data import splits
from nif_jax.data.counters import Counters, Queries
from nif_jax.data.ranges import RowRange
from nif_jax.data.schema import NO_LABEL, Movelines
from nif_jax.data.statistics import Statistics, fit, lay_out


class RowStatistics(NamedTuple):
    """Statistics of the rows of the local shards, standardised on the train impressions.

    Attributes:
      fitted: what they were computed by.
      arrays: what `gather_statistics` reads: "values" [D_local, E, F] float16, of each row with all
        that it may see; "cut_values" [D_local, C, F] float16, of each row after train as if its
        user's events ended where the row's period begins; "cut" [D_local, E] int32, place in
        cut_values, -1 for a train row. One mapping for the whole run: Context.place shares what is
        the same object.
    """

    fitted: Statistics
    arrays: Mapping[str, np.ndarray]


def gather_statistics(index: Mapping[str, Any], values: Any, cut_values: Any, cut: Any) -> Any:
    """[B, F] float32 statistics of rows, cut where the history is; NumPy or JAX.

    Args:
      index: see windows.history_bounds.
      values, cut_values, cut: of one shard, see RowStatistics.
    """
    rows = index["row"]
    xp = rows.__array_namespace__()
    found = values[rows]
    if "frozen" in index:
        place = cut[rows]
        chosen = index["frozen"] & (place >= 0)
        found = xp.where(chosen[:, None], cut_values[xp.maximum(place, 0)], found)
    return found.astype(xp.float32)


def row_statistics(
    lines: Movelines,
    label: np.ndarray,
    sampled: np.ndarray,
    split: np.ndarray,
    bounds: tuple[np.ndarray, np.ndarray],
    shard_rows: Sequence[np.ndarray | RowRange],
    local_shards: Sequence[int],
    length: int,
    padded: Callable[[int], int] = int,
) -> RowStatistics:
    """Statistics of every row.

    Args:
      lines: the store, with the labels that rankers may use.
      label: [E] int8, the labels that statistics read.
      sampled: [E] bool, rows that are no events.
      split: [E] int8, see splits.assign_splits.
      bounds: see histories.visible_rows.
      shard_rows: rows of each shard of the run.
      local_shards: those of this process.
      length: rows that each shard's store is padded to.
      padded: most rows after train that a shard has -> how many all shards are padded to.
    """
    train = split == splits.TRAIN
    columns = (lines.user, lines.item, lines.scene, lines.time)
    unknown = lines.order_only
    counters = Counters(*columns, label, ~sampled, train, lines.item_features, unknown)
    fitted_on = np.flatnonzero(train & (lines.label != NO_LABEL))
    fitted, columns = fit(counters, _queries(lines, train, bounds), fitted_on)
    later = np.flatnonzero(~train)
    place = np.full(lines.num_events, -1)
    place[later] = lines.num_events + np.arange(len(later))
    shape = len(local_shards), length
    most = padded(max(1, *(int((~train[rows]).sum()) for rows in shard_rows)))
    values = np.zeros((*shape, len(columns)), np.float16)
    cut_values = np.zeros((len(local_shards), most, len(columns)), np.float16)
    own = np.full(shape, -1, np.int32)
    for number, shard in enumerate(local_shards):
        rows = np.asarray(shard_rows[shard])
        after = ~train[rows]
        lay_out(columns, rows, values[number])
        lay_out(columns, place[rows[after]], cut_values[number])
        own[number, : len(rows)] = np.where(after, np.cumsum(after) - 1, -1)
    return RowStatistics(fitted, {"values": values, "cut_values": cut_values, "cut": own})


def _queries(lines: Movelines, train: np.ndarray, bounds: tuple[np.ndarray, np.ndarray]) -> Queries:
    """Of every row, and once more of those after train, cut."""
    visible, cut = bounds
    later = np.flatnonzero(~train)
    row = np.append(np.arange(lines.num_events), later)
    user, item, scene, time = (
        column[row] for column in (lines.user, lines.item, lines.scene, lines.time)
    )
    unknown = None if lines.order_only is None else lines.order_only[row]
    seen = np.append(visible, cut[later]).astype(np.int64)
    return Queries(user, seen, time, item, scene, ~train[row], unknown)
