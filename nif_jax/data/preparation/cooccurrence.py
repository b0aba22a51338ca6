"""Vectors of items from what users did in the same part of their moveline, for items without
content."""

import numpy as np
import scipy.sparse
from sklearn.decomposition import TruncatedSVD

WINDOW = 10
"""Events after an event that it occurs together with."""


def cooccurrence_vectors(
    user: np.ndarray, item: np.ndarray, num_items: int, dim: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Truncated SVD of the positive pointwise mutual information of items.

    Two events of a user count as a pair if at most WINDOW events lie from one to the other. With
    counts c_ij, their row sums r_i and their total n, the matrix holds
    max(0, log(c_ij n / (r_i r_j))).

    Args:
      user, item: [E] of events sorted by (user, time); items from 1.
      num_items: N.
      dim: largest D.
      seed: of the SVD.

    Returns:
      Vectors [N, D], and [N] bool, which items occur with others more often than by chance.
    """
    counts = scipy.sparse.csr_matrix((num_items, num_items))
    for offset in range(1, WINDOW + 1):
        pair = (user[offset:] == user[:-offset]) & (item[offset:] != item[:-offset])
        one, other = item[:-offset][pair] - 1, item[offset:][pair] - 1
        places = (np.append(one, other), np.append(other, one))
        shape = (num_items, num_items)
        counts += scipy.sparse.csr_matrix((np.ones(len(places[0])), places), shape=shape)
    found = counts.tocoo()
    total = np.asarray(counts.sum(axis=1)).ravel()
    by_chance = total[found.row] * total[found.col] / max(total.sum(), 1.0)
    found.data = np.maximum(np.log(found.data / by_chance), 0.0)
    matrix = found.tocsr()
    matrix.eliminate_zeros()
    known = np.diff(matrix.indptr) > 0
    rank = min(dim, num_items - 1)
    if rank < 1 or not known.any():
        return np.zeros((num_items, 1)), known
    return TruncatedSVD(rank, random_state=seed).fit_transform(matrix), known
