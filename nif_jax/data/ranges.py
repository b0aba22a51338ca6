"""Shards of large logs: ranges of users, so that a shard's rows are a range of every column.

Columns of a large log are mapped from files. A shard reads its range of them in place, and a
process reads no pages of the shards of others. Smaller logs are dealt out user by user
(nif_jax/data/shards.py), which makes shards more even, and copies every column.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

LARGE = 1 << 24
"""Events from which on a log is large: its columns for training are kept in files, its shards are
ranges of users, and an epoch is ordered by a function of the place instead of a permutation."""


def cut_users(user_offsets: np.ndarray, num_shards: int) -> np.ndarray:
    """[D + 1] the first user of each shard, and U: about equal numbers of events, and a user at
    least.

    Args:
      user_offsets: [U + 1], see Movelines; U >= D.
      num_shards: D.
    """
    cuts, events, users = [0], int(user_offsets[-1]), len(user_offsets) - 1
    for shard in range(1, num_shards):
        cut = int(np.searchsorted(user_offsets, events * shard // num_shards))
        # A user of many events must not leave a shard without users.
        cuts.append(min(max(cut, cuts[-1] + 1), users - (num_shards - shard)))
    return np.array([*cuts, users])


class RowRange:
    """Rows `begin` to `end` - 1 of a store, used like an array [n] of them, without its memory."""

    def __init__(self, begin: int, end: int):
        self.begin, self.end = int(begin), int(end)

    def __len__(self) -> int:
        return self.end - self.begin

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.arange(self.begin, self.end, dtype=dtype)

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.begin, self.end))

    def __getitem__(self, index: Any) -> Any:
        """Rows at places [...], of a slice, or where a mask [n] is True."""
        if isinstance(index, slice):
            part = range(self.begin, self.end)[index]
            return np.arange(part.start, part.stop, part.step)
        index = np.asarray(index)
        return self.begin + (np.flatnonzero(index) if index.dtype == bool else index)


def own_rows(
    user_offsets: np.ndarray, num_shards: int, local_shards: Sequence[int]
) -> list[RowRange]:
    """The rows that the local shards of a run read: of a log that is not large, any row."""
    rows = user_offsets[[0, -1]]
    if rows[-1] < LARGE:
        return [RowRange(*rows)]
    rows = user_offsets[cut_users(user_offsets, num_shards)]
    return [RowRange(rows[shard], rows[shard + 1]) for shard in local_shards]


def of_rows(column: np.ndarray, rows: "np.ndarray | RowRange") -> np.ndarray:
    """[n, ...] a column [E, ...] at rows; of a range, in place."""
    return column[rows.begin : rows.end] if isinstance(rows, RowRange) else column[rows]


class ShardColumn:
    """A column of the local shards, [D_local, W], that is not copied to pad it.

    Its entries are ranges of an array, of their own lengths. As an array it is padded with zeros to
    W, as every process has to map programs of equal shapes.

    Attributes:
      parts: for each local shard [n], n <= W.
      shape: (D_local, W).
    """

    def __init__(self, parts: list[np.ndarray], width: int):
        self.parts, self.shape = parts, (len(parts), width)
        self.dtype = parts[0].dtype
        self.nbytes = len(parts) * width * self.dtype.itemsize

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, shard: int) -> np.ndarray:
        return self.parts[shard]

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        table = np.zeros(self.shape, dtype or self.dtype)
        for row, part in zip(table, self.parts, strict=True):
            row[: len(part)] = part
        return table
