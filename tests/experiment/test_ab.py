"""Outcomes and comparison of A/B arms on traffic made by hand; whole runs: tests/end_to_end."""

import numpy as np
import pytest

from nif_jax.experiment import ab
from nif_jax.reports import lifts
from nif_jax.simulation.traffic import Traffic


def make_traffic(users=400, impressions=5, slate=6, seed=0):
    rng = np.random.default_rng(seed)
    shape = (users * impressions, slate)
    return Traffic(
        user=np.repeat(np.arange(users), impressions),
        scene=np.ones(shape[0], int),
        time=np.zeros(shape[0], int),
        slate=rng.integers(1, 50, shape),
        probability=rng.beta(1, 3, shape),
        chance=rng.random(shape[0]),
    )


def compare(arms, **settings):
    settings = {"reference": "a", "impressions": 5, "resamples": 300, "seed": 0} | settings
    return {record["model"]: record for record in ab.compare(arms, **settings)}


def test_outcomes_by_hand():
    traffic = Traffic(
        user=np.array([0, 0, 1]),
        scene=np.ones(3, int),
        time=np.zeros(3, int),
        slate=np.arange(6).reshape(3, 2),
        probability=np.array([[0.2, 0.6], [0.5, 0.1], [0.9, 0.3]]),
        chance=np.array([0.3, 0.3, 0.3]),
    )
    shown = ab.first_shown(np.array([[0.0, 1.0], [2.0, 1.0], [3.0, 3.0]]))
    assert shown.tolist() == [1, 0, 0]  # the first of equals
    clicks, expected = ab.outcomes(traffic, shown)
    assert clicks.tolist() == [2, 1]
    np.testing.assert_allclose(expected, [1.1, 0.9])
    # A chance that equals the probability is no click: P(chance < p) = p.
    clicks, _ = ab.outcomes(traffic, np.array([0, 1, 1]))
    assert clicks.tolist() == [0, 0]


def test_identical_arms_and_the_oracle_against_random():
    traffic = make_traffic()
    oracle = ab.outcomes(traffic, ab.first_shown(traffic.probability))
    chance = ab.outcomes(traffic, np.zeros(len(traffic.user), int))
    arms = {"a": [chance], "b": [chance], "oracle": [oracle]}
    found = compare(arms)
    for name in ("a", "b"):
        record = found[name]
        assert [record[k] for k in ("lift", "low", "high", "true_lift", "oracle_share")] == [0] * 5
    best = found["oracle"]
    assert best["low"] > 0.5 and best["true_lift"] > 0.5 and best["oracle_share"] == 1
    # E[max of 6] of Beta(1, 3) against its mean 1 / 4.
    assert found["a"]["true_ctr"] == pytest.approx(0.25, abs=0.02)


def test_clicks_agree_with_the_probabilities_that_they_are_drawn_from():
    lifts = []
    for seed in range(40):
        traffic = make_traffic(users=200, seed=seed)
        noisy = traffic.probability + np.random.default_rng(seed).normal(0, 0.3, (1000, 6))
        arms = {"a": noisy, "oracle": traffic.probability}
        found = compare(
            {k: [ab.outcomes(traffic, ab.first_shown(v))] for k, v in arms.items()}, resamples=2
        )["oracle"]
        lifts.append(found["lift"] - found["true_lift"])
    assert abs(np.mean(lifts)) < 4 * np.std(lifts) / 40**0.5
    assert np.std(lifts) > 0.005


def test_seeds_are_averaged_user_by_user():
    first, second = (np.array([2.0, 0.0]), np.array([1.0, 1.0])), (np.array([4.0, 2.0]),) * 2
    reference = [(np.array([1.0, 1.0]), np.array([1.0, 1.0]))] * 2
    found = compare(
        {"a": reference, "b": [first, second], "oracle": [second]}, impressions=4, resamples=10
    )["b"]
    assert found["lift"] == pytest.approx(4 / 2 - 1)
    assert found["ctr"] == pytest.approx(4 / 2 / 4)
    assert found["true_lift"] == pytest.approx(4 / 2 - 1)
    assert found["oracle_share"] == pytest.approx(1 / 2)


def test_table_reads_as_text():
    traffic = make_traffic()
    arms = {"a": [ab.outcomes(traffic, np.zeros(len(traffic.user), int))]}
    arms["oracle"] = [ab.outcomes(traffic, ab.first_shown(traffic.probability))]
    table = lifts.table(list(compare(arms).values()))
    assert table.rows[0][:4] == ["a", table.rows[0][1], "+0.00", "+0.00 to +0.00"]
    assert table.rows[1][-1] == "1.000"
