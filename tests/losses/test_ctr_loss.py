"""Binary cross-entropy and sums that padding cannot touch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nif_jax.losses.ctr import cross_entropy, weighted_sum


def test_cross_entropy_by_hand():
    logits = jnp.log(jnp.array([3.0, 3.0, 1.0]))  # probabilities 3/4, 3/4, 1/2
    found = cross_entropy(logits, jnp.array([1.0, 0.0, 1.0]))
    np.testing.assert_allclose(found, -np.log([0.75, 0.25, 0.5]), rtol=1e-6)


def test_cross_entropy_equals_optax_and_its_gradient_is_the_residual():
    logits = np.linspace(-20, 20, 41).astype(np.float32)
    for label in (0.0, 1.0):
        labels = np.full(41, label, np.float32)
        expected = optax.sigmoid_binary_cross_entropy(logits, labels)
        np.testing.assert_allclose(cross_entropy(logits, labels), expected, rtol=1e-5, atol=1e-6)
        gradient = jax.grad(lambda z, y=labels: cross_entropy(z, y).sum())(logits)
        np.testing.assert_allclose(gradient, jax.nn.sigmoid(logits) - label, atol=1e-6)


def test_cross_entropy_is_stable_for_any_logit():
    logits, labels = jnp.array([1e4, -1e4, 1e4, -1e4]), jnp.array([1.0, 0.0, 0.0, 1.0])
    assert cross_entropy(logits, labels).tolist() == [0, 0, 1e4, 1e4]
    assert np.isfinite(jax.grad(lambda z: cross_entropy(z, labels).sum())(logits)).all()


@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf, 1e30])
def test_padding_adds_exactly_nothing(garbage):
    values = jnp.array([1.0, garbage, 3.0, garbage])
    weights = jnp.array([1.0, 0.0, 0.5, 0.0])
    total, weight = weighted_sum(values, weights)
    assert (total, weight) == (2.5, 1.5)
    gradient = jax.grad(lambda v: weighted_sum(v, weights)[0])(values)
    assert gradient.tolist() == [1, 0, 0.5, 0]
