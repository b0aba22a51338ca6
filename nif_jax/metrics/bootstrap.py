"""Paired bootstrap: is the difference of two models on one test set more than its sampling error?

Both models are scored on the same impressions, so both get the same resamples: what is hard in a
resample is hard for both and cancels in their difference (the pairing). A resample draws as many
units as there are, with replacement, and is held as multiplicities: scores are sorted once, and a
resample costs cumulative sums and no sort.

The unit is what another test set would have others of:

  "user" (the default): whole users are drawn. Impressions of one user share a history, an embedding
    and a taste, so their errors are dependent, and GAUC is a mean over users: an interval that
    takes them for independent is too narrow. Right also where impressions are independent.
  "impression": single impressions are drawn, as most papers do. Right where nearly every user has
    one, or for the narrower question of other impressions of these very users.

Seeds: a resample's difference is the mean of the seeds' differences in it, so that the interval is
about the test set's error of the mean that a table shows. The spread of seeds is another question
and stands beside it as the standard deviation.

Efron and Tibshirani, An Introduction to the Bootstrap (1993), percentile intervals, chapter 13; for
clusters, Field and Welsh, Bootstrapping clustered data (2007).
"""

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from nif_jax.metrics import ctr, weighted_auc
from nif_jax.metrics.user_ndcg import user_ndcg

UNITS = ("user", "impression")
SIGNS = {"auc": 1, "gauc": 1, "rank": 1, "logloss": -1}
"""The metrics that are resampled: 1 where more is better, -1 where less is."""
NOT_OF_IMPRESSIONS = ("rank",)
"""Those that are resampled by users alone: a list with impressions drawn twice is another list."""
NO_DIFFERENCE = "no difference"
VERDICTS = ("better", "worse", NO_DIFFERENCE, "undefined")
_LEVEL = 0.95
_CHUNK = 200_000
"""Impressions x resamples of one pass: a few megabytes, which stay in a core's cache."""


class Difference(NamedTuple):
    """A model's metric minus its reference's.

    Attributes:
      mean: over seeds, on the test set as it is; None where the metric is undefined.
      sd: standard deviation (n - 1) over seeds, None for one seed.
      low, high: 95 % percentile interval of the mean over resamples, None where undefined.
      verdict: "no difference" where the interval holds 0, else "better" or "worse", by the metric's
        direction; "undefined" without an interval.
    """

    mean: float | None
    sd: float | None
    low: float | None
    high: float | None
    verdict: str


def resampled_metrics(
    labels: np.ndarray,
    users: np.ndarray,
    logits: np.ndarray,
    *,
    unit: str = "user",
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """AUC, GAUC, rank and LogLoss of many score vectors on the same resamples of one test set.

    Time grows with M x resamples x R: 1,000 resamples of one vector of 20,000 scores take a core
    .1 s by users and .3 s by impressions.

    Args:
      labels: [R] of 0 and 1.
      users: [R] ids of any sortable type.
      logits: [M, R], finite; a row for each model, seed and history.
      unit: what is drawn, see the module's docstring.
      resamples: B.
      seed: of the draws.

    Returns:
      Metric of SIGNS, less NOT_OF_IMPRESSIONS with that unit -> [M, 1 + B]; column 0 is the test
      set as it is (equal to metrics.ctr), the others its resamples. NaN where a resample has one
      class only, and in all of them where the test set has a single unit, which says nothing of
      others.

    Raises:
      ValueError: an unknown unit, no resamples, or arrays that metrics.ctr would refuse.
    """
    if unit not in UNITS:
        raise ValueError(f"unit is {unit!r}; choose from {UNITS}")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    logits = np.asarray(logits)
    for row in logits:
        labels, _ = ctr.checked("bootstrap", labels, row, finite=True)
    _, user = np.unique(np.asarray(users), return_inverse=True)
    if logits.ndim != 2 or user.shape != labels.shape:
        raise ValueError(
            f"logits {logits.shape}, labels {labels.shape} and users {user.shape} "
            "must be [M, R], [R] and [R]"
        )
    unit_of = user if unit == "user" else np.arange(len(labels))  # [R]
    units = int(unit_of.max()) + 1
    statistics = [_statistics(labels, user, unit_of, row) for row in logits.astype(np.float64)]
    found = {metric: np.full((len(logits), 1 + resamples), np.nan) for metric in statistics[0]}
    start, step = 0, max(1, _CHUNK // len(labels))
    for counts in _draw(units, 0 if units == 1 else resamples, step, seed):
        columns = slice(start, start + len(counts))
        for index, of_row in enumerate(statistics):
            for metric, statistic in of_row.items():
                found[metric][index, columns] = statistic(counts)
        start = columns.stop
    return found


def difference(metric: str, model: np.ndarray, reference: np.ndarray) -> Difference:
    """The difference of two models, combined over their common seeds.

    Args:
      metric: of SIGNS.
      model: [S, 1 + B], rows of `resampled_metrics`, a seed each.
      reference: [S, 1 + B], the same seeds in the same order.

    Raises:
      ValueError: shapes that differ, or no seeds.
    """
    if model.shape != reference.shape or not len(model):
        raise ValueError(
            f"model {model.shape} and reference {reference.shape} must be of the same "
            "seeds and resamples, at least one"
        )
    by_seed = model - reference
    mean, resampled = by_seed[:, 0].mean(), by_seed[:, 1:].mean(axis=0)
    resampled = resampled[np.isfinite(resampled)]
    if not np.isfinite(mean):
        return Difference(None, None, None, None, "undefined")
    sd = float(by_seed[:, 0].std(ddof=1)) if len(by_seed) > 1 else None
    if not len(resampled):
        return Difference(float(mean), sd, None, None, "undefined")
    tail = (1 - _LEVEL) / 2
    low, high = (float(limit) for limit in np.quantile(resampled, (tail, 1 - tail)))
    verdict = NO_DIFFERENCE
    if not low <= 0 <= high:
        verdict = "better" if low * SIGNS[metric] > 0 else "worse"
    return Difference(float(mean), sd, low, high, verdict)


def _draw(units: int, resamples: int, step: int, seed: int) -> Iterator[np.ndarray]:
    """Multiplicities [b, units]: ones first, then the resamples, the same for a seed."""
    yield np.ones((1, units))
    rng = np.random.default_rng(seed)
    for start in range(0, resamples, step):
        drawn = rng.integers(units, size=(min(step, resamples - start), units))
        yield np.stack([np.bincount(row, minlength=units) for row in drawn]).astype(np.float64)


def _statistics(
    labels: np.ndarray, user: np.ndarray, unit_of: np.ndarray, logits: np.ndarray
) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Metric -> function of multiplicities [b, units] that gives [b]; arguments are [R]."""
    pairs = weighted_auc.order_pairs(labels, logits, np.zeros(len(labels), np.int64), unit_of)
    by_user = weighted_auc.order_pairs(labels, logits, user, unit_of)
    gauc: dict[str, Callable] = {"gauc": functools.partial(weighted_auc.mean_auc, by_user)}
    if unit_of is user:
        gauc = _of_users(by_user, labels, user, logits)
    losses = np.logaddexp(0.0, np.where(labels == 1, -logits, logits))
    mean_loss = functools.partial(
        _weighted_mean, np.bincount(unit_of, losses), np.bincount(unit_of).astype(np.float64)
    )
    return {
        "auc": functools.partial(weighted_auc.mean_auc, pairs),
        **gauc,
        "logloss": mean_loss,
    }


def _of_users(
    by_user: weighted_auc.Pairs, labels: np.ndarray, user: np.ndarray, logits: np.ndarray
) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """GAUC and rank where users are drawn: their impressions come and go together, so that the AUC
    and the nDCG of a user stay what they are."""
    ndcg = user_ndcg(labels, logits, user)
    area, size = np.zeros((2, len(ndcg)))
    if len(by_user.positive):
        mixed = by_user.positive[by_user.first_positive]
        own = weighted_auc.group_auc(by_user, np.ones((1, len(ndcg))))
        area[mixed], size[mixed] = (found[0] for found in own)
    positives = np.where(size > 0, np.bincount(user, labels), 0.0)

    def rank(counts: np.ndarray) -> np.ndarray:
        by_positives = _weighted_mean(positives * area, positives, counts)
        return (by_positives + _weighted_mean(ndcg, np.ones(len(ndcg)), counts)) / 2

    return {"gauc": functools.partial(_weighted_mean, size * area, size), "rank": rank}


def _weighted_mean(total: np.ndarray, weight: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """[b] mean of a quantity whose total and weight [units] each unit brings along."""
    return weighted_auc.ratio(counts @ total, counts @ weight)
