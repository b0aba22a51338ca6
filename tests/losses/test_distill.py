"""The self-supervised regularisation against its formula, and who learns from whom."""

import jax
import jax.numpy as jnp
import numpy as np

from nif_jax.losses.distill import self_supervised

Z, SIDE, Y = jnp.array([0.3, -2.0]), jnp.array([1.0, 0.5]), jnp.array([1.0, 0.0])


def bce(z, target):
    p = 1 / (1 + np.exp(-np.asarray(z)))
    return -(target * np.log(p) + (1 - target) * np.log(1 - p))


def test_formula():
    opinion = 1 / (1 + np.exp(-np.asarray(SIDE)))
    expected = bce(Z, opinion) + bce(SIDE, np.asarray(Y))
    np.testing.assert_allclose(self_supervised(Z, SIDE, Y), expected, rtol=1e-5)


def test_a_detached_opinion_learns_from_labels_only():
    def gradient(detach):
        return jax.grad(lambda side: self_supervised(Z, side, Y, detach).sum())(SIDE)

    opinion = jax.nn.sigmoid(SIDE)
    np.testing.assert_allclose(gradient(True), opinion - Y, rtol=1e-5)
    # Quirk: d/dz_fm of BCE(z, sigmoid(z_fm)) is -z sigmoid'(z_fm).
    expected = opinion - Y - Z * opinion * (1 - opinion)
    np.testing.assert_allclose(gradient(False), expected, rtol=1e-5)
