"""CTR metrics against scikit-learn and hand-computed values."""

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics as oracle

from nif_jax.metrics import ctr


def _impressions(seed, count=400, levels=7, users=30):
    """Labels, logits with heavy ties, users; arrays [count]."""
    rng = np.random.default_rng(seed)
    step = 3 / 2 ** levels.bit_length()  # exact in binary, so that sums keep ties
    logits = step * rng.integers(0, levels, count) - 1.5
    labels = (rng.random(count) < 1 / (1 + np.exp(-logits))).astype(np.int8)
    return labels, logits, rng.integers(0, users, count)


def _naive_gauc(labels, scores, users):
    areas, weights = [], []
    for user in np.unique(users):
        mine = users == user
        if len(np.unique(labels[mine])) == 2:
            areas.append(oracle.roc_auc_score(labels[mine], scores[mine]))
            weights.append(mine.sum())
    return np.average(areas, weights=weights)


@pytest.mark.parametrize("levels", [1, 2, 7, 10_000])
def test_auc_matches_scikit_learn_with_ties(levels):
    labels, logits, _ = _impressions(0, levels=levels)
    assert ctr.auc(labels, logits) == pytest.approx(oracle.roc_auc_score(labels, logits))


def test_auc_by_hand():
    # Pairs (positive, negative): 2>1, 2=2, 3>1, 3>2, so 3.5 of 4.
    assert ctr.auc([0, 1, 0, 1], [1, 2, 2, 3]) == 3.5 / 4


@settings(deadline=None)  # a shared machine stalls now and then
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(2, 60))
def test_auc_properties(seed, levels, count):
    rng = np.random.default_rng(seed)
    labels = np.r_[0, 1, rng.integers(0, 2, count)]
    scores = rng.integers(0, levels, count + 2).astype(float)
    area = ctr.auc(labels, scores)
    assert area == pytest.approx(oracle.roc_auc_score(labels, scores))
    assert ctr.auc(labels, np.exp(scores) - 3) == pytest.approx(area)  # monotone maps
    assert ctr.auc(1 - labels, scores) == pytest.approx(1 - area)
    order = rng.permutation(len(labels))
    assert ctr.auc(labels[order], scores[order]) == area


@pytest.mark.parametrize("seed", range(5))
def test_gauc_matches_a_loop_over_users(seed):
    labels, logits, users = _impressions(seed, users=90)  # few rows a user: many have one class
    assert ctr.gauc(labels, logits, users) == pytest.approx(_naive_gauc(labels, logits, users))


def test_gauc_weights_by_impressions_and_takes_any_ids():
    labels = [1, 0, 1, 0, 0, 1]
    scores = [2, 1, 1, 2, 3, 9]
    users = ["a", "a", "b", "b", "b", "one class"]
    assert ctr.gauc(labels, scores, users) == pytest.approx((2 * 1 + 3 * 0) / 5)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_gauc_ignores_what_is_constant_within_a_user(seed):
    labels, logits, users = _impressions(seed, count=80, users=6)
    shift = np.random.default_rng(seed).integers(-50, 50, 6)
    expected = _naive_gauc(labels, logits, users)
    assert ctr.gauc(labels, logits + shift[users], users) == pytest.approx(expected)


def test_log_loss_matches_scikit_learn_and_is_stable():
    labels, logits, _ = _impressions(1)
    probabilities = 1 / (1 + np.exp(-logits))
    assert ctr.log_loss(labels, logits) == pytest.approx(oracle.log_loss(labels, probabilities))
    assert ctr.log_loss([1, 0], [-1000.0, 1000.0]) == 1000.0
    assert 0 < ctr.log_loss([1, 0], [40.0, -40.0]) < 1e-16


def test_normalized_entropy_of_the_base_rate_is_one():
    labels = np.array([1, 0, 0, 0])
    assert ctr.normalized_entropy(labels, np.full(4, np.log(1 / 3))) == pytest.approx(1.0)
    assert ctr.normalized_entropy(labels, [1.0, -3, -3, -3]) < 1.0


def test_calibration_by_hand():
    # Two bins of two: predictions .2, .4 with 0 clicks; .6, .8 with 2.
    logits = np.log(np.array([0.2, 0.4, 0.6, 0.8]) / np.array([0.8, 0.6, 0.4, 0.2]))
    predicted, observed, count = ctr.calibration_bins([0, 0, 1, 1], logits, bins=2)
    np.testing.assert_allclose(predicted, [0.3, 0.7])
    np.testing.assert_array_equal(observed, [0, 1])
    np.testing.assert_array_equal(count, [2, 2])
    assert ctr.ece([0, 0, 1, 1], logits, bins=2) == pytest.approx(0.3)
    assert ctr.pcoc([0, 0, 1, 1], logits) == pytest.approx(1.0)
    assert ctr.pcoc([0, 0, 0, 1], logits) == pytest.approx(2.0)


def test_bins_have_equal_mass_without_ties():
    _, _, count = ctr.calibration_bins(np.arange(150) % 2, np.arange(150) / 100, bins=15)
    np.testing.assert_array_equal(count, np.full(15, 10))


@settings(deadline=None)
@given(
    hnp.arrays(np.int8, st.integers(1, 40), elements=st.integers(0, 1)),
    st.integers(1, 4),
    st.integers(0, 2**32 - 1),
)
def test_ece_does_not_depend_on_the_order_of_rows(labels, levels, seed):
    rng = np.random.default_rng(seed)
    logits = rng.integers(0, levels, len(labels)).astype(float)
    order = rng.permutation(len(labels))
    assert ctr.ece(labels, logits) == pytest.approx(ctr.ece(labels[order], logits[order]))


def test_ece_of_a_constant_is_its_distance_from_the_click_rate():
    labels = np.repeat([0, 1], [30, 10])  # sorted: bins cut through ties would see 0 % and 100 %
    assert ctr.ece(labels, np.zeros(40)) == pytest.approx(0.25)


def test_ece_weights_bins_by_mass():
    # Three rows at .5 without a click, one at .75 with: |.5 - 0| * 3/4 + |.75 - 1| * 1/4.
    assert ctr.ece([0, 0, 0, 1], [0, 0, 0, np.log(3)], bins=2) == pytest.approx(0.4375)


def test_evaluate_has_every_metric():
    labels, logits, users = _impressions(2)
    values = ctr.evaluate(labels, logits, users)
    within = ctr.within_users(labels, logits, users)
    assert list(values) == ["auc", "gauc", *within, "logloss", "ne", "ece", "pcoc"]
    assert {name: values[name] for name in within} == within
    assert values["auc"] == ctr.auc(labels, logits)
    assert values["gauc"] == ctr.gauc(labels, logits, users)
    assert values["logloss"] == ctr.log_loss(labels, logits)
    assert values["ne"] == ctr.normalized_entropy(labels, logits)
    assert values["ece"] == ctr.ece(labels, logits)
    assert values["pcoc"] == ctr.pcoc(labels, logits)


@pytest.mark.parametrize(
    ("label", "undefined"),
    [
        (0, {"auc", "gauc", "gauc_positives", "rank", "ne", "pcoc"}),
        (1, {"auc", "gauc", "gauc_positives", "rank", "ne"}),
    ],
)
def test_one_class_is_none_with_a_reason(label, undefined, caplog):
    with caplog.at_level(logging.WARNING):
        values = ctr.evaluate([label] * 3, [0.1, 0.2, 0.3], [0, 0, 1])
    assert {name for name, value in values.items() if value is None} == undefined
    for name in undefined:
        assert f"{name} is undefined" in caplog.text
    assert f"all 3 labels are {label}" in caplog.text


def test_no_mixed_user_is_none_for_metrics_of_mixed_users_alone(caplog):
    with caplog.at_level(logging.WARNING):
        values = ctr.evaluate([0, 0, 1], [0.1, 0.2, 0.3], [7, 7, 8])
    undefined = [name for name, value in values.items() if value is None]
    assert undefined == ["gauc", "gauc_positives", "rank"]
    assert "none of the 2 users has both labels" in caplog.text


@pytest.mark.parametrize(
    "metric", [ctr.auc, ctr.log_loss, ctr.normalized_entropy, ctr.ece, ctr.pcoc]
)
@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([], [], "labels is empty"),
        ([0, 1], [0.0], "equal length"),
        ([0, -1], [0.0, 1.0], "a label is -1"),
        ([0, 1], [0.0, np.nan], r"\(nan\) at row 1"),
    ],
)
def test_bad_arrays(metric, labels, scores, message):
    with pytest.raises(ValueError, match=message):
        metric(labels, scores)


def test_gauc_checks_users():
    with pytest.raises(ValueError, match="users has shape"):
        ctr.gauc([0, 1], [0.0, 1.0], [1])
    with pytest.raises(ValueError, match="labels is empty"):
        ctr.gauc([], [], [])
