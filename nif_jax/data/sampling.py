"""What a step trains on: the plan of an epoch as arrays of indices, a pure function of the seed.

A plan answers `indices(epoch, shard)` with arrays [S, B, ...]: S steps of one shard's batches. All
shards have the same S, so that devices stay in step; positions beyond a shard's rows weigh 0.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from nif_jax.data.dataset import Dataset
from nif_jax.data.splits import TRAIN


def _rng(*key: int) -> np.random.Generator:
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
    def _rows(self) -> Sequence[np.ndarray]:
        shards = range(len(self.dataset.shard_rows))
        return [self.dataset.impressions(s, TRAIN) for s in shards]

    @property
    def num_rows(self) -> int:
        """Train impressions of all shards."""
        return sum(map(len, self._rows))

    @functools.cached_property
    def steps_per_epoch(self) -> int:
        return -(-max(map(len, self._rows)) // self.batch_size)

    def indices(self, epoch: int, shard: int) -> dict[str, np.ndarray]:
        """Batches of one epoch.

        Returns:
          "row" [S, B] int32, "weight" [S, B] float32, "pair" [S, B // 2] float32: 1 where rows 2j
          and 2j + 1 are a positive and its negative.
        """
        rng, rows = _rng(self.seed, epoch, shard), self._rows[shard]
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


def pack(size: np.ndarray, share: np.ndarray, rng) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Puts sequences side by side in rows, without cutting any.

    Sequences of one share k, of which any k fit a row, fill rows in random order. How many rows
    that takes depends on the shares alone.

    Args:
      size: [W] entries of each sequence.
      share: [W] k of each.
      rng: of the order.

    Returns:
      For each sequence: its row, its place among those of the row (0 .. k - 1), and the entries
      before it in the row.
    """
    order = rng.permutation(len(size))
    order = order[np.argsort(share[order], kind="stable")]
    sorted_share, sorted_size = share[order], size[order]
    slot = (np.arange(len(order)) - np.searchsorted(sorted_share, sorted_share)) % sorted_share
    row = np.cumsum(slot == 0) - 1
    before = np.cumsum(sorted_size) - sorted_size
    before = before - before[np.flatnonzero(slot == 0)][row]
    found = np.empty((3, len(order)), np.int64)
    found[:, order] = row, slot, before
    return tuple(found)


@dataclasses.dataclass(frozen=True)
class SequencePlan:
    """Train movelines as rows of windows; each transition once an epoch.

    Movelines longer than a row are cut into windows with a random phase, one a row. Shorter ones
    are never cut, and share rows: users of a few events would leave rows nearly empty.

    Attributes:
      dataset: the data.
      batch_size: rows of one device and step.
      length: entries of a row; windows that are neighbours share one entry.
      seed: of phase and order.
      without: leave out the k-th of n folds of users, (k, n); (0, 0) leaves out none.
    """

    dataset: Dataset
    batch_size: int
    length: int
    seed: int
    without: tuple[int, int] = (0, 0)

    @functools.cached_property
    def _users(self) -> Sequence[tuple[np.ndarray, ...]]:
        """For each shard: begin and end of each user's train entries, number of windows, and how
        many of such windows share a row."""
        found = []
        for shard in range(len(self.dataset.shard_rows)):
            begin, end = self.dataset.train_entries(shard)
            count = end - begin
            # A phase would cut a moveline that fits one window in two, for nothing.
            cut = np.where(count <= self.length, 1, -(-(count - 1) // (self.length - 1)) + 1)
            share = np.where(cut > 1, 1, self.length // np.maximum(count, 1))
            fold, folds = self.without
            if folds:
                cut = np.where(self.dataset.entry_users(shard) % folds == fold, 0, cut)
            found.append((begin, end, np.where(count >= 2, cut, 0), share))
        return found

    @functools.cached_property
    def _rows(self) -> Sequence[int]:
        """Rows of each shard."""
        found = []
        for *_, windows, share in self._users:
            shares, count = np.unique(np.repeat(share, windows), return_counts=True)
            found.append(int((-(-count // shares)).sum()))
        return found

    @property
    def num_rows(self) -> int:
        """Rows of all shards."""
        return sum(self._rows)

    @functools.cached_property
    def steps_per_epoch(self) -> int:
        return -(-max(self._rows) // self.batch_size)

    def indices(self, epoch: int, shard: int) -> dict[str, np.ndarray]:
        """Batches of one epoch.

        Returns:
          "entry" [S, B, L] int32 places in the shard's history_row, and "segment" [S, B, L] int32:
          which window of the row a place belongs to, from 1; 0 is padding. A window of fewer than
          two entries has nothing to predict and weighs nothing.
        """
        rng = _rng(self.seed, epoch, shard)
        first, last, windows, share = self._users[shard]
        stride = self.length - 1
        owner = np.repeat(np.arange(len(windows)), windows)
        place = np.arange(len(owner)) - np.repeat(np.cumsum(windows) - windows, windows)
        phase = rng.integers(0, stride, len(windows)) * (windows > 1)
        start = first[owner] + place * stride - phase[owner]
        begin = np.maximum(start, first[owner])
        size = np.maximum(np.minimum(start + self.length, last[owner]) - begin, 0)
        row, slot, before = pack(size, share[owner], rng)
        # Rows are spread evenly over steps, so that no step consists of padding alone.
        order = rng.permutation(self._rows[shard])
        target = order % self.steps_per_epoch * self.batch_size + order // self.steps_per_epoch
        table = np.zeros((2, self.steps_per_epoch * self.batch_size, self.length), np.int32)
        window = np.repeat(np.arange(len(owner)), size)
        within = np.arange(len(window)) - np.repeat(np.cumsum(size) - size, size)
        at = target[row[window]], before[window] + within
        table[0][at], table[1][at] = begin[window] + within, slot[window] + 1
        entry, segment = table.reshape(2, self.steps_per_epoch, self.batch_size, self.length)
        return {"entry": entry, "segment": segment}


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
    def num_rows(self) -> int:
        """N."""
        return self.num_items

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.num_items // (self.batch_size * self.num_shards))

    def indices(self, epoch: int, shard: int) -> dict[str, np.ndarray]:
        """ "item" [S, B] int32 and "weight" [S, B] float32."""
        order = 1 + _rng(self.seed, epoch).permutation(self.num_items)
        # Round robin over steps and shards, so that padding is spread evenly.
        lanes = self.steps_per_epoch * self.num_shards
        table = np.zeros((self.batch_size, lanes), np.int32)
        table.reshape(-1)[: len(order)] = order
        item = np.ascontiguousarray(table[:, shard :: self.num_shards].T)
        return {"item": item, "weight": (item > 0).astype(np.float32)}
