"""The mean of two models' log odds, with a weight that validation chooses."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

WEIGHTS = tuple(k / 10 for k in range(11))
"""Choices; finer ones would tell noise apart."""

Array = Any  # numpy.ndarray or jax.Array


def mean_logit(one: Array, other: Array, weight: Array | float) -> Array:
    """[...] log odds of which `other` has the weight, 0 to 1, and `one` the rest."""
    return one + weight * (other - one)


def best_mean(
    evaluate: Callable[[np.ndarray], Mapping[str, Any]],
    one: np.ndarray,
    other: np.ndarray,
    metric: str,
) -> dict[str, Any]:
    """Metrics of the best mean of two, and "blend_weight", the weight of `other` in it.

    Args:
      evaluate: logits [R] -> metrics on validation.
      one: [R] log odds.
      other: [R] log odds.
      metric: by which weights are judged, more is better; of equal ones the smallest weight wins.
    """
    found = [dict(evaluate(mean_logit(one, other, w))) | {"blend_weight": w} for w in WEIGHTS]
    if found[0][metric] is None:  # undefined whatever the weight
        return found[0]
    return max(found, key=lambda metrics: metrics[metric])
