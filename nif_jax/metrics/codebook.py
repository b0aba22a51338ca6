"""How well a catalogue fills its semantic IDs: usage, perplexity, collisions, purity."""

from typing import Any

import numpy as np


def perplexity(codes: np.ndarray, size: int) -> float:
    """exp of the entropy of how items [N] spread over codes: `size` if evenly, 1 if all in one."""
    share = np.bincount(codes, minlength=size) / len(codes)
    share = share[share > 0]
    return float(np.exp(-(share * np.log(share)).sum()))


def collision_rate(codes: np.ndarray) -> float:
    """Share of items [N, K] whose whole code another item has too."""
    _, inverse, count = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    return float((count[inverse.reshape(-1)] > 1).mean())


def purity(clusters: np.ndarray, categories: np.ndarray) -> float:
    """Share of items whose category is the commonest of their cluster; needs both [N], ids >= 0.

    Items alone in a cluster are pure by definition: compare only where clusters are equally large.
    """
    _, cluster = np.unique(clusters, return_inverse=True)
    pairs = np.stack([cluster.reshape(-1), categories])
    (owner, _), count = np.unique(pairs, axis=1, return_counts=True)
    most = np.zeros(owner.max() + 1, np.int64)
    np.maximum.at(most, owner, count)
    return float(most.sum() / len(categories))


def summarize(
    codes: np.ndarray, size: int, categories: np.ndarray | None = None
) -> list[dict[str, Any]]:
    """One record a level.

    Args:
      codes: [N, K] in 0..size-1, collision digit left out.
      size: V.
      categories: [N] ids, or None.

    Returns:
      "level" from 1, "codes" used at this level whatever the prefix, "fillable" (what the catalogue
      could use: the smaller of V and N), "perplexity", "prefixes" (cohorts down to this level),
      "collision_rate" of prefixes, and "purity" of the cohorts, None without categories.
    """
    records = []
    for level in range(1, codes.shape[1] + 1):
        prefix = codes[:, :level]
        _, cohort = np.unique(prefix, axis=0, return_inverse=True)
        cohort = cohort.reshape(-1)
        column = codes[:, level - 1]
        records.append(
            {
                "level": level,
                "codes": len(np.unique(column)),
                "fillable": min(size, len(codes)),
                "perplexity": perplexity(column, size),
                "prefixes": int(cohort.max()) + 1,
                "collision_rate": collision_rate(prefix),
                "purity": None if categories is None else purity(cohort, categories),
            }
        )
    return records
