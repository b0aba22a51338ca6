"""AUC of groups under multiplicities, as a bootstrap resample gives them to units.

Letters: R impressions, P positives, N negatives, G groups, b resamples.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Positives and negatives in order of (group, score), of the groups that have both.

    Attributes:
      positive, negative: [P], [N] the unit of each.
      below: [P] negatives that a positive outranks, of its own and of all earlier groups.
      tied: [T] the positives that tie with a negative; through: [T] `below` with those negatives.
      first_positive, first_negative: [G] where each group begins.
    """

    positive: np.ndarray
    negative: np.ndarray
    below: np.ndarray
    tied: np.ndarray
    through: np.ndarray
    first_positive: np.ndarray
    first_negative: np.ndarray


def order_pairs(
    labels: np.ndarray, scores: np.ndarray, groups: np.ndarray, unit_of: np.ndarray
) -> Pairs:
    """Sorts the impressions once, for all resamples.

    Args:
      labels: [R] of 0 and 1.
      scores: [R].
      groups: [R] int from 0; a pair is of one group.
      unit_of: [R] the unit that an impression is drawn with.
    """
    positives = np.bincount(groups, labels)
    negatives = np.bincount(groups) - positives
    order = np.lexsort((scores, groups))
    order = order[((positives > 0) & (negatives > 0))[groups[order]]]
    # One number a row that rises with (group, score) and is equal for ties only.
    new = (np.diff(groups[order]) != 0) | (np.diff(scores[order]) != 0)
    tie = np.append(0, np.cumsum(new))[: len(order)]
    is_positive = labels[order] == 1
    positive, negative = order[is_positive], order[~is_positive]
    below = np.searchsorted(tie[~is_positive], tie[is_positive], "left")
    through = np.searchsorted(tie[~is_positive], tie[is_positive], "right")
    tied = np.flatnonzero(through > below)
    return Pairs(
        positive=unit_of[positive],
        negative=unit_of[negative],
        below=below,
        tied=tied,
        through=through[tied],
        first_positive=np.unique(groups[positive], return_index=True)[1],
        first_negative=np.unique(groups[negative], return_index=True)[1],
    )


def group_auc(pairs: Pairs, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AUC and impressions [b, G] of each group for multiplicities [b, units].

    Both are 0 for a group of which a resample has one class only.
    """
    passed = np.zeros((len(counts), len(pairs.negative) + 1))
    np.cumsum(_take(counts, pairs.negative), axis=1, out=passed[:, 1:])
    weight = _take(counts, pairs.positive)  # [b, P]
    outranked = _take(passed, pairs.below)
    if len(pairs.tied):
        outranked[:, pairs.tied] += (_take(passed, pairs.through) - outranked[:, pairs.tied]) / 2
    outranked *= weight
    positives = np.add.reduceat(weight, pairs.first_positive, axis=1)  # [b, G]
    earlier = _take(passed, pairs.first_negative)  # [b, G] negatives of the groups before
    negatives = np.diff(earlier, axis=1, append=passed[:, -1:])
    wins = np.add.reduceat(outranked, pairs.first_positive, axis=1) - earlier * positives
    mixed = positives * negatives
    auc = np.divide(wins, mixed, out=np.zeros_like(wins), where=mixed > 0)
    return auc, np.where(mixed > 0, positives + negatives, 0.0)


def mean_auc(pairs: Pairs, counts: np.ndarray) -> np.ndarray:
    """[b] mean of the groups' AUCs, weighted by impressions; NaN where no group has both labels."""
    if not len(pairs.positive):
        return np.full(len(counts), np.nan)
    auc, size = group_auc(pairs, counts)
    return ratio((size * auc).sum(axis=1), size.sum(axis=1))


def ratio(total: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """[b] total / weight, NaN where the weight is 0."""
    return np.divide(total, weight, out=np.full(len(weight), np.nan), where=weight > 0)


def _take(columns: np.ndarray, index: np.ndarray) -> np.ndarray:
    """columns[:, index] without the check of bounds, which costs as much as the copy."""
    return np.take(columns, index, axis=1, mode="clip")
