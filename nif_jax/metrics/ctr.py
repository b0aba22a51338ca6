"""Metrics of click-through-rate prediction, over all impressions of a split at once.

Ranking metrics are not means of batches, so everything here takes the merged arrays of a split.
NumPy in float64. A metric that a split does not define (AUC of one class, say) is None, and a
logged warning says which and why: a NaN would poison tables and means, an error would lose the run.
"""

import numpy as np
from absl import logging

from nif_jax.metrics.user_ndcg import user_ndcg


def auc(labels: np.ndarray, scores: np.ndarray, name: str = "auc") -> float | None:
    """Area under the ROC curve: P(positive scores higher) + P(tie) / 2 over mixed pairs.

    Args:
      labels: [E] of 0 and 1.
      scores: [E] in any monotone unit.
      name: of the metric, for warnings and errors.

    Returns:
      AUC in 0..1, or None (with a warning) where all labels are equal.

    Raises:
      ValueError: empty or unequal arrays, a label besides 0 and 1, a NaN score.
    """
    labels, scores = checked(name, labels, scores)
    wins, positives, negatives = _pairs(labels, scores, np.zeros(len(labels), np.int8))
    if not positives[0] or not negatives[0]:
        return _undefined(name, f"all {len(labels)} labels are {labels[0]:.0f}")
    return float(wins[0] / (positives[0] * negatives[0]))


def gauc(labels: np.ndarray, scores: np.ndarray, users: np.ndarray) -> float | None:
    """Mean of the per-user AUCs, weighted by impressions, over users who have both labels.

    On online histories it is biased against models that use feedback; claim it on frozen ones.

    Args:
      labels: [E] of 0 and 1.
      scores: [E] in any unit that is monotone within a user.
      users: [E] ids of any sortable type.

    Returns:
      GAUC in 0..1, or None (with a warning) where no user has both labels.

    Raises:
      ValueError: as `auc`.
    """
    labels, scores = checked("gauc", labels, scores)
    users = np.asarray(users)
    if users.shape != labels.shape:
        raise ValueError(f"gauc: users has shape {users.shape}, labels {labels.shape}")
    wins, positives, negatives = _pairs(labels, scores, users)
    mixed = (positives > 0) & (negatives > 0)
    if not mixed.any():
        return _undefined("gauc", f"none of the {len(mixed)} users has both labels")
    per_user = wins[mixed] / (positives[mixed] * negatives[mixed])
    return float(np.average(per_user, weights=(positives + negatives)[mixed]))


def within_users(
    labels: np.ndarray, scores: np.ndarray, users: np.ndarray
) -> dict[str, float | None]:
    """Ranking within users, as benchmarks of KuaiRand-Pure's long views measure it.

    Returns:
      "gauc_positives": mean of the AUCs of users with both labels, weighted by their positives.
      "ndcg@5": mean over all users of user_ndcg.
      "rank": mean of the two. It and the first are None (with a warning) where no user has both
        labels.

    Args and errors are those of `gauc`.
    """
    labels, scores = checked("rank", labels, scores)
    users = np.asarray(users)
    if users.shape != labels.shape:
        raise ValueError(f"rank: users has shape {users.shape}, labels {labels.shape}")
    user = np.unique(users, return_inverse=True)[1]
    ndcg = float(user_ndcg(labels, scores, user).mean())
    wins, positives, negatives = _pairs(labels, scores, user)
    mixed = (positives > 0) & (negatives > 0)
    if not mixed.any():
        why = f"none of the {len(mixed)} users has both labels"
        names = ("gauc_positives", "rank")
        return {name: _undefined(name, why) for name in names} | {"ndcg@5": ndcg}
    # AUC x positives = wins / negatives.
    area = float((wins[mixed] / negatives[mixed]).sum() / positives[mixed].sum())
    return {"gauc_positives": area, "ndcg@5": ndcg, "rank": (area + ndcg) / 2}


def log_loss(labels: np.ndarray, logits: np.ndarray) -> float:
    """Mean binary cross-entropy in nats, from logits, so that no probability rounds to 0 or 1.

    Args:
      labels: [E] of 0 and 1.
      logits: [E], finite.

    Raises:
      ValueError: as `auc`, or an infinite logit.
    """
    labels, logits = checked("log_loss", labels, logits, finite=True)
    return float(np.mean(np.logaddexp(0.0, np.where(labels == 1, -logits, logits))))


def normalized_entropy(labels: np.ndarray, logits: np.ndarray) -> float | None:
    """Log loss over the entropy of the split's own click rate; 1 is what a constant reaches.

    Returns:
      NE > 0, or None (with a warning) where all labels are equal: that entropy is zero.

    Raises:
      ValueError: as `log_loss`.
    """
    loss = log_loss(labels, logits)
    rate = float(np.mean(np.asarray(labels, np.float64)))
    if rate in (0.0, 1.0):
        return _undefined("ne", f"every label is {rate:.0f}, so the base rate has no entropy")
    return loss / -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))


def calibration_bins(
    labels: np.ndarray, logits: np.ndarray, bins: int = 15
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bins of equal mass along the predicted click rate; equal predictions share one bin.

    Args:
      labels: [E] of 0 and 1.
      logits: [E], finite.
      bins: how many; fewer come back where ties are heavy or E is small.

    Returns:
      Mean prediction [bins], observed click rate [bins], count [bins] int, by rising prediction.

    Raises:
      ValueError: as `log_loss`, or bins < 1.
    """
    labels, logits = checked("calibration_bins", labels, logits, finite=True)
    if bins < 1:
        raise ValueError(f"calibration_bins: bins must be at least 1, got {bins}")
    # Binning by mid-rank keeps ties together: cutting through them would make the result depend
    # on the order of the rows.
    _, inverse, counts = np.unique(logits, return_inverse=True, return_counts=True)
    mid_rank = np.cumsum(counts) - counts / 2
    _, bin_of = np.unique((mid_rank * bins / len(logits)).astype(np.int64), return_inverse=True)
    bin_of_row = bin_of[inverse]
    count = np.bincount(bin_of_row)
    predicted = np.bincount(bin_of_row, _sigmoid(logits)) / count
    return predicted, np.bincount(bin_of_row, labels) / count, count


def ece(labels: np.ndarray, logits: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error: mass-weighted |predicted - observed| over equal-mass bins.

    Raises:
      ValueError: as `calibration_bins`.
    """
    predicted, observed, count = calibration_bins(labels, logits, bins)
    return float(np.average(np.abs(predicted - observed), weights=count))


def pcoc(labels: np.ndarray, logits: np.ndarray) -> float | None:
    """Predicted clicks over observed clicks; above 1 the model promises too much.

    Returns:
      PCOC > 0, or None (with a warning) where nothing was clicked.

    Raises:
      ValueError: as `log_loss`.
    """
    labels, logits = checked("pcoc", labels, logits, finite=True)
    if not labels.any():
        return _undefined("pcoc", f"none of the {len(labels)} labels is 1")
    return float(np.mean(_sigmoid(logits)) / np.mean(labels))


def evaluate(labels: np.ndarray, logits: np.ndarray, users: np.ndarray) -> dict[str, float | None]:
    """All metrics of a split by name, None where undefined; arguments and errors are as above."""
    return {
        "auc": auc(labels, logits),
        "gauc": gauc(labels, logits, users),
        **within_users(labels, logits, users),
        "logloss": log_loss(labels, logits),
        "ne": normalized_entropy(labels, logits),
        "ece": ece(labels, logits),
        "pcoc": pcoc(labels, logits),
    }


def _pairs(
    labels: np.ndarray, scores: np.ndarray, groups: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per group, by rising id: pairs won (a tie is half), positives, negatives; each [groups]."""
    order = np.lexsort((scores, groups))
    labels, scores, groups = labels[order], scores[order], groups[order]
    new_group = np.r_[True, groups[1:] != groups[:-1]]
    tie_starts = np.flatnonzero(new_group | np.r_[True, scores[1:] != scores[:-1]])
    positives = np.add.reduceat(labels, tie_starts)  # [ties], as are the next two
    negatives = np.add.reduceat(1.0 - labels, tie_starts)
    below = np.cumsum(negatives) - negatives
    # Negatives of the groups before count as below too; a group's first tie has their number.
    group_starts = np.flatnonzero(new_group[tie_starts])
    below -= np.repeat(below[group_starts], np.diff(np.r_[group_starts, len(tie_starts)]))
    wins = positives * (below + negatives / 2)
    won, ones, zeros = (np.add.reduceat(a, group_starts) for a in (wins, positives, negatives))
    return won, ones, zeros


def checked(
    name: str, labels: np.ndarray, scores: np.ndarray, finite: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64 [E], or a ValueError that names what is wrong.

    Args:
      name: of the metric, for the message.
      labels: [E] of 0 and 1.
      scores: [E].
      finite: whether infinite scores are refused, as NaN always is.
    """
    labels, scores = np.asarray(labels, np.float64), np.asarray(scores, np.float64)
    if labels.ndim != 1 or labels.shape != scores.shape:
        raise ValueError(
            f"{name}: labels {labels.shape} and scores {scores.shape} must be one "
            "dimension of equal length"
        )
    if not len(labels):
        raise ValueError(f"{name}: labels is empty; the split has no impressions")
    odd = labels[(labels != 0) & (labels != 1)]
    if len(odd):
        raise ValueError(f"{name}: a label is {odd[0]}; keep only impressions, labelled 0 or 1")
    bad = ~np.isfinite(scores) if finite else np.isnan(scores)
    if bad.any():
        raise ValueError(
            f"{name}: {bad.sum()} of {len(scores)} scores are not finite, the first "
            f"({scores[bad][0]}) at row {bad.argmax()}; the model has diverged"
        )
    return labels, scores


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    """Logistic function by tanh, which cannot overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * logits))


def _undefined(name: str, why: str) -> None:
    logging.warning("%s is undefined: %s", name, why)
