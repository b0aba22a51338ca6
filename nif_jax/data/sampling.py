"""What a step trains on: the plan of an epoch as arrays of indices, a pure function of the seed.

`indices(epoch, shard)` of a plan returns arrays [S, B, ...]: S steps of one shard's batches. All
shards have the same S, so that devices stay in step; positions beyond a shard's rows weigh 0. The
generator's plan is in nif_jax/data/packing.py.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from grain.experimental import index_shuffle

from nif_jax.data import ranges
from nif_jax.data.dataset import Dataset
from nif_jax.data.splits import TRAIN


def epoch_rng(*key: int) -> np.random.Generator:
    """The source of chance of an epoch, from seed, epoch and shard."""
    return np.random.default_rng(key)


def pair_rows(
    user: np.ndarray,
    time: np.ndarray,
    label: np.ndarray,
    rng: np.random.Generator,
    *,
    min_events: int,
    min_seconds: int,
    max_events: int,
) -> np.ndarray:
    """Pairs each user's positives with negatives from another time window, at random.

    The k-th positive of a user in a random order meets the k-th negative in a random order, so that
    a row is in at most one pair; pairs whose members are too near or too far are taken apart.

    Args:
      user: [R] int, sorted; rows are in order of (user, time).
      time: [R] int seconds.
      label: [R] 1 or 0.
      rng: the source of chance.
      min_events: fewest places between the members among the user's rows (1: any two).
      min_seconds: fewest seconds between them.
      max_events: most places between them; 0 = no bound.

    Returns:
      [P, 2] int: (positive, negative) positions in 0..R-1.
    """
    order = np.lexsort((rng.random(len(user)), label, user))  # users apart, labels apart, shuffled
    _, start, count = np.unique(user, return_index=True, return_counts=True)
    positives = np.add.reduceat(label, start).astype(np.int64) if len(start) else count
    negatives = count - positives
    pairs = np.minimum(positives, negatives)
    owner = np.repeat(np.arange(len(start)), pairs)
    place = np.arange(pairs.sum()) - np.repeat(np.cumsum(pairs) - pairs, pairs)
    negative = order[start[owner] + place]
    positive = order[start[owner] + negatives[owner] + place]
    distance = np.abs(positive - negative)
    keep = (distance >= min_events) & (np.abs(time[positive] - time[negative]) >= min_seconds)
    if max_events:
        keep &= distance <= max_events
    return np.stack([positive, negative], axis=1)[keep]


class _Computed:
    """A sequence over steps whose entries are computed when they are read."""

    def __init__(self, entry: Callable[[int], np.ndarray]):
        self._entry = entry

    def __getitem__(self, step: int) -> np.ndarray:
        return self._entry(step)


@dataclasses.dataclass(frozen=True)
class ImpressionPlan:
    """Every train impression once an epoch; TSP pairs side by side in one batch.

    Pairing decides the ORDER of an epoch and nothing else: with TSP or without, each row pays its
    cross-entropy once.

    Attributes:
      dataset: the data.
      batch_size: rows of one device and step, even.
      seed: of the order.
      pairs: whether to pair at all; the rest is for pair_rows.
    """

    dataset: Dataset
    batch_size: int
    seed: int
    pairs: bool = False
    min_events: int = 1
    min_seconds: int = 0
    max_events: int = 0

    @functools.cached_property
    def steps_per_epoch(self) -> int:
        shards = range(len(self.dataset.shard_rows))
        longest = max(len(self.dataset.impressions(s, TRAIN)) for s in shards)
        return -(-longest // self.batch_size)

    def indices(self, epoch: int, shard: int) -> Mapping[str, Any]:
        """Batches of one epoch.

        Returns:
          "row" [S, B] int32, "weight" [S, B] float32, "pair" [S, B // 2] float32: 1 where rows 2j
          and 2j + 1 are a positive and its negative. Of a large log without pairs the values are
          sequences [S], whose entries are computed when they are read.
        """
        rng, rows = epoch_rng(self.seed, epoch, shard), self.dataset.impressions(shard, TRAIN)
        if self.dataset.movelines.num_events >= ranges.LARGE and not self.pairs:
            return self._shuffled(rows, int(rng.integers(1 << 32)))
        pairs = np.zeros((0, 2), np.int64)
        if self.pairs:
            lines, at = self.dataset.movelines, self.dataset.shard_rows[shard][rows]
            pairs = pair_rows(
                lines.user[at],
                lines.time[at],
                lines.label[at],
                rng,
                min_events=self.min_events,
                min_seconds=self.min_seconds,
                max_events=self.max_events,
            )
            pairs = pairs[rng.permutation(len(pairs))]
        single = np.ones(len(rows), bool)
        single[pairs] = False
        singles = rng.permutation(np.flatnonzero(single))
        return self._lay_out(rows, pairs, singles)

    def _shuffled(self, rows: np.ndarray, seed: int) -> dict[str, "_Computed"]:
        """Rows in the order of a bijection of 0..R-1, dealt to batches as `_lay_out` does."""
        last = len(rows) - 1

        def places(step: int) -> np.ndarray:
            return np.arange(
                step, step + self.batch_size * self.steps_per_epoch, self.steps_per_epoch
            )

        def row(step: int) -> np.ndarray:
            place = [
                index_shuffle(p, max_index=last, seed=seed, rounds=4)
                for p in places(step).tolist()
                if p <= last
            ]
            found = np.zeros(self.batch_size, np.int32)
            found[: len(place)] = rows[place]
            return found

        return {
            "row": _Computed(row),
            "weight": _Computed(lambda step: (places(step) <= last).astype(np.float32)),
            "pair": _Computed(lambda step: np.zeros(self.batch_size // 2, np.float32)),
        }

    def _lay_out(self, rows, pairs, singles) -> dict[str, np.ndarray]:
        """Deals pairs to the fronts of batches and singles to the places left, both evenly."""
        steps, size = self.steps_per_epoch, self.batch_size
        half = np.arange(len(pairs))
        table = np.full((steps, size), -1, np.int64)
        table[half % steps, 2 * (half // steps)] = pairs[:, 0]
        table[half % steps, 2 * (half // steps) + 1] = pairs[:, 1]
        pair = np.zeros((steps, size // 2), np.float32)
        pair[half % steps, half // steps] = 1
        # Column by column over free places: every batch gets its share of a short last column.
        free_column, free_step = np.nonzero(table.T < 0)
        table[free_step[: len(singles)], free_column[: len(singles)]] = singles
        weight = (table >= 0).astype(np.float32)
        row = rows[np.maximum(table, 0)] if len(rows) else np.zeros_like(table)
        return {"row": row.astype(np.int32), "weight": weight, "pair": pair}


@dataclasses.dataclass(frozen=True)
class ItemPlan:
    """Every item of the catalogue once an epoch, dealt to the shards.

    Attributes:
      num_items: N.
      batch_size: items of one device and step.
      num_shards: devices of the run.
      seed: of the order.
    """

    num_items: int
    batch_size: int
    num_shards: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.num_items // (self.batch_size * self.num_shards))

    def indices(self, epoch: int, shard: int) -> dict[str, np.ndarray]:
        """ "item" [S, B] int32 and "weight" [S, B] float32."""
        order = 1 + epoch_rng(self.seed, epoch).permutation(self.num_items)
        # Round robin over steps and shards, so that padding is spread evenly.
        lanes = self.steps_per_epoch * self.num_shards
        table = np.zeros((self.batch_size, lanes), np.int32)
        table.reshape(-1)[: len(order)] = order
        item = np.ascontiguousarray(table[:, shard :: self.num_shards].T)
        return {"item": item, "weight": (item > 0).astype(np.float32)}
