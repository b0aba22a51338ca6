"""Masks of 8 bits: rate, expectation, independence, and where nothing is dropped."""

import collections

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nif_jax.models.dropout import Dropout, random_bytes, threshold

SHAPE = (64, 50, 33)
"""105,600 entries, of no use to a rank of 4 words."""


@pytest.fixture(params=["rbg", "threefry2x32"])
def rng(request):
    return jax.random.key(7, impl=request.param)


def dropped(rate, x, rng):
    return Dropout(rate).apply({}, x, deterministic=False, rngs={"dropout": rng})


def test_bytes_are_uniform(rng):
    counts = np.bincount(np.ravel(random_bytes(rng, SHAPE)), minlength=256)
    expected = counts.sum() / 256
    # Chi-square with 255 degrees of freedom: standard deviation 22.6.
    assert abs(((counts - expected) ** 2 / expected).sum() - 255) < 5 * 22.6


def test_bytes_are_those_of_the_words(rng):
    """Every byte of every word is used once, so entries are as independent as the words' bits."""
    size = 30
    words = np.asarray(jax.random.bits(rng, (8,), jnp.uint32))
    found = collections.Counter(np.asarray(random_bytes(rng, (size,))).tolist())
    every = collections.Counter(words.astype("<u4").view(np.uint8).tolist())
    assert sum((every - found).values()) == 2  # 8 words have 32 bytes
    assert not found - every


@pytest.mark.parametrize("rate", [1 / 256, 0.1, 0.5, 0.9])
def test_rate_and_expectation(rate, rng):
    x = jnp.ones(SHAPE)
    found = np.asarray(dropped(rate, x, rng))
    exact = round(rate * 256) / 256
    share = (found == 0).mean()
    assert abs(share - exact) < 5 * np.sqrt(exact * (1 - exact) / found.size)
    kept = found[found != 0]
    np.testing.assert_allclose(kept, 1 / (1 - exact), rtol=1e-6)


def test_entries_are_independent(rng):
    """No correlation with neighbours on any axis, nor at a distance of a block of bytes."""
    drop = np.asarray(dropped(0.25, jnp.ones(SHAPE), rng) == 0).ravel() - 0.25
    for distance in (1, 2, 3, 4, 33, 33 * 50, drop.size // 4, drop.size // 2):
        correlation = (drop[distance:] * drop[:-distance]).mean() / (0.25 * 0.75)
        assert abs(correlation) < 5 / np.sqrt(drop.size - distance), distance


def test_keys_decide(rng):
    x = jnp.ones(SHAPE)
    one, other = jax.random.split(rng)
    assert (dropped(0.5, x, one) == dropped(0.5, x, one)).all()
    assert 0.45 < (dropped(0.5, x, one) == dropped(0.5, x, other)).mean() < 0.55


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_gradient_is_the_mask(dtype, rng):
    x = jnp.full((5, 7), 3, dtype)
    found, back = jax.vjp(lambda x: dropped(0.5, x, rng), x)
    assert found.dtype == dtype
    (gradient,) = back(jnp.ones_like(x))
    np.testing.assert_array_equal(np.asarray(gradient * 3, float), np.asarray(found, float))


def test_what_drops_nothing_or_all(rng):
    x = jnp.arange(12.0).reshape(3, 4)
    assert (dropped(0.0, x, rng) == x).all()
    assert (dropped(1.0, x, rng) == 0).all()
    assert (Dropout(0.5).apply({}, x, deterministic=True) == x).all()
    assert (Dropout(0.5, deterministic=True).apply({}, x) == x).all()
    assert Dropout(0.5).init(rng, x, deterministic=True) == {}


@hypothesis.given(st.floats(0, 1))
def test_threshold_is_the_nearest(rate):
    if rate not in (0, 1) and not 1 / 512 < rate < 511 / 512:
        return
    assert abs(threshold(rate) / 256 - rate) <= 1 / 512


@pytest.mark.parametrize("rate", [-0.1, 0.001, 0.999, 1.1, float("nan")])
def test_rates_that_bits_cannot_express(rate):
    with pytest.raises(ValueError, match="dropout rate"):
        threshold(rate)
