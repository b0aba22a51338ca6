"""Ranking within users against loops, all orders of ties, and the benchmark's own metric."""

import importlib.util
import itertools
import pathlib

import numpy as np
import pytest

from nif_jax.metrics import ctr
from nif_jax.metrics.user_ndcg import user_ndcg

BENCH = pathlib.Path(__file__).resolve().parents[2].parent / "shared" / "bench"


def impressions(seed, count=400, users=60, levels=5):
    """Labels, scores with `levels` values (0: no ties) and users; some users have one label."""
    rng = np.random.default_rng(seed)
    user = rng.integers(0, users, count)
    labels = rng.integers(0, 2, count)
    labels[user % 5 == 0] = 0
    labels[user % 5 == 1] = 1
    scores = rng.integers(0, levels, count) / 4 if levels else rng.permutation(count) / 7
    return labels, scores, user + 100


def dcg(labels, k):
    return sum(label / np.log2(2 + place) for place, label in enumerate(labels[:k]))


def naive(labels, scores, users, k=5):
    """nDCG and GAUC by loops, for scores without ties."""
    ndcg, areas, weights = [], [], []
    for user in np.unique(users):
        mine = np.flatnonzero(users == user)
        ordered = labels[mine[np.argsort(-scores[mine])]]
        best = dcg(np.sort(labels[mine])[::-1], k)
        ndcg.append(dcg(ordered, k) / best if best else 0.0)
        pairs = [
            scores[i] > scores[j] for i in mine for j in mine if labels[i] == 1 and labels[j] == 0
        ]
        if pairs:
            areas.append(np.mean(pairs))
            weights.append(labels[mine].sum())
    return np.average(areas, weights=weights), np.mean(ndcg)


@pytest.mark.parametrize("seed", range(3))
def test_equals_loops_without_ties(seed):
    labels, scores, users = impressions(seed, levels=0)
    found = ctr.within_users(labels, scores, users)
    area, ndcg = naive(labels, scores, users)
    assert found == pytest.approx(
        {"gauc_positives": area, "ndcg@5": ndcg, "rank": (area + ndcg) / 2}
    )


@pytest.mark.parametrize("k", [1, 2, 5, 9])
def test_ties_have_the_mean_of_all_their_orders(k):
    labels = np.array([1.0, 0, 1, 0, 0, 1, 1])
    scores = np.array([3.0, 3, 2, 2, 2, 1, 1])
    blocks = [np.flatnonzero(scores == value) for value in (3, 2, 1)]
    orders = itertools.product(*map(itertools.permutations, blocks))
    values = [dcg(labels[np.concatenate(order)], k) for order in orders]
    expected = np.mean(values) / dcg(np.ones(4), k)
    found = user_ndcg(labels, scores, np.zeros(7, int), k)
    assert found == pytest.approx([expected])


def test_users_without_positives_count_as_0_and_order_of_rows_does_not():
    labels, scores, users = impressions(4)
    found = ctr.within_users(labels, scores, users)
    order = np.random.default_rng(0).permutation(len(labels))
    assert ctr.within_users(labels[order], scores[order], users[order]) == pytest.approx(found)
    more = [np.append(a, b) for a, b in ((labels, 0), (scores, 9.0), (users, 999))]
    count = len(np.unique(users))
    other = ctr.within_users(*more)
    assert other["ndcg@5"] == pytest.approx(found["ndcg@5"] * count / (count + 1))
    assert other["gauc_positives"] == pytest.approx(found["gauc_positives"])


def test_bad_arrays_are_refused():
    with pytest.raises(ValueError, match=r"rank: users has shape \(1,\), labels \(2,\)"):
        ctr.within_users([0, 1], [0.0, 1.0], [1])


@pytest.mark.parametrize(("levels", "tolerance"), [(0, 1e-12), (3, 1e-3)])
def test_equals_the_metric_of_the_benchmark(levels, tolerance):
    path = BENCH / "long_view_metric.py"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    spec = importlib.util.spec_from_file_location("long_view_metric", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    labels, scores, users = impressions(5, count=200_000, users=30_000, levels=levels)
    found = ctr.within_users(labels, scores, users)
    assert list(found.values()) == pytest.approx(
        module.primary(users, labels, scores), abs=tolerance
    )
