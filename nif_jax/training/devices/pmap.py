"""One interface to the devices: what is replicated, what is sharded, how a function is mapped.

Data parallel by `jax.pmap` over the local devices, of one process or of many. Device number d of
the whole run owns shard d of the users, whichever process it belongs to, so that two processes of
one device compute what one process of two does.
"""

import dataclasses
import glob
import importlib.util
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "data"
"""Name of the device axis."""


def initialize(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Joins the other processes of the run; to be called before anything touches a device.

    Without arguments it does so where the surroundings tell how: on a TPU pod and under srun.
    """
    # A batch script has SLURM_PROCID and SLURM_NTASKS too; only srun's own step says how many
    # processes it has started.
    in_step = "SLURM_STEP_NODELIST" in os.environ
    if coordinator is not None:
        jax.distributed.initialize(coordinator, num_processes, process_id)
    elif (in_step and int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1) or (
        importlib.util.find_spec("libtpu")
        and (glob.glob("/dev/accel*") or glob.glob("/dev/vfio/*"))
    ):
        jax.distributed.initialize()


_REMOVED_FLAGS = {"--xla_cpu_use_fusion_emitters": (0, 11)}
"""Flags of XLA that jax has had until this version; a later one ends the process that sets them."""


def set_compiler_flags(flags: str) -> None:
    """Puts flags before those of $XLA_FLAGS, which win; read when a process first uses a device.

    Flags that this jax has no longer (_REMOVED_FLAGS) are left out.
    """
    gone = [name for name, last in _REMOVED_FLAGS.items() if jax.__version_info__ >= last]
    wanted = [flag for flag in flags.split() if flag.partition("=")[0] not in gone]
    present = os.environ.get("XLA_FLAGS", "").split()
    os.environ["XLA_FLAGS"] = " ".join([f for f in wanted if f not in present] + present)


def keep_programs(folder: pathlib.Path) -> None:
    """Keeps compiled programs in a folder, where other seeds, a resumed run and the runs of a sweep
    find them; to be called before the first is compiled.

    JAX's own variables win: $JAX_COMPILATION_CACHE_DIR, and $JAX_ENABLE_COMPILATION_CACHE=false.
    """
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(folder))
        # Seconds, by default 1: a seed has dozens of programs that take a fraction of it.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


@dataclasses.dataclass(frozen=True)
class Placed:
    """A run's data where steps read it, shared by training and scoring; see Run.place.

    Attributes:
      arrays: leaves [D_local, ...], one slice a device: on the devices, or on the host (NumPy) for
        stores that do not fit, in which case batches are gathered there.
      constants: leaves [D_local, ...] on the devices, equal copies.
      on_device: where arrays lie.
    """

    arrays: Any
    constants: Any
    on_device: bool

    @property
    def step_arguments(self) -> tuple[Any, Any]:
        """What a mapped step takes: nothing of arrays that stay on the host."""
        return (self.arrays if self.on_device else {}), self.constants

    def host_gather(self, gather: Callable) -> Callable | None:
        """(local device, index) -> batch, for batches gathered on the host; None otherwise."""
        if self.on_device:
            return None
        return lambda device, index: gather(jax.tree.map(lambda x: x[device], self.arrays), index)


class Pmap:
    """Data parallelism by `jax.pmap`; every array of a run has a leading axis of local devices."""

    def __init__(self, devices: Sequence[jax.Device] | None = None):
        """Takes all devices of the run, or some of a single process."""
        self._devices = list(devices or jax.local_devices())
        self._subset = devices
        self._num_shards = len(devices) if devices else jax.device_count()
        self._sharding = NamedSharding(Mesh(np.array(self._devices), (AXIS,)), PartitionSpec(AXIS))

    @property
    def num_shards(self) -> int:
        """Devices of the whole run."""
        return self._num_shards

    @property
    def local_shards(self) -> Sequence[int]:
        """Numbers of this process's devices, in the order of the leading axis."""
        first = jax.process_index() * len(self._devices)
        return range(first, first + len(self._devices))

    def map(self, fn: Callable, donate: Sequence[int] = ()) -> Callable:
        """Maps a function of one device over all; numbered arguments give up their buffers."""
        return jax.pmap(fn, axis_name=AXIS, donate_argnums=tuple(donate), devices=self._subset)

    def shard(self, tree: Any) -> Any:
        """Puts leaves [D_local, ...] on their devices."""
        return jax.device_put(tree, self._sharding)

    def replicate(self, tree: Any) -> Any:
        """Puts a copy on each device; leaves get a leading axis."""

        def put(x):  # device by device: the host never holds the copies
            x = np.asarray(x)[None]
            shape = (len(self._devices), *x.shape[1:])
            return jax.make_array_from_callback(shape, self._sharding, lambda _: x)

        return jax.tree.map(put, tree)

    def unreplicate(self, tree: Any) -> Any:
        """One host copy of a replicated tree."""
        return jax.tree.map(lambda x: np.asarray(x.addressable_shards[0].data)[0], tree)


def gather_processes(tree: Any) -> Any:
    """[P, ...] of every process's equally shaped leaves, in process order."""
    if jax.process_count() == 1:
        return jax.tree.map(lambda x: np.asarray(x)[None], tree)
    return multihost_utils.process_allgather(tree)


def is_writer() -> bool:
    """Whether this process writes files that all share."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Waits until every process is here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
