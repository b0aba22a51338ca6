"""Movelines as rows of windows, several short ones to a row: what the generator trains on."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from nif_jax.data.dataset import Dataset
from nif_jax.data.sampling import epoch_rng


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
    return found[0], found[1], found[2]


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
            begin, end = self.dataset.train_entries(shard, self.length - 1)
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
        rng = epoch_rng(self.seed, epoch, shard)
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
