"""The data of a run where steps read it."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax

from nif_jax.training.devices.base import Devices


@dataclasses.dataclass(frozen=True)
class Placed:
    """The data of a run where steps read it, shared by training and scoring; see Context.place.

    Attributes:
      arrays: sharded over the devices, or host leaves [D_local, ...] of arrays that do not fit the
        devices. In that case batches are gathered on the host.
      constants: replicated.
      on_device: whether `arrays` are on the devices.
      devices: the devices.
    """

    arrays: Mapping[str, Any]
    constants: Any
    on_device: bool
    devices: Devices

    @property
    def step_arguments(self) -> tuple[Any, Any]:
        """Arguments of a mapped step: arrays, which are empty if they stay on the host, and
        constants."""
        return (self.arrays if self.on_device else {}), self.constants

    def host_gather(self, gather: Callable[..., Any]) -> Callable[[int, Any], Any] | None:
        """(local shard, index) -> batch, for batches gathered on the host; otherwise None.

        Local shards are counted from 0 in each process.
        """
        if self.on_device:
            return None
        return lambda shard, index: gather(jax.tree.map(lambda x: x[shard], self.arrays), index)

    def first_batch(self, gather: Callable[..., Any], index: Any) -> Any:
        """The batch of an index of the first local shard."""
        on_host = self.host_gather(gather)
        if on_host is not None:
            return on_host(0, index)
        return self.devices.call_on_first(gather, self.arrays, index)  # the store stays there
