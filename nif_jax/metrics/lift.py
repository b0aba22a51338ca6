"""Lift of an online A/B test: how many more clicks, with the interval that its users allow."""

from typing import NamedTuple

import numpy as np

_LEVEL = 0.95
_CHUNK = 2_000_000  # users x resamples drawn at once


class Lift(NamedTuple):
    """Clicks of a treatment over those of a reference, minus 1.

    Attributes:
      mean: on the users as they are.
      low, high: 95 % percentile interval over resampled users.
    """

    mean: float
    low: float
    high: float


def relative(treatment: np.ndarray, reference: np.ndarray) -> float:
    """sum(treatment) / sum(reference) - 1.

    Raises:
      ValueError: the reference has nothing to compare with.
    """
    total = float(np.sum(reference))
    if total <= 0:
        raise ValueError(
            "the reference arm has no clicks, so there is no lift over it; give the test more "
            "impressions"
        )
    return float(np.sum(treatment)) / total - 1


def paired_lift(treatment: np.ndarray, reference: np.ndarray, *, resamples: int, seed: int) -> Lift:
    """Lift with its interval by paired bootstrap over users.

    Both arms are measured on the same users (and random numbers), so a resample takes a user's
    clicks of both: what is hard in a user is hard for both and cancels in the ratio.

    Args:
      treatment: [U] clicks of each user under the treatment, over equally many impressions.
      reference: [U] the same under the reference.
      resamples: how many sets of U users are drawn, with replacement.
      seed: of the draws.

    Raises:
      ValueError: shapes differ, no users or resamples, or a reference without clicks.
    """
    treatment, reference = (np.asarray(x, np.float64) for x in (treatment, reference))
    if treatment.shape != reference.shape or treatment.ndim != 1 or not len(treatment):
        raise ValueError(f"arms have shapes {treatment.shape} and {reference.shape}; both are [U]")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    mean, users = relative(treatment, reference), len(treatment)
    rng, clicks, drawn = np.random.default_rng(seed), np.stack([treatment, reference], 1), []
    step = max(1, _CHUNK // users)
    for start in range(0, resamples, step):
        counts = rng.multinomial(users, np.full(users, 1 / users), min(step, resamples - start))
        drawn.append(counts @ clicks)  # [b, 2]
    above, below = np.concatenate(drawn).T
    # A resample without any click of the reference has no lift.
    found = above[below > 0] / below[below > 0] - 1
    tail = (1 - _LEVEL) / 2
    low, high = np.quantile(found, (tail, 1 - tail))
    return Lift(mean, float(low), float(high))
