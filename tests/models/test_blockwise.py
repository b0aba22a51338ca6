"""Attention by tiles against the plain form: values, gradients, masks, and what chooses between."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nif_jax.models import attention, blockwise, cpu
from nif_jax.models.attention import attend
from nif_jax.models.flow import FlowDecoder

H, W = 2, 4


def parts(rows, queries, keys, seed=0):
    rng = np.random.default_rng(seed)
    lengths = (queries, keys, keys)
    return [jnp.asarray(rng.normal(size=(rows, n, H, W)), jnp.float32) for n in lengths]


def causal(size):
    return np.tril(np.ones((size, size), bool))


def packed(rows, size, seed=1):
    """Causal within segments, the last of which is padding that sees nothing."""
    rng = np.random.default_rng(seed)
    segment = np.sort(rng.integers(0, 5, (rows, size)), axis=1)
    same = segment[:, :, None] == segment[:, None]
    return causal(size) & same & (segment > 0)[:, None]


def blind(size):
    """Causal but for its first 150 queries, which see nothing: a whole tile and more."""
    mask = causal(size)
    mask[:150] = False
    return mask[None]


MASKS = {
    "causal": causal(300),
    "segments": packed(3, 300),
    "random": np.random.default_rng(2).random((3, 300, 300)) < 0.1,
    "no keys first": blind(300),
    "keys only": np.random.default_rng(3).random((3, 1, 300)) < 0.5,
    "nothing": np.zeros((3, 300, 300), bool),
    "everything": None,
}


@pytest.mark.parametrize("name", MASKS)
def test_tiles_are_the_plain_form(name):
    mask = None if MASKS[name] is None else jnp.asarray(MASKS[name])
    given = parts(3, 300, 300)

    def both(implementation):
        def loss(*x, mask):
            found = attend(*x, mask, implementation=implementation)
            return (jnp.sin(found) * jnp.arange(W)).sum(), found

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(*given, mask=mask)

    (gradients, found), (expected_gradients, expected) = both("tiles"), both("cpu")
    np.testing.assert_allclose(found, expected, atol=1e-5)
    for one, other in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
    if mask is not None:
        unseen = ~np.broadcast_to(mask.any(-1), found.shape[:2])
        assert not np.asarray(found)[unseen].any()
        assert not np.asarray(gradients[0])[unseen].any()


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (128, 128), (129, 5), (5, 257)])
def test_any_lengths(queries, keys):
    given = parts(2, queries, keys)
    mask = jnp.asarray(np.random.default_rng(0).random((2, queries, keys)) < 0.6)
    found, expected = (form(*given, mask, 0.3) for form in (blockwise.attend, cpu.attend))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_leading_axes():
    query, key, value = (x.reshape(2, 3, *x.shape[1:]) for x in parts(6, 140, 150))
    mask = jnp.asarray(np.random.default_rng(0).random((2, 1, 140, 150)) < 0.6)
    found = attend(query, key, value, mask, implementation="tiles")
    np.testing.assert_allclose(
        found, attend(query, key, value, mask, implementation="cpu"), atol=1e-5
    )


def test_masked_keys_change_no_bit():
    query, key, value = parts(1, 300, 300)
    mask = jnp.asarray(causal(300)[None])
    form = jax.jit(functools.partial(attend, implementation="tiles"))
    one = form(query, key, value, mask)
    other = form(query, key.at[:, 200:].mul(-7), value.at[:, 200:].add(3), mask)
    np.testing.assert_array_equal(one[:, :200], other[:, :200])


def test_large_scores_do_not_overflow():
    query, key, value = parts(1, 200, 200)
    found = attend(query * 1e4, key, value, implementation="tiles")
    best = jnp.einsum("bphd,bshd->bhps", query, key).argmax(-1)[0]  # [H, P]
    expected = jnp.stack([value[0, best[h], h] for h in range(H)], axis=1)
    np.testing.assert_allclose(found[0], expected, atol=1e-3)


def test_tiles_without_a_visible_key_are_skipped():
    size = 4 * blockwise.TILE
    tiles = blockwise._tiles(jnp.asarray(causal(size)[None]))
    assert np.diff(tiles.start).tolist() == [1, 2, 3, 4]
    expected = [[0, i, j] for i in range(4) for j in range(i + 1)]
    assert tiles.places[: tiles.start[-1]].tolist() == expected


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the choice on CPUs")
def test_long_sequences_go_by_tiles():
    """Scores of all queries and keys of a long sequence are nowhere in the program."""

    def holds_scores(size):
        x = jax.ShapeDtypeStruct((1, size, H, W), jnp.float32)
        mask = jax.ShapeDtypeStruct((1, size, size), bool)
        text = str(jax.make_jaxpr(jax.grad(lambda *a: attend(*a).sum()))(x, x, x, mask))
        return f"f32[1,{H},{size},{size}]" in text

    long = int(attention.LONG**0.5)
    assert holds_scores(long - 1)
    assert not holds_scores(long)


def test_what_tiles_cannot_do():
    query, key, value = parts(1, 4, 4)
    with pytest.raises(ValueError, match="tiles need"):
        attend(query, key[:, :, :1], value[:, :, :1], implementation="tiles")


def test_a_generator_by_tiles_is_the_same(random_window, random_params, items, monkeypatch):
    """Windows of two segments and padding: flow, label head's visible events, and gradients."""
    model = FlowDecoder({"id": 7, "genre": 5}, 3, 2, 8, 2, 2, 2, 0.0, 0.0, 0.0, "heads", 5)
    window = random_window(1, (6, 4, 1, 0), 6, items=9, scenes=3, actions=2)
    segment = jnp.asarray([[1, 1, 1, 2, 2, 2]] * 4) * window.mask
    params = random_params(2, model.init, window, items)

    def loss(params):
        bound = model.bind({"params": params})
        heads, named = bound(window, items, segment=segment)
        states = heads.reshape(4, 6, 8)
        logits = bound.label_logits(
            states,
            named["vectors"][window.item],
            window.scene,
            window.gap,
            named["past"],
            named["visible"],
        )
        return (jnp.sin(states).sum(-1) * window.mask).sum() + (logits * window.mask).sum()

    expected = jax.value_and_grad(loss)(params)
    monkeypatch.setattr(attention, "LONG", 1)
    found = jax.value_and_grad(loss)(params)
    assert "while" in str(jax.make_jaxpr(loss)(params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), found, expected)
