"""Retrieval ranks and their summaries against hand-computed values and a naive loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nif_jax.metrics import retrieval


def _naive_rank(scores, target, exclude=()):
    others = [i for i in range(len(scores)) if i != target and i not in set(exclude)]
    higher = sum(scores[i] > scores[target] for i in others)
    ties = sum(scores[i] == scores[target] for i in others)
    return 1 + higher + -(-ties // 2)


def test_ranks_by_hand():
    scores = jnp.array([[0.9, 0.5, 0.5, 0.1]])
    ranks = [retrieval.ranks_from_scores(scores, jnp.array([i])).item() for i in range(4)]
    assert ranks == [1, 3, 3, 4]  # a tie of two: half of one, rounded up, is one place lost


@pytest.mark.parametrize(("items", "rank"), [(1, 1), (2, 2), (5, 3), (100, 51)])
def test_constant_scores_get_the_middle_rank(items, rank):
    scores, targets = np.zeros((3, items)), np.array([0, items // 2, items - 1])
    np.testing.assert_array_equal(retrieval.ranks_from_scores(scores, targets), [rank] * 3)


def test_target_ranks_match_a_naive_loop_under_jit():
    rng = np.random.default_rng(0)
    queries = rng.integers(-2, 3, (20, 3)).astype(np.float32)  # integers: exact, with many ties
    table = rng.integers(-2, 3, (40, 3)).astype(np.float32)
    targets, exclude = rng.integers(0, 40, 20), rng.integers(-1, 40, (20, 6))
    exclude[:, 0] = targets  # a repeat consumption: the target stands in its own history
    scores = queries @ table.T
    expected = [_naive_rank(*row) for row in zip(scores, targets, exclude, strict=True)]
    ranks = jax.jit(retrieval.target_ranks)(queries, table, targets, exclude)
    np.testing.assert_array_equal(ranks, expected)
    without = [_naive_rank(*row) for row in zip(scores, targets, strict=True)]
    np.testing.assert_array_equal(retrieval.target_ranks(queries, table, targets), without)
    assert expected != without


def test_excluded_items_do_not_count_and_padding_excludes_nothing():
    scores = jnp.array([[4.0, 3.0, 2.0, 1.0]] * 3)
    targets = jnp.array([2, 2, 2])
    exclude = jnp.array([[0, 0], [-1, 4], [0, 1]])  # a repeat; two paddings; both that are higher
    ranks = retrieval.ranks_from_scores(scores, targets, exclude)
    np.testing.assert_array_equal(ranks, [2, 3, 1])


def test_nan_never_helps():
    scores = jnp.array([[jnp.nan, 1.0, 0.0], [0.0, jnp.nan, 1.0], [jnp.nan] * 3])
    ranks = retrieval.ranks_from_scores(scores, jnp.array([1, 1, 1]))
    np.testing.assert_array_equal(ranks, [2, 3, 3])


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
@pytest.mark.parametrize("target", [-1, 3, 99])
def test_a_target_outside_the_catalogue_ranks_behind_it(dtype, target):
    scores = np.array([[3, 2, -1]], dtype)
    np.testing.assert_array_equal(retrieval.ranks_from_scores(scores, np.array([target])), [4])


@pytest.mark.parametrize("chunk", [5, 7, 39, 40])
def test_ranks_in_chunks_match_a_naive_loop(chunk):
    rng = np.random.default_rng(1)
    scores = rng.integers(-2, 3, (5, 40)).astype(np.float32)  # many ties
    scores[1, 3], scores[2, 17] = np.nan, np.nan
    targets, exclude = np.array([0, 8, 17, 39, 40]), rng.integers(-1, 41, (5, 6))
    exclude[:, 0] = targets
    chunked = jax.jit(
        lambda *a: retrieval.ranks_in_chunks(lambda i: jnp.asarray(scores)[:, i], 40, *a, chunk)
    )
    for given in (exclude, None):
        expected = retrieval.ranks_from_scores(scores, targets, given)
        np.testing.assert_array_equal(chunked(targets, given), expected)


def test_more_rows_than_a_chunk_are_ranked():
    rng = np.random.default_rng(2)
    scores, targets = rng.normal(size=(12, 30)), rng.integers(0, 30, 12)
    found = retrieval.ranks_in_chunks(lambda i: jnp.asarray(scores)[:, i], 30, targets, chunk=3)
    np.testing.assert_array_equal(found, retrieval.ranks_from_scores(scores, targets))


@pytest.mark.parametrize("items", [1000, 1025])
def test_items_of_one_vector_tie_across_chunks_whatever_the_rounding(items):
    rng = np.random.default_rng(3)
    table = rng.normal(size=(items, 33)).astype(np.float32)
    table[7::64] = table[7]  # in every chunk
    queries, targets = (
        rng.normal(size=(16, 33)).astype(np.float32),
        np.full(16, items // 64 * 64 + 7),
    )
    targets[targets >= items] -= 64
    exclude = rng.integers(-1, items, (16, 50))
    ranks = jax.jit(retrieval.target_ranks, static_argnames="chunk")
    dense = ranks(queries, table, targets, exclude, chunk=items)
    np.testing.assert_array_equal(ranks(queries, table, targets, exclude, chunk=128), dense)
    exact = queries.astype(np.float64) @ table.T.astype(np.float64)
    expected = [_naive_rank(*row) for row in zip(exact, targets, exclude, strict=True)]
    np.testing.assert_array_equal(dense, expected)


def test_popularity_ranks_in_chunks():
    rng = np.random.default_rng(4)
    counts, targets = rng.integers(0, 9, 100), rng.integers(-1, 101, 30)
    exclude = rng.integers(-1, 100, (30, 4))
    dense = retrieval.popularity_ranks(counts, targets, exclude)
    np.testing.assert_array_equal(
        retrieval.popularity_ranks(counts, targets, exclude, chunk=32), dense
    )


def test_memory_of_ranking_does_not_grow_with_the_catalogue():
    def temporary(items):
        shapes = [((64, 8), "float32"), ((items, 8), "float32"), ((64,), "int32")]
        given = [jax.ShapeDtypeStruct(*shape) for shape in shapes]
        compiled = jax.jit(retrieval.target_ranks).lower(*given).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    scores_of_a_chunk = 64 * retrieval.CHUNK * 4  # bytes
    assert temporary(40 * retrieval.CHUNK) < 4 * scores_of_a_chunk


def test_popularity_ranks_are_ranks_by_count():
    counts, targets = np.array([5, 9, 5, 1]), np.array([1, 0, 3, 3])
    np.testing.assert_array_equal(retrieval.popularity_ranks(counts, targets), [1, 3, 4, 4])
    exclude = np.array([[0], [1], [1], [-1]])
    np.testing.assert_array_equal(
        retrieval.popularity_ranks(counts, targets, exclude), [1, 2, 3, 4]
    )


def test_popularity_counts_above_float_precision_differ():
    ranks = retrieval.popularity_ranks(np.array([2**24, 2**24 + 1]), np.array([0, 1]))
    np.testing.assert_array_equal(ranks, [2, 1])


def test_summary_by_hand():
    summary = retrieval.summarize(np.array([1, 3, 10, 11]), ks=(1, 10))
    assert list(summary) == ["hr@1", "ndcg@1", "hr@10", "ndcg@10", "mrr"]
    assert summary["hr@1"] == summary["ndcg@1"] == 0.25
    assert summary["hr@10"] == 0.75
    assert summary["ndcg@10"] == pytest.approx((1 + 1 / 2 + 1 / np.log2(11)) / 4)
    assert summary["mrr"] == pytest.approx((1 + 1 / 3 + 1 / 10 + 1 / 11) / 4)


def test_a_mask_and_weights_count_rows():
    ranks, mask = np.array([1, 50, 2]), np.array([True, True, False])
    assert retrieval.hit_rate(ranks, 10, mask) == 0.5
    assert retrieval.ndcg(ranks, 10, mask) == 0.5
    assert retrieval.mrr(ranks, mask) == pytest.approx((1 + 1 / 50) / 2)
    assert retrieval.hit_rate(ranks, 10, np.array([1.0, 3.0, 0.0])) == 0.25
    assert retrieval.summarize(ranks, (10,), mask)["hr@10"] == 0.5


@pytest.mark.parametrize(
    ("ranks", "k", "weights", "message"),
    [
        ([], 10, None, "not empty"),
        ([0, 1], 10, None, "count from 1"),
        ([1], 0, None, "count from 1"),
        ([1, 2], 10, [0, 0], "not all 0"),
        ([1, 2], 10, [2, -1], "0 or more"),
        ([1, 2], 10, [1], "weights has shape"),
    ],
)
def test_bad_arguments(ranks, k, weights, message):
    with pytest.raises(ValueError, match=message):
        retrieval.hit_rate(ranks, k, weights)
    with pytest.raises(ValueError, match=message):
        retrieval.ndcg(ranks, k, weights)
