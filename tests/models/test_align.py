"""The Semantic Alignment Module: attention over a flow, by hand and at its limits."""

import jax
import numpy as np
import pytest

from nif_jax.models.align import SemanticAlignment

B, T, D, DG = 3, 4, 4, 6


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(0)
    target, flow = rng.normal(size=(B, D)), rng.normal(size=(B, T, DG))
    return target.astype(np.float32), flow.astype(np.float32), np.array([True, True, False])


apply_one, apply_two = (jax.jit(SemanticAlignment(dim=D, heads=heads).apply) for heads in (1, 2))


@pytest.fixture(scope="module")
def params(random_params, inputs):
    return random_params(1, SemanticAlignment(dim=D, heads=2).init, *inputs)


def dense(p, x):
    return x @ p["kernel"] + p["bias"]


def reference(p, heads, target, flow):
    """r [D] for one target [D] and flow [T, D_G]."""
    size = D // heads
    query, keys, values = dense(p["query"], target), dense(p["key"], flow), dense(p["value"], flow)
    keys, values = keys + p["step"], values + p["step"]
    parts = []
    for h in range(heads):
        part = slice(h * size, (h + 1) * size)
        weights = np.exp(keys[:, part] @ query[part] / np.sqrt(size))
        parts.append(weights @ values[:, part] / weights.sum())
    return dense(p["out"], np.concatenate(parts))


@pytest.mark.parametrize(("heads", "apply"), [(1, apply_one), (2, apply_two)])
def test_attention_equals_a_naive_one(params, inputs, heads, apply):
    target, flow, mask = inputs
    found = apply({"params": params}, target, flow, mask)
    assert found.shape == (B, D)
    for row in range(2):
        expected = reference(params, heads, target[row], flow[row])
        np.testing.assert_allclose(found[row], expected, atol=1e-5)
    # A user without a history has no evidence, whatever stands in the flow.
    np.testing.assert_array_equal(found[2], 0)


def test_by_hand():
    # One head of width 4: the first number of a state is its key, the second its value.
    zero, eye = np.zeros((D, D), np.float32), np.eye(D, dtype=np.float32)
    key, value, query = zero.copy(), zero.copy(), 2 * np.log(2) * eye  # over sqrt(4): log 2
    key = np.vstack([key, np.zeros((2, D), np.float32)])
    value = key.copy()
    key[0, 0] = value[1, 0] = 1
    bias = np.zeros(D, np.float32)
    params = {
        "step": np.zeros((T, D), np.float32),
        "key": {"kernel": key, "bias": bias},
        "value": {"kernel": value, "bias": bias},
        "query": {"kernel": query, "bias": bias},
        "out": {"kernel": 10 * eye, "bias": bias},
    }
    flow = np.zeros((B, T, DG), np.float32)
    flow[:, :, 0] = [0, 1, 2, 3]  # weights 1, 2, 4, 8 of 15 for a target of 1
    flow[:, :, 1] = [4, 3, 2, 1]
    target = np.zeros((B, D), np.float32)
    target[:, 0] = [1, 0, -1]
    r = apply_one({"params": params}, target, flow, np.ones(B, bool))
    expected = [10 * (4 + 6 + 8 + 8) / 15, 10 * 2.5, 10 * (4 * 8 + 3 * 4 + 2 * 2 + 1) / 15]
    np.testing.assert_allclose(r[:, 0], expected, rtol=1e-5)
    np.testing.assert_array_equal(r[:, 1:], 0)


def test_order_of_the_flow_matters(params, inputs):
    target, flow, mask = inputs
    before = apply_two({"params": params}, target, flow, mask)
    after = apply_two({"params": params}, target, flow[:, ::-1], mask)
    assert np.abs(before - after)[:2].min() > 1e-4
    # Only by the embedding of the step: without it attention is a set's.
    plain = params | {"step": np.zeros_like(params["step"])}
    before = apply_two({"params": plain}, target, flow, mask)
    after = apply_two({"params": plain}, target, flow[:, ::-1], mask)
    np.testing.assert_allclose(before, after, atol=1e-5)


def test_a_flow_of_one_step_says_the_same_about_every_target(params, inputs):
    target, flow, mask = inputs
    one = params | {"step": params["step"][:1]}
    single = [apply_two({"params": one}, q, flow[:, :1], mask) for q in (target, -3 * target)]
    np.testing.assert_allclose(*single, atol=1e-6)
    several = [apply_two({"params": params}, q, flow, mask) for q in (target, -3 * target)]
    assert np.abs(several[0] - several[1])[:2].max() > 0.1


def test_parameter_count(params):
    # Steps, query and out in ranker space; key and value from generator space.
    expected = T * D + 2 * (D * D + D) + 2 * (DG * D + D)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == expected
