"""One training step: padding, microbatches, devices and steps of a dispatch change nothing."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nif_jax.training import train_state
from nif_jax.training.devices.base import AXIS
from nif_jax.training.stage import Aux, Stage
from nif_jax.training.step import make_train_step

ROWS, D, RATE = 8, 3, 0.1


class Rows(NamedTuple):
    x: Any  # [B, D]
    y: Any  # [B]
    weight: Any  # [B]
    pair: Any  # [B // 2]


def gather(arrays, index):
    row = index["row"]
    return Rows(arrays["x"][row], arrays["y"][row], index["weight"], index["pair"])


def loss_fn(params, variables, frozen, batch, rng, step):
    """Squared error of a line, and a term on pairs; counts its calls in variables."""
    error = batch.x @ params["w"] - batch.y
    total = (error**2 * batch.weight).sum() * frozen["scale"]
    between = (error[0::2] * error[1::2] * batch.pair).sum()
    total += between
    variables = {"calls": variables["calls"] + 1, "rows": variables["rows"] + len(error)}
    chance = (jax.random.key_data(rng).sum() % 4096).astype(jnp.float32)
    measured = {"pairs": (between, batch.pair.sum()), "chance": (chance, 1.0), "step": (step, 1)}
    return total, Aux(batch.weight.sum(), variables, measured)


STAGE = Stage(
    name="line",
    init=None,
    gather=gather,
    loss_fn=loss_fn,
    plan=None,
    evaluate=None,
    optimizer=optax.sgd(RATE),
    metric="",
    config={},
    settings=None,
    data=None,
)


@pytest.fixture(scope="module")
def data():
    """(arrays, frozen, index [2, B]): two steps of ROWS rows, some of them padding."""
    rng = np.random.default_rng(0)
    arrays = {
        "x": rng.normal(size=(20, D)).astype(np.float32),
        "y": rng.normal(size=20).astype(np.float32),
    }
    weight = np.ones((2, ROWS), np.float32)
    weight[0, 5:], weight[1, 7:] = 0, 0
    index = {
        "row": rng.permutation(20)[: 2 * ROWS].reshape(2, ROWS).astype(np.int32),
        "weight": weight,
        "pair": np.array([[1, 1, 0, 0], [1, 0, 0, 0]], np.float32),
    }
    return arrays, {"scale": np.float32(0.5)}, index


def start():
    variables = {"calls": jnp.zeros((), jnp.int32), "rows": jnp.zeros((), jnp.int32)}
    return train_state.create({"w": jnp.arange(1.0, D + 1)}, variables, STAGE.optimizer, seed=4)


@functools.cache
def compiled(microbatch=0, on_device=True):
    """The step over a leading axis of devices; vmap stands in for pmap."""
    return jax.jit(jax.vmap(make_train_step(STAGE, microbatch, on_device), axis_name=AXIS))


def on_devices(count, tree):
    return jax.tree.map(lambda x: np.stack([np.asarray(x)] * count), tree)


def run(arrays, frozen, index, microbatch=0, on_device=True):
    """State and measurements after the steps of index [K, B], on one device."""
    inputs = on_devices(1, (start(), arrays, frozen, index))
    return jax.tree.map(lambda x: x[0], compiled(microbatch, on_device)(*inputs))


def reference(arrays, frozen, index):
    """Weights of the line after each step, and the loss sums before it."""
    w, losses = np.arange(1.0, D + 1), []
    for row, weight, pair in zip(index["row"], index["weight"], index["pair"], strict=True):
        x, y = arrays["x"][row], arrays["y"][row]
        error = x @ w - y
        losses.append(
            (error**2 * weight).sum() * frozen["scale"] + (error[0::2] * error[1::2] * pair).sum()
        )
        slope = 2 * frozen["scale"] * error * weight
        slope[0::2] += pair * error[1::2]
        slope[1::2] += pair * error[0::2]
        w = w - RATE * (slope @ x) / weight.sum()
    return w, losses


def test_steps_of_a_dispatch_follow_the_gradient_of_the_mean(data):
    state, measured = run(*data)
    w, losses = reference(*data)
    np.testing.assert_allclose(state.params["w"], w, rtol=1e-4)
    np.testing.assert_allclose(measured["loss"][0], losses, rtol=1e-4)
    assert measured["loss"][1].tolist() == [5, 7]
    assert measured["pairs"][1].tolist() == [2, 1]
    assert measured["step"][0].tolist() == [0, 1]
    assert state.step == 2 and state.variables == {"calls": 2, "rows": 16}
    # Chance differs between steps.
    assert measured["chance"][0][0] != measured["chance"][0][1]


def test_batches_gathered_before_the_step_give_the_same(data):
    arrays, frozen, index = data
    on_host, _ = run({}, frozen, gather(arrays, index), on_device=False)
    on_device, _ = run(*data)
    np.testing.assert_allclose(on_host.params["w"], on_device.params["w"], rtol=1e-6)


@pytest.mark.parametrize("microbatch", [2, 4])
@pytest.mark.parametrize("on_device", [True, False])
def test_microbatches_add_up_to_the_batch(data, microbatch, on_device):
    arrays, frozen, index = data
    w, losses = reference(*data)
    if not on_device:
        index = gather(arrays, index)
    state, measured = run(arrays, frozen, index, microbatch, on_device)
    np.testing.assert_allclose(state.params["w"], w, rtol=1e-4)
    np.testing.assert_allclose(measured["loss"][0], losses, rtol=1e-4)
    assert measured["loss"][1].tolist() == [5, 7]
    # So many rows a pass as asked for.
    assert state.variables == {"calls": 2 * ROWS // microbatch, "rows": 2 * ROWS}


def test_a_microbatch_of_the_whole_batch_is_one_pass(data):
    state, _ = run(*data, microbatch=ROWS)
    assert state.variables["calls"] == 2


def test_two_devices_step_as_one_with_both_batches(data):
    arrays, frozen, index = data
    # Steps of one device with 8 rows become steps of two devices with 4 each.
    halves = jax.tree.map(lambda x: np.stack(np.split(x, 2, axis=1)), index)  # [2, K, B / 2]
    inputs = on_devices(2, (start(), arrays, frozen))
    state, measured = compiled()(*inputs, halves)
    w, losses = reference(*data)
    for device in range(2):
        np.testing.assert_allclose(state.params["w"][device], w, rtol=1e-4)
        np.testing.assert_allclose(measured["loss"][0][device], losses, rtol=1e-4)
        assert measured["loss"][1][device].tolist() == [5, 7]
    # Devices differ in chance: their sum is not twice that of the first.
    total, _ = measured["chance"]
    alone = run(*data)[1]["chance"][0]
    assert (total[0] != 2 * alone).all()


def test_a_step_is_a_function_of_state_and_batch(data):
    arrays, frozen, index = data
    _, both = run(*data)
    state, *rest = on_devices(1, (start(), arrays, frozen))
    chance = []
    for k in (0, 1):
        part = jax.tree.map(lambda x, k=k: x[None, k : k + 1], index)
        state, measured = compiled()(state, *rest, part)
        chance.append(float(measured["chance"][0][0, 0]))
    # Taken one by one or in one dispatch: the same chance, the same end.
    np.testing.assert_array_equal(chance, both["chance"][0])
    np.testing.assert_allclose(state.params["w"][0], reference(*data)[0], rtol=1e-4)
