"""Counts and rates as the numbers that models read: log(1 + x) and log odds.

Letter: n of them.
"""

import numpy as np

from nif_jax.data.groups import in_blocks


def known_times(time: np.ndarray, order_only: np.ndarray | None) -> np.ndarray:
    """The times, as float64 with NaN where only the order is known: what is computed from them is
    NaN."""
    return time if order_only is None else np.where(order_only, np.nan, time)


def smooth(positive, labelled, expected, prior: float) -> np.ndarray:
    """Posterior mean of a rate under a Beta prior at `expected` that weighs `prior` events."""
    return (positive + np.float32(prior) * expected) / (labelled + np.float32(prior))


def smoothed_log_odds(positive, labelled, expected, prior: float) -> np.ndarray:
    """[n] log odds of `smooth`."""

    def of_block(positive, labelled, expected) -> np.ndarray:
        return log_odds(smooth(positive, labelled, expected, prior))

    return in_blocks(of_block, positive, labelled, expected)


def log_odds(rate: np.ndarray) -> np.ndarray:
    """scipy.special.logit in a tenth of its time; rates are away from 0 and 1."""
    return np.log(rate / (1 - rate))


def log1p(count: np.ndarray) -> np.ndarray:
    """[Q] float32, which is exact enough for what is kept as float16, and twice as fast."""
    return np.log1p(count.astype(np.float32))
