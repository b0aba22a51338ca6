"""The residual vector quantizer against NumPy, its moving averages by hand, a planted hierarchy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nif_jax.data.schema import ConfigError
from nif_jax.models import collisions, quantizer
from nif_jax.models.quantizer import Codebooks, Quantized, RqVae


def by_hand(vectors, latent):
    """Codes and residuals of one row after another."""
    codes, residuals = [], []
    for row in latent:
        left, of_row = row.copy(), []
        residuals.append([])
        for book in vectors:
            residuals[-1].append(left.copy())
            of_row.append(int(np.argmin(((left - book) ** 2).sum(-1))))
            left = left - book[of_row[-1]]
        codes.append(of_row)
    return np.array(codes), np.array(residuals)


def test_codes_and_residuals_are_those_of_a_loop():
    rng = np.random.default_rng(0)
    vectors, latent = rng.normal(size=(3, 7, 4)), rng.normal(size=(20, 4))
    codes, residuals = by_hand(vectors, latent)
    found = quantizer.quantize(jnp.asarray(vectors), jnp.asarray(latent))
    np.testing.assert_array_equal(found.codes, codes)
    np.testing.assert_allclose(found.residuals, residuals, atol=1e-5)
    np.testing.assert_allclose(
        found.chosen, np.stack([vectors[k][codes[:, k]] for k in range(3)], 1), atol=1e-6
    )


def _one_level(codes, residuals):
    codes, residuals = np.array(codes)[:, None], np.array(residuals, np.float32)[:, None]
    return Quantized(codes, residuals, np.zeros_like(residuals))


def test_moving_averages_by_hand():
    # Two codes on a line; rows 1, 3 take code 0, row 5 takes code 1, a padded row takes code 1.
    vectors = np.array([[[0.0], [4.0]]])
    books = Codebooks(vectors, np.array([[2.0, 1.0]]), vectors)
    found = _one_level([0, 0, 1, 1], [[1.0], [3.0], [5.0], [99.0]])
    after = quantizer.update_codebooks(
        books,
        found,
        jnp.array([1.0, 1.0, 1.0, 0.0]),
        jax.random.key(0),
        decay=0.5,
        dead_share=0.0,
        axis_name=None,
    )
    np.testing.assert_allclose(after.count, [[0.5 * 2 + 0.5 * 2, 0.5 * 1 + 0.5 * 1]])
    np.testing.assert_allclose(after.total[0, :, 0], [0.5 * 4, 0.5 * 4 + 0.5 * 5])
    np.testing.assert_allclose(after.vectors[0, :, 0], [2.0 / 2.0, 4.5 / 1.0])


def test_a_dead_code_starts_anew_from_a_real_row():
    books = Codebooks(np.array([[[0.0], [50.0]]]), np.array([[2.0, 0.01]]), np.zeros((1, 2, 1)))
    found = _one_level([0, 0, 1], [[1.0], [3.0], [99.0]])
    after = quantizer.update_codebooks(
        books,
        found,
        jnp.array([1.0, 1.0, 0.0]),
        jax.random.key(0),
        decay=0.9,
        dead_share=0.1,
        axis_name=None,
    )
    assert float(after.vectors[0, 1, 0]) in (1.0, 3.0)  # not the padded 99
    np.testing.assert_allclose(after.count[0, 1], 2 / 2)  # an even share of two rows


def test_devices_share_statistics_and_fresh_codes():
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(2, 3, 2)).astype(np.float32)
    books = Codebooks(vectors, np.full((2, 3), 1e-3, np.float32), np.zeros_like(vectors))
    latent = rng.normal(size=(2, 4, 2)).astype(np.float32)

    def update(latent, rng):
        found = quantizer.quantize(jnp.asarray(vectors), latent)
        return quantizer.update_codebooks(
            books, found, jnp.ones(4), rng, decay=0.5, dead_share=0.4, axis_name="d"
        )

    after = jax.pmap(update, axis_name="d", devices=jax.devices()[:2])(
        latent, jax.random.split(jax.random.key(0), 2)
    )
    for leaf in after:
        np.testing.assert_array_equal(leaf[0], leaf[1])
    codes = np.asarray(quantizer.quantize(jnp.asarray(vectors), latent.reshape(8, 2)).codes)
    counts = np.bincount(codes[:, 0], minlength=3)
    alive = 0.5 * 1e-3 + 0.5 * counts >= 0.4 * 8 / 3
    np.testing.assert_allclose(after.count[0][0][alive], (0.5e-3 + 0.5 * counts)[alive], rtol=1e-6)
    np.testing.assert_allclose(after.count[0][0][~alive], 8 / 3, rtol=1e-6)


def test_a_planted_hierarchy_is_recovered():
    # 4 far centres, around each 4 near ones: level 1 has to find the centres, level 2 the places.
    rng = np.random.default_rng(2)
    coarse = 10 * np.array([[1, 0], [-1, 0], [0, 1], [0, -1]])
    fine = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]])
    group, place = np.divmod(np.arange(160) % 16, 4)
    latent = coarse[group] + fine[place] + 0.05 * rng.normal(size=(160, 2))
    books = quantizer.fit_codebooks(latent, 2, 4, 160, seed=0)
    codes = np.asarray(quantizer.quantize(jnp.asarray(books.vectors), jnp.asarray(latent)).codes)
    assert len(np.unique(np.stack([group, codes[:, 0]]), axis=1).T) == 4
    assert len(np.unique(np.stack([group, place, *codes.T]), axis=1).T) == 16


def test_gradients_pass_straight_through_the_codes():
    model = RqVae(content=5, dim=3, hidden=(4,))
    rng = np.random.default_rng(3)
    content, vectors = rng.normal(size=(6, 5)), rng.normal(size=(2, 4, 3))
    params = model.init(jax.random.key(0), content, vectors)["params"]

    def rebuilt(params):
        return (model.apply({"params": params}, content, vectors)[0] ** 2).sum()

    def decoded(params, shift):
        # The decoder at the codes, moved by the encoder's output as if codes did not exist.
        latent = model.apply({"params": params}, content, method="encode")
        fixed = jax.lax.stop_gradient(shift - latent)
        return (model.apply({"params": params}, latent + fixed, method="decode") ** 2).sum()

    latent = model.apply({"params": params}, content, method="encode")
    chosen = quantizer.quantize(jnp.asarray(vectors), latent).chosen.sum(1)
    expected = jax.grad(decoded)(params, chosen)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
        jax.grad(rebuilt)(params),
        expected,
    )
    assert np.abs(expected["encoder"]["Dense_0"]["kernel"]).max() > 0


def test_colliding_items_move_to_the_nearest_free_last_code():
    vectors = np.array([[[0.0], [100.0]], [[0.0], [1.0]]])  # two levels of two codes on a line
    latent = np.array([[0.1], [0.2], [100.0], [0.3]])
    nearest = np.asarray(quantizer.quantize(jnp.asarray(vectors), jnp.asarray(latent)).codes)
    np.testing.assert_array_equal(nearest, [[0, 0], [0, 0], [1, 0], [0, 0]])
    # The nearest to the code keeps it, the one nearest to the other code moves, the third stays.
    resolved = collisions.resolve_collisions(latent, vectors, nearest)
    np.testing.assert_array_equal(resolved, [[0, 0], [0, 0], [1, 0], [0, 1]])


def test_fewer_items_than_codes_is_refused():
    with pytest.raises(ConfigError, match=r"codes=9 is more than the 5 items"):
        quantizer.fit_codebooks(np.zeros((5, 2)), 1, 9, 5, seed=0)
