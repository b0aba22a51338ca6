"""Popularity's closed form: by hand, and at the limits of its smoothing."""

import numpy as np
import pytest

from nif_jax.models.baselines.popularity import click_logits

# Item 1: 2 of 3 clicked. Item 2: 0 of 1. Item 3: 1 of 2. Item 4: never shown.
ITEM, LABEL = np.array([1, 2, 1, 3, 1, 3]), np.array([1, 0, 0, 1, 1, 0])
MEAN = (3 + 1) / (6 + 2)


def rates(prior, item=ITEM, label=LABEL):
    return 1 / (1 + np.exp(-click_logits(item, label, 4, prior).astype(np.float64)))


def test_by_hand():
    expected = [MEAN, (2 + 4 * 0.5) / (3 + 4), (0 + 4 * 0.5) / (1 + 4), (1 + 4 * 0.5) / (2 + 4)]
    np.testing.assert_allclose(rates(4.0), [*expected, MEAN], rtol=1e-6)


def test_a_weak_prior_leaves_the_rates_and_a_strong_one_leaves_the_mean():
    np.testing.assert_allclose(rates(1e-4)[[1, 3]], [2 / 3, 1 / 2], atol=1e-4)
    np.testing.assert_allclose(rates(1e9), MEAN, atol=1e-6)
    # An item without impressions has the mean whatever the prior.
    np.testing.assert_allclose(rates(1e-4)[[0, 4]], MEAN, rtol=1e-6)


def test_smoothing_lets_evidence_decide():
    # The same rate, seen 3 or 300 times, lies the nearer to it the more was seen.
    few = rates(10.0, np.repeat([1, 2], 4), np.tile([1, 0, 1, 1], 2))[1]
    many = rates(10.0, np.repeat([1, 2], [400, 4]), np.tile([1, 0, 1, 1], 101))[1]
    assert few < many < 0.75


def test_its_probabilities_are_calibrated_on_train():
    rng = np.random.default_rng(0)
    item = rng.integers(1, 5, 4000)
    label = rng.random(4000) < np.array([0, 0.1, 0.4, 0.6, 0.9])[item]
    rate = rates(1e-3, item, label)
    for one in range(1, 5):
        assert rate[one] == pytest.approx(label[item == one].mean(), abs=1e-5)


@pytest.mark.parametrize("label", [0, 1])
def test_a_period_of_one_class_has_finite_logits(label):
    assert np.isfinite(click_logits(ITEM, np.full(6, label), 4, 1.0)).all()
