"""Scores of a whole split: every row of every shard once, merged over devices and processes."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nif_jax.data.dataset import Dataset
from nif_jax.data.input import Epochs
from nif_jax.training.devices.base import Devices
from nif_jax.training.devices.placed import Placed
from nif_jax.training.devices.processes import gather_processes
from nif_jax.training.programs import Programs

DISPATCH = 8
"""Batches that one call of the device scores; fixed, so that one compiled call serves all plans."""


@dataclasses.dataclass(frozen=True)
class ScoringPlan:
    """The impressions of one split in store order, as a plan of one epoch.

    Attributes:
      dataset: the data.
      split: splits.VALIDATION, say.
      batch_size: rows of one device and step, even.
      frozen: whether histories end where the split begins.
      limit: rows of a shard at most, evenly spread; 0 = all.
      sampled: whether sampled negatives are scored; next items are events.
    """

    dataset: Dataset
    split: int
    batch_size: int
    frozen: bool = False
    limit: int = 0
    sampled: bool = True

    @functools.cached_property
    def shard_rows(self) -> list[np.ndarray]:
        """For each shard of the run, the rows to score, in its own numbering."""
        shards = range(len(self.dataset.shard_rows))
        rows = [self.dataset.impressions(s, self.split, self.sampled) for s in shards]
        if not self.limit:
            return rows
        return [
            r[np.unique(np.linspace(0, len(r) - 1, self.limit).astype(int))] if len(r) else r
            for r in rows
        ]

    @functools.cached_property
    def steps_per_epoch(self) -> int:
        unit = self.batch_size * DISPATCH
        return max(1, -(-max(map(len, self.shard_rows)) // unit)) * DISPATCH

    def indices(self, epoch: int, shard: int) -> dict[str, np.ndarray]:
        """ "row", "weight", "frozen" [S, B] and an empty "pair"; see ImpressionPlan."""
        del epoch
        rows = self.shard_rows[shard]
        shape = (self.steps_per_epoch, self.batch_size)
        padding = (0, shape[0] * shape[1] - len(rows))
        return {
            "row": np.pad(rows, padding).reshape(shape).astype(np.int32),
            "weight": np.pad(np.ones(len(rows), np.float32), padding).reshape(shape),
            "frozen": np.full(shape, self.frozen),
            "pair": np.zeros((shape[0], shape[1] // 2), np.float32),
        }

    @functools.cached_property
    def rows(self) -> np.ndarray:
        """[R] rows of the whole store, in the order in which a Scorer returns scores."""
        return np.concatenate(
            [self.dataset.shard_rows[s][rows] for s, rows in enumerate(self.shard_rows)]
        )

    def read(self, column: np.ndarray) -> np.ndarray:
        """[R] a column [E] of the whole store at `rows`, of which each process reads its own."""
        data, width = self.dataset, max(map(len, self.shard_rows))
        own = [column[data.shard_rows[s][self.shard_rows[s]]] for s in data.local_shards]
        return self.merge(np.stack([np.pad(values, (0, width - len(values))) for values in own]))

    def merge(self, local: np.ndarray) -> np.ndarray:
        """[R, ...] rows as in `rows`, of [D_local, n, ...] in the order of each local shard's plan,
        with padding behind."""
        shards = gather_processes(local).reshape(-1, *local.shape[1:])
        own = np.asarray(list(self.dataset.local_shards))
        # Processes that have devices of one shard have the same of it.
        place = {shard: k for k, shard in enumerate(gather_processes(own).reshape(-1))}
        return np.concatenate([shards[place[s], : len(r)] for s, r in enumerate(self.shard_rows)])


class Scorer:
    """A predict function, compiled once, over any plan of its batch size.

    Attributes:
      predict: (params, variables, constants, batch) -> {name: [B, ...]}.
      gather: (arrays, index) -> the batch that it reads.
      prepare: (params, variables, constants) -> {name: further constants of `predict`}, such as the
        vectors of the catalogue. It is called once for parameters, not for each batch.
    """

    def __init__(
        self,
        predict: Callable[..., Mapping[str, jax.Array]],
        gather: Callable[[Any, Any], Any],
        data: Placed,
        parallel: Devices,
        prepare: Callable[..., Mapping[str, Any]] | None = None,
        programs: Programs | None = None,
    ):
        """See Stage.gather for gather; programs are what it shares with scorers of other data."""
        self.predict, self.gather = predict, gather
        self.prepare = prepare or (lambda params, variables, constants: {})
        self._data, self._parallel = data, parallel
        programs, on_device, prepare = programs or Programs(), data.on_device, self.prepare

        def predict_dispatch(params, variables, arrays, constants, prepared, batches):
            constants = constants | prepared

            def one(batch):
                batch = gather(arrays, batch) if on_device else batch
                return predict(params, variables, constants, batch)

            return jax.lax.map(one, batches)

        self._predict = programs.once(
            ("predict", on_device), lambda: parallel.map(predict_dispatch, sharded=True)
        )
        # In several processes pmap refuses a function without an output, such as one for {}.
        self._prepare = programs.once(
            "prepare", lambda: parallel.map(lambda *given: (prepare(*given), jnp.zeros(())))
        )

    def __call__(self, plan: ScoringPlan, params: Any, variables: Any) -> dict[str, np.ndarray]:
        """{name: [R, ...]} for replicated params and variables, rows as in plan.rows."""
        stream = Epochs(plan, self._parallel.local_shards).batches(
            first_step=0,
            last_step=plan.steps_per_epoch,
            steps_per_dispatch=DISPATCH,
            gather=self._data.host_gather(self.gather),
        )
        prepared, _ = self._prepare(params, variables, self._data.constants)
        arguments = (params, variables, *self._data.step_arguments, prepared)
        # Every call is on its way before the first result is read back.
        found = [self._predict(*arguments, self._parallel.shard(batch)) for batch in stream]
        found = self._parallel.unshard(found)

        def merge(*parts):  # of [D_local, K, B, ...]
            local = np.concatenate(parts, axis=1)
            return plan.merge(local.reshape(local.shape[0], -1, *local.shape[3:]))

        return jax.tree.map(merge, *found)
