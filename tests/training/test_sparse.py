"""Large tables: a step of the rows that it reads, compared with the step of the whole table."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nif_jax.data.table_rows import Lookup
from nif_jax.training import sparse, train_state
from nif_jax.training.devices.base import AXIS
from nif_jax.training.optim import make_optimizer
from nif_jax.training.stage import Aux, Stage
from nif_jax.training.step import make_train_step

ROWS, N, D = 8, 40, 3
ADAM = {"learning_rate": 0.1, "total_steps": 9, "warmup_steps": 0, "decay": "constant"}


class Rows(NamedTuple):
    item: Any  # [B, 2]
    y: Any  # [B]
    weight: Any  # [B]


def gather(arrays, index):
    row = index["row"]
    return Rows(arrays["item"][row], arrays["y"][row], index["weight"])


def loss_fn(params, variables, constants, batch, rng, step):
    """Squared error of a linear model of the mean of two embeddings, and of one of three biases."""
    del constants, rng, step
    x = params["a"]["items"]["id"][batch.item].mean(1) @ params["w"]
    error = x + params["items"]["id"][batch.item[:, 0]][:, 0] - batch.y
    return (error**2 * batch.weight).sum(), Aux(batch.weight.sum(), variables, {})


def lookups(constants, batch, rng):
    del constants, rng
    real = jnp.broadcast_to(batch.weight[:, None] > 0, batch.item.shape)
    return {"items/id": Lookup(batch.item, real)}


def stage(optimizer, large: bool) -> Stage:
    return Stage(
        name="embedding",
        init=None,
        gather=gather,
        loss_fn=loss_fn,
        plan=None,
        evaluate=None,
        optimizer=optimizer,
        metric="",
        config={},
        settings=None,
        data=None,
        lookups=lookups if large else None,
    )


def adamw(clip_norm=0.0, weight_decay=0.0, flatten=False):
    return make_optimizer(**ADAM, weight_decay=weight_decay, clip_norm=clip_norm, flatten=flatten)


def start(optimizer):
    rng = np.random.default_rng(5)
    params = {
        "a": {"items": {"id": rng.normal(size=(N, D))}},
        "items": {"id": rng.normal(size=(N, 1))},
        "w": rng.normal(size=D),
    }
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    return train_state.create(params, {}, optimizer, seed=4)


def store():
    """Rows of which the last, which is padding, has items of its own."""
    rng = np.random.default_rng(1)
    item = rng.integers(0, N - 2, (60, 2)).astype(np.int32)
    item[-1] = N - 2, N - 1
    return {"item": item, "y": rng.normal(size=60).astype(np.float32)}


def batches(steps=3):
    """Index [K, B]; the last rows are padding, which reads rows that no other row reads."""
    rng = np.random.default_rng(2)
    weight = np.ones((steps, ROWS), np.float32)
    weight[:, 6:] = 0
    row = np.stack([rng.permutation(50)[:ROWS] for _ in range(steps)])
    row[:, 6:] = 59
    return {"row": row.astype(np.int32), "weight": weight}


def run(optimizer, large, arrays, index, devices=1, microbatch=0, state=None, on_device=True):
    """The state of each device after the steps of index [K, B], whose rows they share."""
    step = make_train_step(stage(optimizer, large), microbatch, on_device)
    step = jax.jit(jax.vmap(step, axis_name=AXIS))
    cut = jax.tree.map(lambda x: np.stack(np.split(x, devices, axis=1)), index)
    state = start(optimizer) if state is None else state
    inputs = jax.tree.map(lambda x: np.stack([np.asarray(x)] * devices), (state, arrays, {}))
    return step(*inputs, cut)


def first(tree):
    return jax.tree.map(lambda x: x[0], tree)


def assert_close(one, other, rtol=1e-5):
    compare = functools.partial(np.testing.assert_allclose, rtol=rtol, atol=1e-6)
    jax.tree.map(compare, one, other)


def read(arrays, index):
    """[N] bool, rows that some step reads with a weight."""
    return np.isin(np.arange(N), arrays["item"][index["row"][index["weight"] > 0]])


def test_one_step_from_zero_moments_is_the_dense_one():
    index, optimizer = batches(1), adamw(clip_norm=0.05)
    there, dense = run(adamw(0.05, flatten=True), False, store(), index)
    here, sparse = run(optimizer, True, store(), index)
    assert_close(here.params, there.params)
    assert_close(sparse, dense)


@pytest.mark.parametrize("clip_norm", [0.0, 0.05])
def test_without_moments_all_steps_are_dense_ones(clip_norm):
    clip = optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity()
    optimizer = optax.chain(clip, optax.sgd(0.3))
    there, _ = run(optimizer, False, store(), batches())
    here, _ = run(optimizer, True, store(), batches())
    assert_close(here.params, there.params)
    assert np.abs(here.params["w"][0] - start(optimizer).params["w"]).max() > 0.01


def test_with_all_rows_read_adamw_is_the_dense_one():
    items = np.arange(2 * ROWS).reshape(ROWS, 2) % N
    arrays = {"item": items.astype(np.int32), "y": np.ones(ROWS, np.float32)}
    index = {
        "row": np.stack([np.random.default_rng(k).permutation(ROWS) for k in range(4)]),
        "weight": np.ones((4, ROWS), np.float32),
    }
    there, _ = run(adamw(0.2, 0.3), False, arrays, index)
    here, _ = run(adamw(0.2, 0.3), True, arrays, index)
    rows = np.arange(2 * ROWS)
    names = jax.tree.leaves(sparse._state_names(adamw(), first(here), {"items/id": 0}))
    assert names.count("items/id") == 6  # two tables and two moments of each
    for name, one, other in zip(names, jax.tree.leaves(here), jax.tree.leaves(there), strict=True):
        assert_close(*((one[:, rows], other[:, rows]) if name else (one, other)))


def test_other_rows_keep_their_bits():
    arrays, index, optimizer = store(), batches(), adamw(weight_decay=0.5)
    state, _ = run(optimizer, True, arrays, index)
    before, kept = start(optimizer), ~read(arrays, index)
    assert 5 < kept.sum() < N - 5 and kept[-2:].all()
    adam, old = state.opt_state[1][0], before.opt_state[1][0]
    for found, begin in ((state.params, before.params), (adam.mu, old.mu), (adam.nu, old.nu)):
        for part, there in ((found, begin), (found["a"], begin["a"])):
            changed = (part["items"]["id"][0] != there["items"]["id"]).any(-1)
            # The biases of second items are read, but have no gradient, and so no moments.
            np.testing.assert_array_equal(changed[kept], False)
            assert changed[~kept].mean() > 0.5


@pytest.mark.parametrize("devices", [2, 4])
@pytest.mark.parametrize("microbatch", [0, 2])
def test_devices_and_microbatches_add_up(devices, microbatch):
    if microbatch >= ROWS // devices:
        microbatch = 0
    optimizer = adamw(0.3, 0.1)
    one, measured = run(optimizer, True, store(), batches())
    many, also = run(optimizer, True, store(), batches(), devices, microbatch)
    for device in range(devices):
        assert_close(jax.tree.map(lambda x, d=device: x[d], many), first(one), rtol=1e-4)
    jax.tree.map(lambda x: np.testing.assert_array_equal(x[0], x[-1]), many)
    assert_close(first(also), first(measured), rtol=1e-4)


def test_batches_gathered_before_the_step_give_the_same():
    index, optimizer = batches(), adamw(0.3, 0.1)
    on_device, _ = run(optimizer, True, store(), index)
    on_host, _ = run(optimizer, True, {}, gather(store(), index), on_device=False)
    assert_close(on_host, on_device)


def test_a_run_that_goes_on_ends_with_the_same_bits():
    index, optimizer = batches(4), adamw(0.3, 0.1)
    whole, _ = run(optimizer, True, store(), index)
    halves = [jax.tree.map(lambda x, k=k: x[k : k + 2], index) for k in (0, 2)]
    state, _ = run(optimizer, True, store(), halves[0])
    host = jax.device_get(first(state))
    state, _ = run(optimizer, True, store(), halves[1], state=host)
    jax.tree.map(np.testing.assert_array_equal, state, whole)


def test_a_row_that_is_not_listed_makes_the_loss_no_number():
    def too_few(constants, batch, rng):
        found = lookups(constants, batch, rng)["items/id"]
        return {"items/id": Lookup(found.ids[:, :1], found.real[:, :1])}

    broken = dataclasses.replace(stage(adamw(), True), lookups=too_few)
    step = jax.jit(jax.vmap(make_train_step(broken, 0, True), axis_name=AXIS))
    inputs = jax.tree.map(lambda x: np.asarray(x)[None], (start(adamw()), store(), {}, batches(1)))
    _, measured = step(*inputs)
    assert np.isnan(measured["loss"][0]).all()


def test_tables_of_one_name_have_one_number_of_rows():
    state = start(adamw())
    lookup = Lookup(jnp.zeros(3, jnp.int32), jnp.ones(3, bool))
    with pytest.raises(ValueError, match="'items/brand'"):
        sparse.find_rows(state, {"items/brand": lookup})
    smaller = state.params | {"items": {"id": jnp.zeros((N - 1, 1))}}
    with pytest.raises(ValueError, match=r"\[39, 40\] rows"):
        sparse.find_rows(state.replace(params=smaller), {"items/id": lookup})
