"""The interface to the devices of a run: what is sharded over them, and what is replicated.

Training is data parallel. Users are assigned to shards. Shard d belongs to device d of the run, or
to group d of devices that share tables, whichever process they belong to. Two processes with one
device each therefore compute what one process with two devices does.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

AXIS = "data"
"""Name of the device axis in mapped functions, for collectives such as `jax.lax.psum`."""


class Devices(Protocol):
    """The devices of a run.

    A tree on the host that has a part for each local shard has leaves [D_local, ...], one entry per
    local shard in the order of `local_shards`. How a sharded or a replicated tree is laid out on
    the devices depends on the implementation. Such trees are made by `shard`, `replicate` or a
    mapped function, and are read by `unshard`, `unreplicate`, `call_on_first` or a mapped function.
    """

    @property
    def num_shards(self) -> int:
        """Number of shards of the whole run: of its devices, or of groups that share tables."""

    @property
    def local_shards(self) -> Sequence[int]:
        """Numbers of the shards that devices of this process have."""

    @property
    def splits_tables(self) -> bool:
        """Whether a device may have some columns of a replicated table instead of all.

        A mapped function then gets the table as Columns (nif_jax/data/table_columns.py), and what
        an optimizer keeps has to have the shapes of parameters.
        """

    def map(
        self, fn: Callable[..., Any], donate: Sequence[int] = (), sharded: bool = False
    ) -> Callable[..., Any]:
        """Maps a function of one device over all devices.

        Args:
          fn: takes and returns trees without a device axis. It may use collectives over AXIS.
          donate: numbers of the arguments whose buffers are reused for the results.
          sharded: whether `fn` returns something else for each shard.

        Returns:
          A function of sharded or replicated trees. It returns a sharded tree if `sharded`, else a
          replicated one.
        """

    def shard(self, tree: Any) -> Any:
        """Puts each entry of host leaves [D_local, ...] on its device."""

    def unshard(self, tree: Any) -> Any:
        """Host leaves [D_local, ...] of a sharded tree; the inverse of `shard`."""

    def replicate(self, tree: Any) -> Any:
        """Puts a copy of a host tree on each device."""

    def unreplicate(self, tree: Any) -> Any:
        """Host copy of a replicated tree."""

    def to_checkpoint(self, tree: Any) -> Any:
        """A replicated tree as checkpoints save it.

        Host arrays, which process 0 writes, or arrays on devices, of which each process writes a
        part.
        """

    def checkpoint_like(self, like: Any) -> Any:
        """What a checkpoint is read into, for a tree of shapes and types."""

    def from_checkpoint(self, tree: Any) -> Any:
        """A replicated tree of what was read so, or of host arrays."""

    def call_on_first(self, fn: Callable[..., Any], tree: Any, *arguments: Any) -> Any:
        """fn(part, *arguments) under jit for the first local shard's part of a sharded tree.

        The part is not copied to the host.
        """
