"""Bootstrap: resampling by hand, known standard errors, coverage, and what the words mean."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nif_jax.metrics import bootstrap, ctr


def _impressions(seed, rows=60, users=7, levels=9, models=2):
    """Labels, users and [models, rows] logits, with ties, of users that have both labels or not."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, rows)
    labels[:2] = [0, 1]
    return labels, rng.integers(0, users, rows), rng.integers(0, levels, (models, rows)) / 4 - 1


def _brute_force(labels, users, logits, unit, resamples, seed):
    """The same draws, each resample written out row by row and given to metrics.ctr."""
    _, user = np.unique(users, return_inverse=True)
    unit_of = user if unit == "user" else np.arange(len(labels))
    units = unit_of.max() + 1
    rng = np.random.default_rng(seed)
    samples = [np.arange(len(labels))]
    for _ in range(resamples):
        drawn = rng.integers(units, size=units)
        samples.append(np.concatenate([np.flatnonzero(unit_of == one) for one in drawn]))
    return {
        metric: np.array(
            [
                [np.nan if (value := score(row, rows)) is None else value for rows in samples]
                for row in logits
            ]
        )
        for metric, score in {
            "auc": lambda row, rows: ctr.auc(labels[rows], row[rows]),
            "gauc": lambda row, rows: ctr.gauc(labels[rows], row[rows], user[rows]),
            "logloss": lambda row, rows: ctr.log_loss(labels[rows], row[rows]),
        }.items()
    }


def _brute_force_rank(labels, users, logits, resamples, seed):
    """Rank of resamples in which a user that is drawn twice is two users."""
    _, user = np.unique(users, return_inverse=True)
    rng = np.random.default_rng(seed)
    found = [[ctr.within_users(labels, row, user)["rank"] for row in logits]]
    for _ in range(resamples):
        drawn = [
            np.flatnonzero(user == u) for u in rng.integers(user.max() + 1, size=user.max() + 1)
        ]
        rows, copy = np.concatenate(drawn), np.repeat(np.arange(len(drawn)), list(map(len, drawn)))
        found.append([ctr.within_users(labels[rows], row[rows], copy)["rank"] for row in logits])
    return np.array(found, float).T


@pytest.mark.parametrize("shape", [{}, {"levels": 2}, {"users": 40}, {"rows": 6, "users": 3}])
def test_rank_is_resampling_users_by_hand(shape):
    labels, users, logits = _impressions(3, **shape)
    found = bootstrap.resampled_metrics(labels, users, logits, resamples=25, seed=5)
    expected = _brute_force_rank(labels, users, logits, 25, 5)
    np.testing.assert_allclose(found["rank"], expected, atol=1e-12)


def test_impressions_are_not_drawn_for_rank():
    found = bootstrap.resampled_metrics(*_impressions(3), unit="impression", resamples=2)
    assert set(bootstrap.SIGNS) - set(found) == {"rank"}


@pytest.mark.parametrize("unit", bootstrap.UNITS)
@pytest.mark.parametrize(
    "shape",
    [{}, {"levels": 2}, {"levels": 1000, "users": 40}, {"users": 60}, {"rows": 6, "users": 3}],
)
def test_it_is_resampling_by_hand(unit, shape):
    labels, users, logits = _impressions(3, **shape)
    found = bootstrap.resampled_metrics(labels, users, logits, unit=unit, resamples=25, seed=5)
    expected = _brute_force(labels, users, logits, unit, 25, 5)
    for metric in expected:
        np.testing.assert_allclose(found[metric], expected[metric], atol=1e-12, err_msg=metric)


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.sampled_from(bootstrap.UNITS), st.integers(1, 12))
def test_column_0_is_the_test_set_itself(seed, unit, users):
    labels, users, logits = _impressions(seed, rows=30, users=users)
    found = bootstrap.resampled_metrics(labels, users, logits, unit=unit, resamples=1)
    values = ctr.evaluate(labels, logits[1], users)
    for metric in found:
        value = np.nan if values[metric] is None else values[metric]
        assert found[metric][1, 0] == pytest.approx(value, nan_ok=True)


def test_draws_do_not_depend_on_how_they_are_cut(monkeypatch):
    labels, users, logits = _impressions(0)
    whole = bootstrap.resampled_metrics(labels, users, logits, resamples=9)
    monkeypatch.setattr(bootstrap, "_CHUNK", 100)
    cut = bootstrap.resampled_metrics(labels, users, logits, resamples=9)
    for metric in bootstrap.SIGNS:
        np.testing.assert_allclose(whole[metric], cut[metric])


def _standard_error(values):
    return values[0, 1:].std(ddof=1)


def test_width_is_the_known_standard_error_for_independent_impressions():
    rng = np.random.default_rng(0)
    rows = 2000
    labels, users = rng.integers(0, 2, rows), np.arange(rows)
    logits = (rng.normal(size=rows) + labels)[None]
    found = bootstrap.resampled_metrics(labels, users, logits, unit="impression", resamples=400)
    losses = np.logaddexp(0, np.where(labels == 1, -1, 1) * logits[0])
    assert _standard_error(found["logloss"]) == pytest.approx(losses.std() / rows**0.5, rel=0.1)
    # DeLong, DeLong and Clarke-Pearson (1988): variances of the mean placements of both classes.
    wins = logits[0][labels == 1][:, None] > logits[0][labels == 0]
    placements = wins.mean(1), wins.mean(0)
    delong = sum(values.var(ddof=1) / len(values) for values in placements) ** 0.5
    assert _standard_error(found["auc"]) == pytest.approx(delong, rel=0.1)
    # Users of one impression each: there is no other unit, so the choice cannot matter.
    by_user = bootstrap.resampled_metrics(labels, users, logits, unit="user", resamples=400)
    np.testing.assert_allclose(by_user["auc"], found["auc"])


def test_users_as_units_see_that_impressions_are_dependent():
    rng = np.random.default_rng(1)
    users = np.repeat(np.arange(80), 25)
    labels = rng.integers(0, 2, len(users))
    logits = rng.normal(size=80)[users][None]  # a loss that users share
    logits *= np.where(labels == 1, -1, 1)
    errors = {
        unit: _standard_error(
            bootstrap.resampled_metrics(labels, users, logits, unit=unit, resamples=300)["logloss"]
        )
        for unit in bootstrap.UNITS
    }
    # All of the variance is between users: sqrt(25) times the error of independent impressions.
    assert errors["user"] / errors["impression"] == pytest.approx(5, rel=0.15)


def test_pairing_cancels_what_both_models_find_hard():
    rng = np.random.default_rng(2)
    rows = 1500
    labels, shared = rng.integers(0, 2, rows), rng.normal(size=rows)
    logits = np.stack([shared + 0.5 * labels, shared + 0.5 * labels + 0.05 * rng.normal(size=rows)])
    auc = bootstrap.resampled_metrics(labels, np.arange(rows), logits, resamples=200)["auc"]
    paired = (auc[0, 1:] - auc[1, 1:]).std()
    assert paired < 0.2 * np.hypot(*auc[:, 1:].std(axis=1))


def test_an_interval_covers_the_true_difference_as_often_as_it_says():
    rng, covered, trials = np.random.default_rng(3), 0, 120
    for _ in range(trials):
        labels = rng.integers(0, 2, 200)
        clean = rng.normal(size=200) + 1.0 * labels
        logits = np.stack([clean, clean + rng.normal(size=200)])
        auc = bootstrap.resampled_metrics(labels, np.arange(200), logits, resamples=150)["auc"]
        found = bootstrap.difference("auc", auc[:1], auc[1:])
        # Separations of 1 / sqrt(2) and 1 / 2 standard deviations: Phi(.7071) - Phi(.5).
        covered += found.low <= 0.760250 - 0.691462 <= found.high
    assert 0.88 <= covered / trials <= 0.99


def test_identical_scores_do_not_differ():
    labels, users, logits = _impressions(4)
    values = bootstrap.resampled_metrics(labels, users, np.stack([logits[0]] * 2), resamples=50)
    for metric in bootstrap.SIGNS:
        found = bootstrap.difference(metric, values[metric][:1], values[metric][1:])
        assert found == (0.0, None, 0.0, 0.0, "no difference")


def test_seeds_are_averaged_in_each_resample():
    model = np.array([[0.8, 0.9, 0.7, 0.8], [0.6, 0.5, 0.7, 0.6]])
    reference = np.array([[0.7, 0.7, 0.7, 0.7], [0.5, 0.6, 0.4, 0.5]])
    found = bootstrap.difference("auc", model, reference)
    # Seeds differ by .1 and .1 on the test set; resamples by (.2 - .1) / 2, (0 + .3) / 2, .1.
    assert found.mean == pytest.approx(0.1)
    assert found.sd == pytest.approx(0.0, abs=1e-12)
    assert [found.low, found.high] == pytest.approx(np.quantile([0.05, 0.15, 0.1], [0.025, 0.975]))
    assert found.verdict == "better"


@pytest.mark.parametrize(
    ("metric", "low", "high", "verdict"),
    [
        ("auc", 0.1, 0.2, "better"),
        ("auc", -0.2, -0.1, "worse"),
        ("auc", -0.1, 0.2, "no difference"),
        ("auc", 0.0, 0.2, "no difference"),
        ("logloss", 0.1, 0.2, "worse"),
        ("logloss", -0.2, -0.1, "better"),
        ("gauc", -0.2, 0.0, "no difference"),
    ],
)
def test_verdicts(metric, low, high, verdict):
    model = np.array([[(low + high) / 2, *np.linspace(low, high, 3).repeat([50, 1, 50])]])
    assert bootstrap.difference(metric, model, np.zeros_like(model)).verdict == verdict


def test_what_is_undefined_is_said():
    labels, users, logits = _impressions(5)
    values = bootstrap.resampled_metrics(labels * 0, users, logits, resamples=5)
    assert np.isfinite(values["logloss"]).all()
    for metric in ("auc", "gauc"):
        found = bootstrap.difference(metric, values[metric][:1], values[metric][1:])
        assert found == (None, None, None, None, "undefined")
    # One user says nothing of others, though the difference on this test set is what it is.
    values = bootstrap.resampled_metrics(labels, users * 0, logits, resamples=5)["auc"]
    found = bootstrap.difference("auc", values[:1], values[1:])
    assert found.mean == pytest.approx(ctr.auc(labels, logits[0]) - ctr.auc(labels, logits[1]))
    assert found[2:] == (None, None, "undefined")


def test_resamples_of_one_class_are_left_out():
    labels = np.array([1, 0, 0, 0])  # a third of the resamples has no positive
    values = bootstrap.resampled_metrics(labels, np.arange(4), np.eye(4)[:2], resamples=200)["auc"]
    assert np.isnan(values).any()
    found = bootstrap.difference("auc", values[:1], values[1:])
    assert 0 < found.low <= found.mean <= found.high


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unit": "session"}, r"unit is 'session'; choose from \('user', 'impression'\)"),
        ({"resamples": 0}, "resamples must be at least 1, got 0"),
        ({"users": np.arange(3)}, "users"),
        ({"logits": np.full((1, 4), np.nan)}, "not finite"),
        ({"labels": np.array([0, 1, 2, 1])}, "a label is 2"),
    ],
)
def test_bad_arguments(change, message):
    arguments = {
        "labels": np.array([0, 1, 0, 1]),
        "users": np.arange(4),
        "logits": np.zeros((1, 4)),
    } | change
    with pytest.raises(ValueError, match=message):
        bootstrap.resampled_metrics(**arguments)


def test_differences_need_the_same_seeds():
    with pytest.raises(ValueError, match="same seeds"):
        bootstrap.difference("auc", np.zeros((2, 3)), np.zeros((1, 3)))
