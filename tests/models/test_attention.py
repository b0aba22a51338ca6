"""Both forms of attention against a loop over heads and queries, gradients too."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nif_jax.models.attention import rotate
from nif_jax.models.multi_head import Attention

D, H, W, B, P, S = 8, 2, 6, 3, 2, 5
MODULE = Attention(D, H, W)
RNG = np.random.default_rng(0)
PARAMS = {
    name: jnp.asarray(0.5 * RNG.normal(size=shape), jnp.float32)
    for name, shape in {
        "query": (D, H * W),
        "key": (D, H * W),
        "value": (D, H * W),
        "out": (H * W, D),
    }.items()
}
X = jnp.asarray(RNG.normal(size=(B, P, D)), jnp.float32)
STATES = jnp.asarray(RNG.normal(size=(B, S, D)), jnp.float32)
# The first query of the last row sees nothing.
MASK = jnp.asarray(RNG.random((B, P, S)) < 0.6).at[2, 0].set(False).at[:2, :, 4].set(True)


def bind(params):
    shapes = {"out": (H, W, D)}
    kernels = {k: {"kernel": v.reshape(shapes.get(k, (D, H, W)))} for k, v in params.items()}
    return MODULE.bind({"params": kernels})


def turned(x, position):
    return rotate(x[None, None, None], jnp.array([position]))[0, 0, 0]


def naive(params, x, states, mask, rotary=False):
    """One query, one head and one entry at a time."""
    rows = []
    for b in range(B):
        for p in range(P):
            heads = []
            for h in range(H):
                part = slice(h * W, (h + 1) * W)
                query = x[b, p] @ params["query"][:, part]
                keys = [states[b, s] @ params["key"][:, part] for s in range(S)]
                if rotary:
                    query, keys = turned(query, p), [turned(k, s) for s, k in enumerate(keys)]
                values = states[b] @ params["value"][:, part]
                scores = jnp.stack([query @ k for k in keys]) / W**0.5
                weights = jnp.exp(scores) * mask[b, p]
                total = weights.sum() if mask[b, p].any() else 1.0
                heads.append(weights @ values / total)
            rows.append(jnp.concatenate(heads) @ params["out"])
    return jnp.stack(rows).reshape(B, P, D)


def attended(params, x, states, mask, rotary=False):
    bound = bind(params)
    memory = bound.keys_values(states, jnp.arange(S) if rotary else None)
    return bound(x, memory, mask, jnp.arange(P) if rotary else None)


def absorbed(params, x, states, mask):
    return bind(params).attend_states(x, states, mask)


@pytest.mark.parametrize("rotary", [False, True])
def test_attention_is_the_loop(rotary):
    expected = naive(PARAMS, X, STATES, MASK, rotary)
    np.testing.assert_allclose(attended(PARAMS, X, STATES, MASK, rotary), expected, atol=1e-5)
    assert not np.any(expected[2, 0])


@pytest.mark.parametrize(
    ("form", "rotary"), [(attended, False), (attended, True), (absorbed, False)]
)
def test_gradients_are_those_of_the_loop(form, rotary):
    rotary = {"rotary": True} if rotary else {}

    def loss(form):
        return jax.value_and_grad(
            lambda params, x, states: (form(params, x, states, MASK, **rotary) ** 2).sum(),
            argnums=(0, 1, 2),
        )(PARAMS, X, STATES)

    one, other = loss(form), loss(naive)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), one, other)


def test_one_mask_for_all_queries():
    for form in (attended, absorbed):
        np.testing.assert_allclose(
            form(PARAMS, X, STATES, MASK[:, 1:]),
            form(PARAMS, X, STATES, jnp.repeat(MASK[:, 1:], P, 1)),
            atol=1e-6,
        )


def test_absorbing_pays_while_queries_are_few():
    # Work of a memory entry: 4 D H d + 4 P H d with keys and values, 4 P H D without.
    for queries in range(1, 60):
        with_keys, without = D * W + queries * W, queries * D
        assert MODULE.prefers_states(queries) == (without < with_keys)


def test_parameters_are_those_of_dense_general():
    class Reference(nn.Module):
        def setup(self):
            self.query, self.key, self.value = (
                nn.DenseGeneral((H, W), use_bias=False) for _ in range(3)
            )
            self.out = nn.DenseGeneral(D, axis=(-2, -1), use_bias=False)

        def __call__(self, x, states):
            return self.out(self.query(x)), self.key(states), self.value(states)

    def whole(module, x, states):
        return module(x, module.keys_values(states), MASK)

    expected = Reference().init(jax.random.key(7), X, STATES)
    found = MODULE.init(jax.random.key(7), X, STATES, method=whole)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
