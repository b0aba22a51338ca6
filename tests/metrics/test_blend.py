"""The weight of a mean of two models' log odds."""

import numpy as np
import pytest

from nif_jax.metrics import blend, ctr


@pytest.fixture(scope="module")
def impressions():
    """Labels that two independent opinions tell of, and users."""
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 4000))
    labels = (rng.random(4000) < 1 / (1 + np.exp(-one - 2 * other))).astype(int)
    return labels, one, other, rng.integers(0, 50, 4000)


def best(impressions, metric="auc", **changes):
    labels, one, other, users = impressions
    given = {"one": one, "other": other} | changes
    return blend.best_mean(lambda z: ctr.evaluate(labels, z, users), **given, metric=metric)


@pytest.mark.parametrize("metric", ["auc", "gauc"])
def test_each_opinion_gets_the_weight_that_it_deserves(impressions, metric):
    labels, one, other, users = impressions
    found = best(impressions, metric)
    assert 0.6 <= found["blend_weight"] <= 0.7  # of 2 / 3 the choices that are nearest
    mean = (1 - found["blend_weight"]) * one + found["blend_weight"] * other
    assert found == ctr.evaluate(labels, mean, users) | {"blend_weight": found["blend_weight"]}
    assert all(found[metric] >= best(impressions, metric, other=x)[metric] for x in (one, -one))


def test_an_opinion_that_says_nothing_or_the_same_has_no_weight(impressions):
    labels, one, _, _ = impressions
    assert best(impressions, other=np.zeros(len(labels)))["blend_weight"] == 0
    assert best(impressions, other=2 * one)["blend_weight"] == 0
    assert best(impressions, other=-one)["blend_weight"] == 0
    assert best(impressions, one=-one, other=one)["blend_weight"] > 0.5


def test_without_a_metric_the_first_model_stays_alone(impressions):
    _, one, other, _ = impressions
    found = blend.best_mean(lambda z: {"auc": None}, one, other, "auc")
    assert found == {"auc": None, "blend_weight": 0}
