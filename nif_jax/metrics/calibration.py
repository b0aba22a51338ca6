"""Calibration of a ranker's logits on validation: none, Platt's, or isotonic regression."""

import dataclasses

import numpy as np
from scipy.special import logit

from nif_jax.metrics import ctr

METHODS = ("none", "platt", "isotonic")
FOLDS = 5
MIN_SLOPE = 1e-4
"""Every map rises at least this much, so that ranks, and with them AUC and GAUC, stay."""


@dataclasses.dataclass(frozen=True)
class Calibration:
    """A rising map of logits: piecewise linear between knots, plus slope * logit + shift.

    Attributes:
      method: one of METHODS.
      slope: see above; shift likewise.
      knots: [K] rising logits, none for a linear map; values: [K] what they are mapped to.
      log_loss: of validation, each fold mapped by what the other folds were fitted to.
    """

    method: str
    slope: float = 1.0
    shift: float = 0.0
    knots: tuple[float, ...] = ()
    values: tuple[float, ...] = ()
    log_loss: float = float("nan")

    def __call__(self, logits: np.ndarray) -> np.ndarray:
        """[R] calibrated logits in the dtype of the given ones."""
        mapped = self.slope * logits.astype(np.float64) + self.shift
        if self.knots:
            mapped += np.interp(logits, self.knots, self.values)
        return mapped.astype(logits.dtype)


def fit_calibration(labels: np.ndarray, logits: np.ndarray, users: np.ndarray) -> Calibration:
    """The method with the least log loss on held-out users, fitted to all of them.

    Args:
      labels: [R] 0 or 1.
      logits: [R] finite.
      users: [R] ids; a user's rows are in one fold.
    """
    logits = logits.astype(np.float64)
    fold = np.unique(users, return_inverse=True)[1]
    fold = np.random.default_rng(0).permutation(fold.max() + 1)[fold] % FOLDS
    losses = {}
    for method in METHODS:
        mapped = np.empty_like(logits)
        for number in np.unique(fold):
            held = fold == number
            mapped[held] = _fit(method, labels[~held], logits[~held])(logits[held])
        losses[method] = ctr.log_loss(labels, mapped)
    best = min(losses, key=losses.__getitem__)
    return dataclasses.replace(_fit(best, labels, logits), log_loss=losses[best])


def _fit(method: str, labels: np.ndarray, logits: np.ndarray) -> Calibration:
    """A map fitted to labels [R]; without both labels there is nothing to fit."""
    # A second of imports that serving, which only applies a map, does without.
    from sklearn.isotonic import IsotonicRegression
    from sklearn.linear_model import LogisticRegression

    if method == "none" or len(np.unique(labels)) < 2:
        return Calibration(method)
    if method == "platt":
        model = LogisticRegression(C=np.inf).fit(logits[:, None], labels)
        slope, shift = float(model.coef_[0, 0]), float(model.intercept_[0])
        if slope < MIN_SLOPE:  # the scores are no better than a constant
            slope, shift = MIN_SLOPE, float(logit(labels.mean()))
        return Calibration(method, slope, shift)
    model = IsotonicRegression(out_of_bounds="clip").fit(logits, labels)
    # Laplace's bounds: a block of one label gives no certainty.
    least = 1 / (len(labels) + 2)
    values = logit(np.clip(model.y_thresholds_, least, 1 - least))
    knots = tuple(model.X_thresholds_.tolist())
    return Calibration(method, MIN_SLOPE, 0.0, knots, tuple(values.tolist()))


def measures(labels: np.ndarray, logits: np.ndarray) -> dict[str, float | None]:
    """What calibration changes: log loss, NE, ECE and PCOC."""
    return {
        "logloss": ctr.log_loss(labels, logits),
        "ne": ctr.normalized_entropy(labels, logits),
        "ece": ctr.ece(labels, logits),
        "pcoc": ctr.pcoc(labels, logits),
    }
