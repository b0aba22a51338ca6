"""Lift of an A/B test: hand-computed, degenerate, and its interval's coverage by simulation."""

import numpy as np
import pytest

from nif_jax.metrics.lift import paired_lift, relative


def test_by_hand():
    found = paired_lift([3, 1, 2], [1, 2, 1], resamples=50, seed=0)
    assert found.mean == pytest.approx(6 / 4 - 1)
    # The extremes of three users are their own ratios.
    assert 1 / 2 - 1 <= found.low <= found.mean <= found.high <= 3 / 1 - 1


def test_identical_arms_have_no_lift_and_no_interval():
    clicks = np.random.default_rng(0).poisson(3, 50)
    assert paired_lift(clicks, clicks, resamples=100, seed=1) == (0, 0, 0)


def test_the_seed_decides():
    clicks = np.random.default_rng(0).poisson(3, (2, 50))
    found = [paired_lift(*clicks, resamples=100, seed=s) for s in (1, 1, 2)]
    assert found[0] == found[1] != found[2]


def test_what_has_no_lift():
    with pytest.raises(ValueError, match="no clicks"):
        relative([1.0], [0.0])
    with pytest.raises(ValueError, match=r"shapes \(2,\) and \(3,\)"):
        paired_lift([1, 2], [1, 2, 3], resamples=10, seed=0)
    with pytest.raises(ValueError, match="resamples"):
        paired_lift([1], [1], resamples=0, seed=0)


def _trial(rng, users, impressions):
    """Clicks of two arms on new users, who differ in taste and agree on most of what is shown."""
    taste = rng.beta(2, 4, users)[:, None]
    own = np.clip(taste + rng.normal(0, 0.1, (users, impressions)), 0.01, 0.99)
    other = np.where(rng.random(own.shape) < 0.6, own, np.clip(own + 0.04, 0, 0.99))
    chance = rng.random(own.shape)
    return (chance < other).sum(1), (chance < own).sum(1), other.sum(), own.sum()


def test_the_interval_covers_the_true_lift_in_95_per_cent():
    rng, trials = np.random.default_rng(0), 250
    _, _, treatment, reference = _trial(rng, 200_000, 10)
    truth = treatment / reference - 1
    found = [paired_lift(*_trial(rng, 150, 10)[:2], resamples=200, seed=t) for t in range(trials)]
    covered = np.mean([f.low <= truth <= f.high for f in found])
    # Four standard errors of a share of 250, and a percentile interval's slight narrowness.
    assert 0.89 <= covered <= 0.99
    assert truth > 0.03  # and it is not the null that it covers
    assert np.mean([f.low <= 0 for f in found]) < 0.8
