"""attend, in all implementations, against naive attention and against the forms it replaced."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nif_jax.models import attention
from nif_jax.models.attention import KeyValue, attend

B, P, S, H, W, T = 2, 3, 4, 2, 4, 2
FORMS = {
    "cpu": functools.partial(attend, implementation="cpu"),
    "cpu, fast gradient": functools.partial(attend, implementation="cpu", fast_gradient=True),
    "xla": functools.partial(attend, implementation="xla"),
}
RNG = np.random.default_rng(0)
# The first query of row 1 sees nothing; nobody sees key 3 of row 0.
MASK = np.array(
    [[[1, 1, 0, 0], [1, 0, 1, 0], [0, 1, 1, 0]], [[0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 1]]], bool
)
SEES = MASK | ~MASK.any(-1, keepdims=True)


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


QUERY, KEY, VALUE = normal(B, P, H, W), normal(B, S, H, W), normal(B, S, H, W)
OWN = KeyValue(normal(B, P, T, H, W), normal(B, P, T, H, W))


def naive(query, key, value, mask=None, own=None, scale=W**-0.5):
    """One row and query at a time, over the keys that it sees."""
    mask = np.broadcast_to(True if mask is None else mask, (B, P, S))
    found = []
    for b, p in np.ndindex(B, P):
        keys, values = key[b, mask[b, p]], value[b, mask[b, p]]  # [n, H, d]
        if own is not None:
            keys = jnp.concatenate([keys, own.key[b, p]])
            values = jnp.concatenate([values, own.value[b, p]])
        odds = jnp.exp((keys * query[b, p]).sum(-1) * scale)[..., None]  # [n, H, 1]
        found.append((odds * values).sum(0) / odds.sum(0) if len(keys) else jnp.zeros((H, W)))
    return jnp.stack(found).reshape(B, P, H, W)


def outcome(form, *arrays):
    """Values, and gradients by all arrays of a loss with a different weight for each output."""
    weight = jnp.cos(jnp.arange(B * P * H * W)).reshape(B, P, H, W)

    def loss(arrays):
        found = form(*arrays)
        return (found**2 * weight).sum(), found

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(arrays)


def agree(forms, other, *arrays, atol=1e-5):
    """All forms give the values and gradients of the other; returns those of the last form."""
    expected = outcome(other, *arrays)
    for form in forms:
        found = outcome(form, *arrays)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=atol, atol=atol), found, expected
        )
    return found


def with_mask(mask, names=FORMS, **options):
    """The named forms with a mask, as functions of the arrays."""
    mask = None if mask is None else jnp.asarray(mask)
    return [functools.partial(_call, FORMS[name], mask, options) for name in names]


def _call(form, mask, options, query, key, value, *own):
    own = {"own": KeyValue(*own)} if own else {}
    return form(query, key, value, mask, **own, **options)


@pytest.mark.parametrize(
    "mask", [None, MASK, MASK[:, 1:2], MASK[1]], ids=["none", "whole", "by row", "by query"]
)
def test_values_and_gradients_are_those_of_naive_attention(mask):
    agree(with_mask(mask), lambda *x: naive(*x, mask), QUERY, KEY, VALUE)


@pytest.mark.parametrize("form", FORMS)
def test_a_query_that_sees_nothing_gets_zero_and_gives_no_gradient(form):
    (_, found), gradients = outcome(*with_mask(MASK, [form]), QUERY, KEY, VALUE)
    d_query, d_key, d_value = gradients
    assert not np.any(found[1, 0]) and not np.any(d_query[1, 0])
    assert not np.any(d_key[0, 3]) and not np.any(d_value[0, 3])
    assert all(np.isfinite(x).all() for x in gradients)


@pytest.mark.parametrize("form", FORMS)
def test_masked_keys_change_no_bit(form):
    hidden = ~MASK.any(1)[..., None, None]
    run = jax.jit(*with_mask(MASK, [form]))
    noisy = [jnp.where(hidden, 1e3, x) for x in (KEY, VALUE)]
    np.testing.assert_array_equal(run(QUERY, *noisy), run(QUERY, KEY, VALUE))


@pytest.mark.parametrize("mask", [None, MASK], ids=["no mask", "mask"])
def test_one_key_head_for_all_query_heads(mask):
    forms = with_mask(mask, ["cpu", "xla"], scale=0.3)
    agree(forms, lambda *x: naive(*x, mask, scale=0.3), QUERY, KEY[:, :, :1], VALUE[:, :, 1:])


def test_own_keys_are_seen_by_their_query_only():
    agree(
        with_mask(MASK, ["cpu", "xla"]),
        lambda *x: naive(*x[:3], MASK, KeyValue(*x[3:])),
        QUERY,
        KEY,
        VALUE,
        *OWN,
    )


@pytest.mark.parametrize("form", FORMS)
def test_more_leading_axes(form):
    x = [jnp.stack([a, 2 * a]) for a in (QUERY, KEY, VALUE)]
    (run,) = with_mask(MASK[1], [form])
    expected = jnp.stack([run(*(a[i] for a in x)) for i in range(2)])
    np.testing.assert_allclose(run(*x), expected, atol=1e-6)


# What the models had before there was one function; copied from their files.


def former_causal(query, key, value, mask):
    """models/transformer.py, and without a mask models/align.py."""
    scores = jnp.einsum("bphd,bshd->bhps", query, key) * query.shape[-1] ** -0.5
    if mask is not None:
        scores = jnp.where(mask[:, None], scores, -1e9)
    return jnp.einsum("bhps,bshd->bphd", nn.softmax(scores), value)


def former_intent(query, key, value, mask):
    """models/attention.py, with the gradient that JAX derives for it."""
    query, key, value = (jnp.swapaxes(x, 1, 2) for x in (query * W**-0.5, key, value))
    scores = jnp.einsum("bhpd,bhsd->bhps", query, key)
    mask = jnp.ones((1, 1, 1), bool) if mask is None else mask
    scores = jnp.where(mask[:, None], scores, -1e9)
    weights = nn.softmax(scores) * mask[:, None].any(-1, keepdims=True)
    return jnp.swapaxes(jnp.einsum("bhps,bhsd->bhpd", weights, value), 1, 2)


def former_cohorts(query, key, value, mask):
    """models/cohorts.py."""
    mask = None if mask is None else mask[:, None]
    return nn.dot_product_attention(query, key, value, mask=mask)


@pytest.mark.parametrize("former", [former_causal, former_intent, former_cohorts])
@pytest.mark.parametrize("mask", [None, SEES], ids=["no mask", "mask"])
def test_former_implementations_agree(former, mask):
    # Each query sees a key: former implementations differed for those that see none.
    shown = None if mask is None else jnp.asarray(mask)
    agree(with_mask(mask), lambda *x: former(*x, shown), QUERY, KEY, VALUE)


def test_the_default_on_cpus_is_the_form_of_the_causal_blocks_bit_for_bit():
    assert jax.default_backend() == "cpu"
    for mask in (None, jnp.asarray(SEES)):
        agree(
            [functools.partial(attend, mask=mask)],
            functools.partial(former_causal, mask=mask),
            QUERY,
            KEY,
            VALUE,
            atol=0,
        )


def test_flax_attention_keeps_its_parameters_with_attend():
    x, states = normal(B, P, H * W), normal(B, S, H * W)
    mask = jnp.asarray(MASK[:, 1:2])
    plain, ours = (nn.MultiHeadDotProductAttention(H, **o) for o in ({}, {"attention_fn": attend}))
    params, same = (m.init(jax.random.key(3), x, states) for m in (plain, ours))
    jax.tree.map(np.testing.assert_array_equal, params, same)
    expected = plain.apply(params, x, states, mask=mask[:, None])
    np.testing.assert_allclose(ours.apply(params, x, states, mask=mask), expected, atol=1e-5)


def test_errors_name_the_choices():
    with pytest.raises(ValueError, match=r"'flash'; choose from .*'cudnn'"):
        attend(QUERY, KEY, VALUE, implementation="flash")
    with pytest.raises(ValueError, match="own keys need a mask"):
        attend(QUERY, KEY, VALUE, own=OWN)


@pytest.mark.parametrize("implementation", ["cpu", "tiles", "xla"])
def test_bfloat16_is_the_dtype_of_the_result_and_not_of_the_softmax(implementation):
    near = [x.astype(jnp.bfloat16) for x in (QUERY, KEY, VALUE)]
    form = functools.partial(attend, mask=jnp.asarray(MASK), implementation=implementation)
    found, expected = form(*near), form(*(x.astype(jnp.float32) for x in near))
    assert found.dtype == jnp.bfloat16
    if implementation == "xla":  # its weights are rounded
        np.testing.assert_allclose(found.astype(jnp.float32), expected, atol=0.02)
    else:
        np.testing.assert_array_equal(found, expected.astype(jnp.bfloat16))
    assert not found[1, 0].any()


def heads(queries, keys, width, dtype=jnp.bfloat16):
    return jnp.zeros((1, queries, 2, width), dtype), jnp.zeros((1, keys, 2, width), dtype)


@pytest.mark.parametrize(
    ("shapes", "capability", "suits"),
    [
        (heads(64, 128, 64), (9, 0), True),
        (heads(64, 128, 128, jnp.float16), (8, 0), True),
        (heads(64, 128, 64, jnp.float32), (9, 0), False),
        (heads(64, 128, 136), (9, 0), False),
        (heads(64, 128, 60), (9, 0), False),
        (heads(65, 128, 64), (9, 0), False),
        (heads(64, 129, 64), (9, 0), False),
        (heads(4, 128, 64), (9, 0), False),
        (heads(64, 128, 64), (7, 5), False),
        (heads(64, 128, 64), (), False),  # no NVIDIA GPU
    ],
)
def test_cudnn_suits_what_it_takes(shapes, capability, suits, monkeypatch):
    monkeypatch.setattr(attention, "_compute_capability", lambda: capability)
    assert attention.cudnn_suits(*shapes) == suits


def test_cudnn_gets_mask_and_scale_where_it_suits(monkeypatch):
    """XLA stands in for the kernel. A row that sees nothing gives 0, whatever a kernel gives."""
    monkeypatch.setattr(attention, "_compute_capability", lambda: (9, 0))
    monkeypatch.setattr(attention.jax, "default_backend", lambda: "gpu")
    called, original = [], jax.nn.dot_product_attention

    def stand_in(*arrays, implementation, **options):
        called.append(implementation)
        return original(*arrays, implementation="xla", **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", stand_in)
    rng = np.random.default_rng(2)
    mask = jnp.asarray(rng.random((1, 64, 128)) < 0.3).at[0, 0].set(False)
    for dtype in (jnp.bfloat16, jnp.float32):
        query, key = (jnp.asarray(rng.normal(size=x.shape), dtype) for x in heads(64, 128, 64))
        found = attend(query, key, key, mask, scale=0.3)
        expected = attend(query, key, key, mask, scale=0.3, implementation="cpu")
        atol = 0.03 if dtype == jnp.bfloat16 else 1e-5
        np.testing.assert_allclose(*(x.astype(jnp.float32) for x in (found, expected)), atol=atol)
        assert not found[0, 0].any()
    assert called == ["cudnn", "xla"]


def test_this_machine_has_a_compute_capability_only_with_an_nvidia_gpu():
    found = attention._compute_capability()
    assert bool(found) == (
        jax.default_backend() == "gpu" and hasattr(jax.devices()[0], "compute_capability")
    )
