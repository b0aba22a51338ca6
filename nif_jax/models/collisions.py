"""Distinct semantic IDs for items whose nearest codes are equal (method.md, 2.1).

Letters: N items, K levels, V codes a level, d latent width.
"""

import numpy as np


def resolve_collisions(latent: np.ndarray, vectors: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Moves items that share a whole code to the nearest last codes that are free.

    Items with similar content get equal nearest codes. Last codes are assigned to the colliding
    items of a prefix by distance, nearest first, so that few items move, and not far (the uniform
    mapping of LC-Rec, without its optimal transport). Items beyond the V of a prefix keep theirs.

    Args:
      latent: [N, d] what was quantised.
      vectors: [K, V, d] codebooks.
      codes: [N, K] nearest codes.

    Returns:
      [N, K] codes that differ from `codes` in the last column only.
    """
    codes, size = codes.copy(), vectors.shape[1]
    _, whole, shared = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    colliding = shared[whole.reshape(-1)] > 1
    _, prefix = np.unique(codes[:, :-1], axis=0, return_inverse=True)
    prefix = prefix.reshape(-1)
    order = np.argsort(prefix, kind="stable")
    for items in np.split(order, np.flatnonzero(np.diff(prefix[order])) + 1):
        moving = items[colliding[items]]
        if not len(moving):
            continue
        residual = latent[moving] - sum(
            vectors[level][codes[moving, level]] for level in range(codes.shape[1] - 1)
        )
        distance = ((residual[:, None] - vectors[-1]) ** 2).sum(-1)  # [n, V]
        free = np.ones(size, bool)
        free[codes[items[~colliding[items]], -1]] = False
        waiting = np.ones(len(moving), bool)
        for flat in np.argsort(distance, axis=None, kind="stable"):
            item, code = divmod(int(flat), size)
            if waiting[item] and free[code]:
                codes[moving[item], -1] = code
                waiting[item], free[code] = False, False
            if not (waiting.any() and free.any()):
                break
    return codes
