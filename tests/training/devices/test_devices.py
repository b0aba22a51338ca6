"""Sharded and replicated trees, mapped functions, and where the data of a run is placed."""

import jax
import numpy as np
import pytest

from nif_jax.data.table_columns import whole
from nif_jax.training.devices.base import AXIS
from nif_jax.training.devices.mesh import Mesh
from nif_jax.training.devices.placed import Placed
from nif_jax.training.devices.pmap import Pmap

LAYOUTS = {
    "one device": lambda: Pmap(jax.devices()[:1]),
    "two devices": lambda: Pmap(jax.devices()[:2]),
    "two groups": lambda: Mesh(2, 1, (), jax.devices()[:2]),
    "a group of two": lambda: Mesh(1, 2, ((r"(^|/)a$", (None, "model")),), jax.devices()[:2]),
}


@pytest.fixture(scope="module", params=LAYOUTS)
def devices(request):
    return LAYOUTS[request.param]()


def tree(devices):
    """Host leaves [D_local, ...] that differ between shards."""
    count = devices.num_shards
    a = np.arange(8.0 * count, dtype=np.float32).reshape(count, 2, 4)
    return {"a": a, "b": [np.arange(count) + 10]}


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_all_devices_of_one_process_are_local(devices):
    assert list(devices.local_shards) == list(range(devices.num_shards))
    assert Pmap().num_shards == jax.device_count()


def test_trees_come_back_as_they_were_put(devices):
    assert_equal(devices.unshard(devices.shard(tree(devices))), tree(devices))
    assert_equal(devices.unreplicate(devices.replicate(tree(devices))), tree(devices))


def test_a_mapped_function_has_no_device_axis(devices):
    def add(shared, part):
        assert shared["a"].shape == (devices.num_shards, 2, 4) and part["a"].shape == (2, 4)
        return shared["a"], shared["b"][0].sum() + jax.lax.psum(part["a"], AXIS)

    given = tree(devices)
    arguments = (devices.replicate(given), devices.shard(given))
    table, total = devices.unreplicate(devices.map(add)(*arguments))
    np.testing.assert_array_equal(table, given["a"])
    np.testing.assert_array_equal(total, given["b"][0].sum() + given["a"].sum(0))
    own = devices.map(lambda shared, part: part["b"][0] + whole(shared["a"]).sum(), sharded=True)
    found = devices.unshard(own(*arguments))
    np.testing.assert_array_equal(found, given["b"][0] + given["a"].sum())


def test_the_first_part_is_used_where_it_is(devices):
    given = tree(devices)
    found = devices.call_on_first(
        lambda part, factor: part["a"] * factor, devices.shard(given), np.float32(2)
    )
    assert found.devices() == {jax.devices()[0]}
    np.testing.assert_array_equal(found, given["a"][0] * 2)


@pytest.mark.parametrize("on_device", [True, False])
def test_placed_data_gives_the_first_batch(devices, on_device):
    given = tree(devices)
    arrays = devices.shard(given) if on_device else given
    data = Placed(arrays, devices.replicate({"c": np.ones(2)}), on_device, devices)

    def gather(arrays, index):
        return arrays["a"][index]

    np.testing.assert_array_equal(data.first_batch(gather, np.array([1])), given["a"][0, [1]])
    assert bool(data.step_arguments[0]) == on_device
    on_host = data.host_gather(gather)
    assert (on_host is None) == on_device
    if on_host:
        last = devices.num_shards - 1
        np.testing.assert_array_equal(on_host(last, np.array([0])), given["a"][last, [0]])
