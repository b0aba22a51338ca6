"""Calibration: what is chosen for scores that are off in a known way, and what it keeps."""

import numpy as np
import pytest

from nif_jax.metrics import ctr
from nif_jax.metrics.calibration import MIN_SLOPE, Calibration, fit_calibration


@pytest.fixture(scope="module")
def truth():
    """labels, true logits and users of 8,000 impressions."""
    rng = np.random.default_rng(0)
    logits = rng.normal(-1, 1.5, 8000)
    labels = (rng.random(8000) < 1 / (1 + np.exp(-logits))).astype(np.int8)
    return labels, logits, rng.integers(0, 500, 8000)


def test_true_logits_are_left_nearly_as_they_are(truth):
    labels, logits, users = truth
    found = fit_calibration(labels, logits, users)
    np.testing.assert_allclose(found(logits), logits, atol=0.15)
    assert found.log_loss == pytest.approx(ctr.log_loss(labels, logits), abs=1e-3)


@pytest.mark.parametrize(("slope", "shift"), [(3.0, 0.0), (0.3, 1.0), (1.0, -2.0)])
def test_scaled_and_shifted_logits_are_scaled_and_shifted_back(truth, slope, shift):
    labels, logits, users = truth
    found = fit_calibration(labels, logits * slope + shift, users)
    assert found.method == "platt"
    np.testing.assert_allclose(found(logits * slope + shift), logits, atol=0.15)


def test_a_bent_map_takes_isotonic_regression(truth):
    labels, logits, users = truth
    bent = np.where(logits < -1, 10 * (logits + 1), 0.1 * (logits + 1)) + 5
    found = fit_calibration(labels, bent, users)
    assert found.method == "isotonic"
    before, after = (ctr.ece(labels, values) for values in (bent, found(bent)))
    assert before > 0.2 and after < 0.02


@pytest.mark.parametrize("scale", [1.0, 4.0, -1.0])
def test_order_stays(truth, scale):
    labels, logits, users = truth
    scores = np.round(scale * logits, 1)
    found = fit_calibration(labels, scores, users)
    assert (np.diff(found(np.unique(scores))) > 0).all()
    assert ctr.auc(labels, found(scores)) == ctr.auc(labels, scores)


def test_noise_becomes_a_constant_as_good_as_the_rate(truth):
    labels, _, users = truth
    noise = np.random.default_rng(1).normal(0, 3, len(labels))
    for scores in (noise, -truth[1]):
        found = fit_calibration(labels, scores, users)
        assert ctr.normalized_entropy(labels, scores) > 1.1
        assert ctr.normalized_entropy(labels, found(scores)) < 1.001
    assert found.slope == MIN_SLOPE


def test_few_rows_and_one_label():
    assert fit_calibration(np.ones(4), np.zeros(4), np.arange(4)).method == "none"
    found = fit_calibration(np.array([0, 1]), np.array([0.0, 1.0]), np.array([3, 3]))
    assert np.isfinite(found(np.array([-5.0, 5.0]))).all()


def test_dtype_stays():
    assert Calibration("platt", 2.0, 1.0)(np.ones(3, np.float32)).dtype == np.float32
