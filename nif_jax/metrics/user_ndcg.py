"""nDCG of each user: how high the positives stand among the impressions of that user."""

import numpy as np

CUT = 5
"""Places of a user's list that count."""


def user_ndcg(labels: np.ndarray, scores: np.ndarray, user: np.ndarray, k: int = CUT) -> np.ndarray:
    """[U] DCG@k of each user over that of the best order, 0 for a user without positives.

    Impressions of a user with equal scores share the mean gain of their places, which is the
    expected value over random orders of them.

    Args:
      labels: [E] float64 of 0 and 1.
      scores: [E] float64 in any unit that is monotone within a user.
      user: [E] int; every number from 0 to U - 1 has an impression.
      k: places that count, at least 1.
    """
    order = np.lexsort((-scores, user))
    labels, scores, user = labels[order], scores[order], user[order]
    new_user = np.append(True, user[1:] != user[:-1])
    first = np.flatnonzero(new_user)
    ties = np.flatnonzero(new_user | np.append(True, scores[1:] != scores[:-1]))  # [T] beginnings
    size = np.diff(np.append(ties, len(user)))
    place = ties - first[user[ties]]  # [T] impressions of the user that stand higher
    gain = np.append(0.0, np.cumsum(1 / np.log2(np.arange(2, k + 2))))  # of the first n places
    shared = (gain[np.minimum(place + size, k)] - gain[np.minimum(place, k)]) / size
    dcg = np.bincount(user[ties], np.add.reduceat(labels, ties) * shared)
    best = gain[np.minimum(np.add.reduceat(labels, first).astype(np.int64), k)]
    return np.divide(dcg, best, out=np.zeros(len(best)), where=best > 0)
