"""The processes of a run: how they join, what they set up, and how they work together."""

import glob
import importlib.util
import os
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


def initialize(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Joins the other processes of the run. Has to be called before a device is used.

    Without arguments, processes are joined on a TPU pod and under srun only, where JAX detects the
    coordinator.
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
"""XLA flag -> last version of jax that accepts it. Later versions abort if it is set."""


def set_compiler_flags(flags: str) -> None:
    """Puts flags before those of $XLA_FLAGS, which take precedence.

    Has to be called before a device is used. Flags that this version of jax rejects are left out.
    """
    gone = [name for name, last in _REMOVED_FLAGS.items() if jax.__version_info__ >= last]
    wanted = [flag for flag in flags.split() if flag.partition("=")[0] not in gone]
    present = os.environ.get("XLA_FLAGS", "").split()
    os.environ["XLA_FLAGS"] = " ".join([f for f in wanted if f not in present] + present)


def gather_processes(tree: Any) -> Any:
    """Leaves [P, ...] of all processes, in process order. Their shapes must be equal."""
    if jax.process_count() == 1:
        return jax.tree.map(lambda x: np.asarray(x)[None], tree)
    return multihost_utils.process_allgather(tree)


def on_host(x: jax.Array) -> np.ndarray:
    """The whole of an array, parts of which other processes may have; every process calls this."""
    if x.is_fully_addressable or x.is_fully_replicated:
        return np.asarray(x)
    parts = {str(part.index): part for part in x.addressable_shards}
    if sum(part.data.size for part in parts.values()) < x.size:
        return multihost_utils.process_allgather(x, tiled=True)
    found = np.empty(x.shape, x.dtype)
    for part in parts.values():
        found[part.index] = part.data
    return found


def is_writer() -> bool:
    """Whether this process writes the files that all processes share."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Waits until all processes have called it with this name."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
