"""InfoNCE, Eq. 1: hand-computed values, limits, and what sampling and masking may change."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nif_jax.losses import contrastive, info_nce
from nif_jax.losses.contrastive import Candidates, draw_candidates

N, D, Q = 7, 4, 5
sampled, log_expected_count = map(jax.jit, (contrastive.sampled, contrastive.log_expected_count))


@functools.partial(jax.jit, static_argnums=3)
def exact(queries, table, targets, temperature):
    """[...] losses one by one, each the sum over a single query."""

    def one(query, target):
        return info_nce.exact(query, table, target, jnp.ones(()), temperature)

    flat = jax.vmap(one)(queries.reshape(-1, queries.shape[-1]), targets.reshape(-1))
    return flat.reshape(targets.shape)


def unit_rows(seed, *shape):
    x = np.random.default_rng(seed).normal(size=shape)
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def batch():
    """(queries [Q, D], table [N + 1, D], targets [Q])."""
    return unit_rows(0, Q, D), unit_rows(1, N + 1, D), np.array([3, 1, 7, 3, 2])


def catalogue(table, log_expected=0.0):
    """Every item once as a candidate."""
    count = np.full(N, log_expected, np.float32)
    return Candidates(np.arange(1, N + 1), count, np.ones(N, bool))


def test_exact_by_hand():
    table = np.array([[9, 9], [1, 0], [0, 1], [-1, 0]], np.float32)
    queries = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    losses = exact(queries, table, np.array([1, 3, 2]), 0.5)
    partition = np.exp(2) + 1 + np.exp(-2)  # cosines 1, 0, -1 over a temperature of 1/2
    expected = [np.log(partition) - 2, np.log(partition) + 2, np.log(2 + np.exp(2)) - 2]
    np.testing.assert_allclose(losses, expected, rtol=1e-6)


def test_exact_is_softmax_cross_entropy_over_items(batch):
    queries, table, targets = batch
    queries = np.stack([queries, -queries])  # [2, Q, D]: any leading axes
    targets = np.stack([targets, targets[::-1]])
    losses = exact(queries, table, targets, 0.1)
    cross_entropy = jax.jit(optax.softmax_cross_entropy_with_integer_labels)
    expected = cross_entropy(queries @ table[1:].T / 0.1, targets - 1)
    np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("devices", [2, 4])  # shares of 4 + 3 items, and of 2 + 2 + 2 + 1
def test_shares_of_the_catalogue_give_loss_and_gradient_of_the_whole(batch, devices):
    queries, table, targets = batch
    weights = np.array([1, 0.5, 2, 0, 1], np.float32)
    shares = np.pad(table[1:], [(0, -N % devices), (0, 0)]).reshape(devices, -1, D)

    def of_share(queries, items):
        settings = (targets, weights, 0.1, "model", 2)  # blocks of two queries
        return info_nce.exact_of_share(queries, items, N, *settings)

    def of_all(queries, items):
        return info_nce.exact(queries, items, targets, weights, 0.1)

    one = jax.value_and_grad(of_share, (0, 1))
    found, (by_query, by_share) = jax.jit(jax.vmap(one, (None, 0), axis_name="model"))(
        queries, shares
    )
    value, (expected, by_item) = jax.jit(jax.value_and_grad(of_all, (0, 1)))(queries, table)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    close(found, [value] * devices)
    close(by_query, [expected] * devices)
    close(by_share.reshape(-1, D)[:N], by_item[1:])


def test_padding_row_is_no_candidate(batch):
    queries, table, targets = batch
    other = table.copy()
    other[0] = 100
    np.testing.assert_array_equal(
        exact(queries, table, targets, 0.1), exact(queries, other, targets, 0.1)
    )


def test_limits_of_exact(batch):
    _, table, targets = batch
    aligned = table[targets]
    assert exact(aligned, table, targets, 1.0).min() > 0.5
    np.testing.assert_allclose(exact(aligned, table, targets, 1e-3), 0, atol=1e-6)
    same = np.broadcast_to(table[:1], table.shape)  # nothing to tell items apart by
    np.testing.assert_allclose(exact(aligned, same, targets, 0.07), np.log(N), rtol=1e-5)


def test_gradient_is_the_expected_vector_minus_the_positive(batch):
    queries, table, targets = batch
    found = jax.jit(jax.grad(lambda q: exact(q, table, targets, 0.2).sum()))(queries)
    weights = np.exp(queries @ table[1:].T / 0.2)
    weights /= weights.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, (weights @ table[1:] - table[targets]) / 0.2, atol=1e-4)


@pytest.mark.parametrize("block", [None, 1, 2, 3, 6, 100])
def test_sums_and_gradients_are_those_of_softmax_cross_entropy(block):
    queries, table = unit_rows(3, 2, 3, D), unit_rows(4, N + 1, D)
    targets = np.array([[3, 1, 7], [3, 2, 3]])
    weights = np.array([[1, 0.5, 2], [0, 1, 1]], np.float32)

    def expected(queries, table):
        logits = queries @ table[1:].T / 0.1
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets - 1)
        return 3.0 * (weights * losses).sum()

    def found(queries, table):
        return 3.0 * info_nce.exact(queries, table, targets, weights, 0.1, block)

    there = jax.jit(jax.value_and_grad(expected, (0, 1)))(queries, table)
    here = jax.jit(jax.value_and_grad(found, (0, 1)))(queries, table)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), here, there)
    np.testing.assert_array_equal(here[1][1][0], 0)  # padding


def test_what_has_no_weight_may_be_anything():
    queries, table = unit_rows(3, 4, D), unit_rows(4, N + 1, D)
    weights = np.array([1, 0, 1, 0], np.float32)

    def total(queries, table, targets):
        return info_nce.exact(queries, table, targets, weights, 0.1, 3)

    call = jax.jit(jax.value_and_grad(total, (0, 1)))
    odd = np.where(weights[:, None] > 0, queries, np.nan)
    clean, strange = (
        call(*x)
        for x in ((queries, table, np.array([3, 1, 7, 2])), (odd, table, np.array([3, 0, 7, 0])))
    )
    jax.tree.map(np.testing.assert_array_equal, clean, strange)
    np.testing.assert_array_equal(strange[1][0][1::2], 0)


def test_sampled_equals_exact_with_the_whole_catalogue_drawn_once(batch):
    queries, table, targets = batch
    losses = sampled(queries, table[targets], targets, table[1:], catalogue(table), 0.1)
    np.testing.assert_allclose(losses, exact(queries, table, targets, 0.1), rtol=1e-4, atol=1e-5)


def test_sampled_is_exact_with_every_item_drawn_twice(batch):
    queries, table, targets = batch
    twice = jax.tree.map(lambda x: np.concatenate([x, x]), catalogue(table, np.log(2.0)))
    losses = sampled(queries, table[targets], targets, table[twice.item], twice, 0.1)
    np.testing.assert_allclose(losses, exact(queries, table, targets, 0.1), rtol=1e-4, atol=1e-5)


def test_sampled_by_reference_with_unequal_log_expected(batch):
    queries, table, targets = batch
    item = np.array([2, 5, 3, 3, 6, 1, 4])
    mask = np.array([True, True, True, True, False, True, False])
    log_q = np.random.default_rng(2).normal(size=N + 1).astype(np.float32)
    candidates = Candidates(item, log_q[item], mask)
    losses = sampled(queries, table[targets], targets, table[item], candidates, 0.3)
    for q, target in enumerate(targets):
        positive = queries[q] @ table[target] / 0.3
        others = [
            queries[q] @ table[i] / 0.3 - log_q[i]
            for i, real in zip(item, mask, strict=True)
            if real and i != target
        ]
        expected = np.log(np.exp([positive, *others]).sum()) - positive
        np.testing.assert_allclose(losses[q], expected, rtol=1e-4)


def test_candidates_that_equal_the_positive_or_are_padding_count_for_nothing(batch):
    queries, table, _ = batch
    targets = np.full(Q, 3)
    arguments = (queries, table[targets], targets)
    drawn = catalogue(table)
    huge = np.where(np.arange(1, N + 1)[:, None] == 2, table[1:], 50 * table[1:])
    item = np.array([3, 2, 3, 4, 5, 6, 7])
    mask = np.array([True, True, True, False, False, False, False])
    losses = sampled(*arguments, huge, drawn._replace(item=item, mask=mask), 0.5)
    # Only item 2 is left beside the positive.
    positive, negative = queries @ table[3] / 0.5, queries @ table[2] / 0.5
    np.testing.assert_allclose(losses, np.log1p(np.exp(negative - positive)), rtol=1e-4)
    alone = drawn._replace(item=np.full(N, 3))
    np.testing.assert_array_equal(sampled(*arguments, table[1:], alone, 0.5), 0)


def test_gradients_stay_finite_where_candidates_are_masked(batch):
    queries, table, targets = batch
    candidates = catalogue(table)._replace(mask=np.arange(N) < 2)

    def total(queries, vectors):
        return sampled(queries, table[targets], targets, vectors, candidates, 1e-2).sum()

    for_queries, for_vectors = jax.jit(jax.grad(total, (0, 1)))(queries, table[1:])
    assert np.isfinite(for_queries).all() and np.abs(for_queries).max() > 0
    assert np.isfinite(for_vectors).all() and np.abs(for_vectors[:2]).max() > 0
    np.testing.assert_array_equal(for_vectors[2:], 0)


def test_expected_count_by_hand():
    frequency = np.array([0, 0.5, 0.3, 0.2, 0], np.float32)
    items = np.array([[1, 2], [4, 1]])
    found = log_expected_count(frequency, items, 10, 8)
    np.testing.assert_allclose(found, np.log([[5 + 2, 3 + 2], [2, 7]]), rtol=1e-6)
    # An item that could not be drawn at all must not give minus infinity.
    assert np.isfinite(log_expected_count(frequency, items, 10, 0)).all()


@pytest.mark.parametrize("in_batch", [True, False])
def test_drawn_candidates_are_targets_and_uniform_items(batch, in_batch):
    *_, targets = batch
    mask = np.array([True, True, False, True, True])
    frequency = np.array([0, 0.3, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1], np.float32)
    draw = jax.jit(
        functools.partial(draw_candidates, in_batch=in_batch, uniform=700, axis_name=None)
    )
    drawn = jax.device_get(draw(jax.random.key(0), targets, mask, frequency))
    front = Q if in_batch else 0
    assert drawn.item.shape == (front + 700,)
    assert drawn.item[:front].tolist() == targets[:front].tolist()
    assert drawn.mask.tolist() == mask[:front].tolist() + [True] * 700
    counts = np.bincount(drawn.item[front:], minlength=N + 1)
    assert counts[0] == 0 and (abs(counts[1:] - 100) < 40).all()  # 4 standard deviations
    expected = 100 + (4 * frequency if in_batch else 0 * frequency)
    np.testing.assert_allclose(drawn.log_expected, np.log(expected)[drawn.item], rtol=1e-5)


def test_candidates_are_gathered_over_devices():
    targets = np.array([[1, 2, 3], [4, 5, 6]])
    mask = np.array([[True, True, True], [True, False, False]])
    frequency = np.array([0, 0.4, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1], np.float32)

    @jax.jit
    @functools.partial(jax.vmap, axis_name="data")
    def draw(rng, targets, mask):
        return draw_candidates(
            rng,
            targets,
            mask,
            jnp.asarray(frequency),
            in_batch=True,
            uniform=2,
            axis_name="data",
        )

    drawn = jax.device_get(draw(jax.random.split(jax.random.key(1), 2), targets, mask))
    assert drawn.item.shape == (2, 10)
    assert drawn.item[:, :3].tolist() == [[1, 2, 3]] * 2
    assert drawn.item[:, 5:8].tolist() == [[4, 5, 6]] * 2
    assert drawn.mask[0].tolist() == [True] * 6 + [False] * 2 + [True] * 2
    jax.tree.map(lambda x: np.testing.assert_array_equal(x[0], x[1]), drawn)
    # Four real targets and four uniform draws of seven items, on both devices together.
    expected = np.log(4 * frequency + 4 / 7)
    np.testing.assert_allclose(drawn.log_expected[0], expected[drawn.item[0]], rtol=1e-5)


@pytest.mark.parametrize("uniform", [3, N, 4 * N])
def test_uniform_draws_estimate_the_partition_without_bias(batch, uniform):
    # exp(loss) is the partition function over the positive: its mean has to be that of exact.
    queries, table, targets = batch

    @jax.jit
    @jax.vmap
    def once(rng):
        drawn = draw_candidates(
            rng,
            jnp.asarray(targets),
            jnp.ones(Q, bool),
            jnp.zeros(N + 1),
            in_batch=False,
            uniform=uniform,
            axis_name=None,
        )
        return contrastive.sampled(
            queries, table[targets], targets, jnp.asarray(table)[drawn.item], drawn, 1.0
        )

    losses = jax.device_get(once(jax.random.split(jax.random.key(2), 8000)))
    assert losses.std(axis=0).min() > 0.02
    expected = np.exp(exact(queries, table, targets, 1.0))
    np.testing.assert_allclose(np.exp(losses).mean(axis=0), expected, rtol=0.04)


@pytest.mark.parametrize("form", ["exact", "sampled"])
def test_rounded_factors_change_nothing_but_the_factors(form, batch):
    queries, table, targets = map(jnp.asarray, batch)

    def loss(queries, table, dtype):
        if form == "exact":
            return info_nce.exact(queries, table, targets, jnp.ones(Q), 0.1, 2, dtype)
        positives, negatives = table[targets], table[1:]
        candidates = Candidates(jnp.arange(1, N + 1), jnp.zeros(N), jnp.ones(N, bool))
        arguments = (queries, positives, targets, negatives, candidates, 0.1, dtype)
        return contrastive.sampled(*arguments).sum()

    near = [jnp.asarray(x).astype(jnp.bfloat16).astype(jnp.float32) for x in (queries, table)]
    both = jax.jit(jax.value_and_grad(loss, (0, 1)), static_argnums=2)
    value, gradients = both(queries, table, jnp.bfloat16)
    expected, wanted = both(*near, jnp.float32)
    # Products of rounded factors are exact in float32, so that only the order of a sum is left.
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert abs(float(value - loss(queries, table, jnp.float32))) > 1e-4
    for found, other in zip(gradients, wanted, strict=True):
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, other, atol=0.02 * float(jnp.abs(other).max()))
