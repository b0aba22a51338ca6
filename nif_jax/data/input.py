"""Batches through Grain: indices for a device that gathers by itself, or windows gathered here.

Both modes run the same pipeline and the same gather code; the host only adds a map. A batch is a
pure function of (plan, step), so the data position of a run is its step.
"""

import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grain
import jax
import numpy as np

Batch = Any
"""A pytree with leaves [D_local, K, B, ...]: local shards, steps of a dispatch, rows."""


def _stack(trees: Sequence[Batch]) -> Batch:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def _gather_all(gather: Callable[[int, Batch], Batch], indices: Batch) -> Batch:
    """Batches [D_local, K, B, ...] of indices [D_local, K, B, ...]."""

    def gather_cell(shard: int, step: int) -> Batch:
        return gather(shard, jax.tree.map(lambda x: x[shard, step], indices))

    shards, steps = jax.tree.leaves(indices)[0].shape[:2]
    cells = [[gather_cell(d, k) for k in range(steps)] for d in range(shards)]
    return _stack([_stack(row) for row in cells])


class Epochs:
    """A plan's epochs, each laid out once, and their batches.

    Args of the constructor: a plan such as ImpressionPlan, and the numbers of the local shards.
    """

    def __init__(self, plan, shards: Sequence[int]):
        self._plan, self._shards = plan, shards
        # Two: a dispatch may cross from one into the next.
        self._cached = functools.lru_cache(maxsize=2)(self._lay_out)
        self._lock = threading.Lock()  # readers request a new epoch together

    def _lay_out(self, epoch: int) -> Sequence[dict[str, np.ndarray]]:
        return [self._plan.indices(epoch, shard) for shard in self._shards]

    def step(self, step: int) -> dict[str, np.ndarray]:
        """[D_local, B, ...] what step `step` trains on; the same at every call."""
        epoch, place = divmod(step, self._plan.steps_per_epoch)
        with self._lock:
            parts = self._cached(epoch)
        return _stack([{k: v[place] for k, v in part.items()} for part in parts])

    def batches(
        self,
        *,
        first_step: int,
        last_step: int,
        steps_per_dispatch: int,
        gather: Callable[[int, Batch], Batch] | None = None,
    ) -> Iterator[Batch]:
        """Yields one dispatch after another, steps first_step to last_step - 1.

        Args:
          first_step: where to begin; a resumed run passes its state's step.
          last_step: where to end; the last dispatch is shorter where K does not divide the steps.
          steps_per_dispatch: K.
          gather: maps (local shard, indices [B, ...]) to a batch on the host; None leaves indices.
        """

        def dispatch(start: int) -> Batch:
            steps = range(start, min(start + steps_per_dispatch, last_step))
            return jax.tree.map(lambda *s: np.stack(s, axis=1), *map(self.step, steps))

        starts = range(first_step, last_step, steps_per_dispatch)
        data = grain.MapDataset.source(starts).map(dispatch)
        if gather is not None:
            data = data.map(functools.partial(_gather_all, gather))
        # Few threads: one prepares while one waits, and the model needs the cores.
        return iter(data.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)))
