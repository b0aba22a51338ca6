"""Temporal Sequential Pairwise loss: values, limits, signs, and the mask of a shared moveline."""

import jax
import jax.numpy as jnp
import numpy as np

from nif_jax.losses.pairwise import not_yet_seen, temporal_sequential_pairwise


def test_by_hand():
    positive, negative = jnp.array([2.0, 0.0, -1.0]), jnp.array([0.5, 0.0, 1.0])
    found = temporal_sequential_pairwise(positive, negative, margin=0.5)
    expected = np.log1p(np.exp([0.5 - 1.5, 0.5, 0.5 + 2]))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_equal_scores_pay_the_softplus_of_the_margin():
    scores = jnp.array([-300.0, 0.0, 7.0])
    for margin in (0.0, 1.0, 4.0):
        found = temporal_sequential_pairwise(scores, scores, margin)
        np.testing.assert_allclose(found, np.log1p(np.exp(margin)), rtol=1e-6)


def test_limits():
    far = jnp.array([30.0, 1e4])
    np.testing.assert_allclose(temporal_sequential_pairwise(far, -far, 1.0), 0, atol=1e-6)
    wrong = temporal_sequential_pairwise(-far, far, 1.0)  # linear, and no overflow
    np.testing.assert_allclose(wrong, 2 * far + 1, rtol=1e-6)


def test_gradient_raises_the_positive_and_lowers_the_negative():
    positive, negative = jnp.array([2.0, 0.0, -1.0]), jnp.array([0.5, 0.0, 1.0])

    def total(p, n):
        return temporal_sequential_pairwise(p, n, 0.5).sum()

    up, down = jax.grad(total, (0, 1))(positive, negative)
    expected = 1 / (1 + np.exp(-(0.5 - np.array([1.5, 0.0, -2.0]))))
    np.testing.assert_allclose(up, -expected, rtol=1e-5)
    np.testing.assert_allclose(down, expected, rtol=1e-5)


def test_a_negative_that_stands_in_the_positives_moveline_is_left_out():
    history = jnp.array([[0, 0, 3, 4], [5, 6, 7, 8], [0, 0, 0, 0], [1, 2, 2, 9]])
    found = not_yet_seen(jnp.array([5, 8, 3, 2]), history)
    assert found.tolist() == [True, False, True, False]
