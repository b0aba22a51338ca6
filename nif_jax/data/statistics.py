"""Count features, standardised: see counters.py for what they are.

Letters: Q queries, F statistics.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from nif_jax.data.counters import Counters, Queries
from nif_jax.data.groups import in_blocks

LIMIT = 10.0
"""Standardised values are cut off at this many standard deviations."""
MIN_STD = 1e-6
CACHED = 4096
"""Rows that are laid out at a time."""


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Statistics of any query, standardised on train rows.

    Attributes:
      counters: what they are computed from.
      names: F names.
      mean: [F] of the train rows.
      std: [F], 0 for a statistic that has one value in train: it is 0 everywhere.
    """

    counters: Counters
    names: tuple[str, ...]
    mean: np.ndarray
    std: np.ndarray

    def values(self, queries: Queries) -> np.ndarray:
        """[Q, F] float16."""
        scales = dict(zip(self.names, zip(self.mean, self.std, strict=True), strict=True))
        columns = self.counters.columns(queries, lambda name, x: _standardised(x, *scales[name]))
        laid = np.empty((len(queries.row), len(self.names)), np.float16)
        lay_out([column for _, column in columns], np.arange(len(laid)), laid)
        return laid

    def with_items(
        self, features: Mapping[str, np.ndarray], named: np.ndarray, first: int
    ) -> "Statistics":
        """See Counters.with_items."""
        return dataclasses.replace(self, counters=self.counters.with_items(features, named, first))


def fit(
    counters: Counters, queries: Queries, fitted: np.ndarray
) -> tuple[Statistics, list[np.ndarray]]:
    """Statistics whose mean is 0 and standard deviation 1 over some queries, and those of all.

    Args:
      counters: of the store.
      queries: Q of them.
      fitted: [n] places of the queries to standardise on.

    Returns:
      The statistics, and [Q] float16 of each for all queries, see lay_out.
    """

    def change(_: str, column: np.ndarray) -> tuple[float, float, np.ndarray]:
        seen = column.take(fitted)
        missing = np.isnan(seen)
        if missing.any():
            seen = seen[~missing]
        mean, std = (float(seen.mean()), float(seen.std())) if len(seen) else (0.0, 0.0)
        std = std if std > MIN_STD else 0.0
        return mean, std, _standardised(column, mean, std)

    found = dict(counters.columns(queries, change))
    means, stds, columns = zip(*found.values(), strict=True)
    return Statistics(counters, tuple(found), np.array(means), np.array(stds)), list(columns)


def lay_out(columns: Sequence[np.ndarray], rows: np.ndarray, to: np.ndarray) -> None:
    """Writes rows [n] of F columns to the first n rows of an array [.., F]."""
    for begin in range(0, len(rows), CACHED):
        part = rows[begin : begin + CACHED]
        to[begin : begin + len(part)] = np.stack([column.take(part) for column in columns]).T


def _standardised(column: np.ndarray, mean: float, std: float) -> np.ndarray:
    """[Q] float16: two bytes a number are exact enough, and a store has many."""
    if not std:
        return np.zeros(len(column), np.float16)

    def scaled(part: np.ndarray) -> np.ndarray:
        values = (part - mean) / std
        np.putmask(values, np.isnan(values), 0)
        return np.clip(values, -LIMIT, LIMIT).astype(np.float16)

    return in_blocks(scaled, column)
