"""The tokenizer learns, on one device as on two, and its codes are what the report says."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nif_jax.data.sampling import ItemPlan
from nif_jax.models.quantizer import RqVae
from nif_jax.stages import tokenizer

MODEL = RqVae(content=6, dim=3, hidden=(8,))


def codes(form):
    return tokenizer.Codes(
        form, levels=2, codes=4, commitment=0.25, decay=0.9, dead_share=0.05, batch=32, seed=0
    )


@pytest.fixture(scope="module")
def content():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(8, 6)) * 2
    rows = centres[np.arange(64) % 8] + 0.1 * rng.normal(size=(64, 6))
    return np.pad(rows, ((1, 0), (0, 0))).astype(np.float32)


@pytest.mark.parametrize("form", ["ema", "straight_through"])
def test_training_rebuilds_the_content_better(form, content):
    spec, frozen = codes(form), {"content": jnp.asarray(content)}
    params, variables = tokenizer.init(MODEL, spec, jax.random.key(0), None, frozen)
    assert ("codebooks" in params) == (form == "straight_through")
    before = tokenizer.evaluate(MODEL, params, variables, content)
    optimizer = optax.adam(1e-2)
    batch = {"item": jnp.arange(1, 65), "weight": jnp.ones(64)}

    def step(state, rng):
        params, variables, opt_state = state

        def objective(params):
            total, aux = tokenizer.loss(MODEL, spec, None, params, variables, frozen, batch, rng, 0)
            return total / aux.weight, aux

        grads, aux = jax.grad(objective, has_aux=True)(params)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), aux.variables, opt_state), None

    keys = jax.random.split(jax.random.key(1), 150)
    state = (params, variables, optimizer.init(params))
    (params, variables, _), _ = jax.jit(lambda s: jax.lax.scan(step, s, keys))(state)
    after = tokenizer.evaluate(MODEL, params, variables, content)
    assert after["r2"] > max(0.8, before["r2"])
    nearest, used = tokenizer.codes_of(MODEL, params, variables, content)
    assert len(np.unique(nearest[np.arange(64) % 8 == 0], axis=0)) <= 2  # alike items share codes
    np.testing.assert_array_equal(used[:, 0], nearest[:, 0])


def test_padding_teaches_nothing(content):
    spec, frozen = codes("ema"), {"content": jnp.asarray(content)}
    params, variables = tokenizer.init(MODEL, spec, jax.random.key(0), None, frozen)

    def run(item, weight):
        batch = {"item": jnp.array(item), "weight": jnp.array(weight)}
        return tokenizer.loss(
            MODEL, spec, None, params, variables, frozen, batch, jax.random.key(0), 0
        )

    total, aux = run([3, 5, 0, 0], [1.0, 1.0, 0.0, 0.0])
    alone, expected = run([3, 5], [1.0, 1.0])
    np.testing.assert_allclose(total, alone, rtol=1e-5)
    assert aux.weight == 2
    pairs = zip(aux.variables["codebooks"], expected.variables["codebooks"], strict=True)
    for a, b in list(pairs)[1:]:
        np.testing.assert_allclose(a, b, rtol=1e-5)


@pytest.mark.parametrize("shape", [(10, 4, 1), (10, 2, 2), (7, 2, 3), (3, 8, 2)])
def test_an_epoch_shows_every_item_once(shape):
    items, size, shards = shape
    plan = ItemPlan(items, size, shards, seed=0)
    found = [plan.indices(3, shard) for shard in range(shards)]
    for part in found:
        assert part["item"].shape == (plan.steps_per_epoch, size)
        np.testing.assert_array_equal(part["weight"], part["item"] > 0)
    shown = np.concatenate([part["item"].ravel() for part in found])
    np.testing.assert_array_equal(np.sort(shown[shown > 0]), np.arange(1, items + 1))
    again = plan.indices(4, 0)["item"]
    assert items < 5 or not np.array_equal(again, found[0]["item"])
