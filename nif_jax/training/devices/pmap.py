"""Data parallelism by `jax.pmap`."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from nif_jax.training.devices.base import AXIS, Devices


class Pmap(Devices):
    """Data parallelism by `jax.pmap` over the local devices, of one process or of many.

    Every array on the devices, replicated ones included, has a leading axis of local devices.
    """

    def __init__(self, devices: Sequence[jax.Device] | None = None):
        """Takes all devices of the run, or some devices of a single process."""
        self._devices = list(devices or jax.local_devices())
        self._subset = devices
        self._num_shards = len(devices) if devices else jax.device_count()
        self._sharding = NamedSharding(Mesh(np.array(self._devices), (AXIS,)), PartitionSpec(AXIS))

    @property
    def num_shards(self) -> int:
        """See Devices."""
        return self._num_shards

    @property
    def local_shards(self) -> Sequence[int]:
        """See Devices."""
        first = jax.process_index() * len(self._devices)
        return range(first, first + len(self._devices))

    @property
    def splits_tables(self) -> bool:
        """See Devices."""
        return False

    def map(
        self, fn: Callable[..., Any], donate: Sequence[int] = (), sharded: bool = False
    ) -> Callable[..., Any]:
        """See Devices."""
        del sharded  # every array has an entry for each device
        return jax.pmap(fn, axis_name=AXIS, donate_argnums=tuple(donate), devices=self._subset)

    def shard(self, tree: Any) -> Any:
        """See Devices."""
        return jax.device_put(tree, self._sharding)

    def unshard(self, tree: Any) -> Any:
        """See Devices."""
        return jax.device_get(tree)

    def replicate(self, tree: Any) -> Any:
        """See Devices."""

        def put(x):  # device by device: the host never holds the copies
            x = np.asarray(x)[None]
            shape = (len(self._devices), *x.shape[1:])
            return jax.make_array_from_callback(shape, self._sharding, lambda _: x)

        return jax.tree.map(put, tree)

    def unreplicate(self, tree: Any) -> Any:
        """See Devices."""
        first = jax.device_get(self._first(tree))  # all transfers start before the first is awaited
        return jax.tree.map(lambda x: x[0], first)

    def to_checkpoint(self, tree: Any) -> Any:
        """See Devices."""
        return self.unreplicate(tree)

    def checkpoint_like(self, like: Any) -> Any:
        """See Devices."""
        return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like)

    def from_checkpoint(self, tree: Any) -> Any:
        """See Devices."""
        return self.replicate(tree)

    def call_on_first(self, fn: Callable[..., Any], tree: Any, *arguments: Any) -> Any:
        """See Devices."""

        def call(tree, *arguments):  # x[0] outside of jit would copy
            return fn(jax.tree.map(lambda x: x[0], tree), *arguments)

        return jax.jit(call)(self._first(tree), *arguments)

    def _first(self, tree: Any) -> Any:
        """Leaves [1, ...] of the first local device."""
        return jax.tree.map(lambda x: x.addressable_data(0), tree)
