"""The flow after every history entry, and the keys and values of the label head, computed once.

Windows of S entries advance by half; in each, the later half of the positions are rolled out
together in one causal pass, so that every entry has at least S / 2 entries of context. Where a
window begins depends on the number of earlier entries alone (nif_jax/data/chunks.py): what is
computed after an entry is the same whether or not further entries follow, as in serving.
"""

import dataclasses
import functools
import math
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nif_jax.data.chunks import stride_of
from nif_jax.data.input import Epochs
from nif_jax.data.ranges import of_rows
from nif_jax.data.storage import mapped_zeros
from nif_jax.data.windows import gather_segments
from nif_jax.models.flow import FlowDecoder
from nif_jax.stages.context import Context
from nif_jax.stages.generator import flow_decoder
from nif_jax.stages.outputs import GeneratorOutputs
from nif_jax.training.devices.base import Devices
from nif_jax.training.devices.placed import Placed


@dataclasses.dataclass(frozen=True)
class FlowPlan:
    """Windows that together add every history entry once.

    Attributes:
      begins: for each shard of the run, [U + 1] int64 bounds of users in history_row.
      stride: entries that a window adds.
      batch_size: windows of one device and step.
    """

    begins: list[np.ndarray]
    stride: int
    batch_size: int

    @functools.cached_property
    def _windows(self) -> list[np.ndarray]:
        """[W, 3] begin and end of the user, and the first entry that the window adds."""
        found = []
        for bounds in self.begins:
            counts = -(-np.diff(bounds) // self.stride)
            user = np.repeat(np.arange(len(counts)), counts)
            place = np.arange(len(user)) - np.repeat(np.cumsum(counts) - counts, counts)
            first = bounds[user] + place * self.stride
            found.append(np.stack([bounds[user], bounds[user + 1], first], axis=1))
        return found

    @functools.cached_property
    def steps_per_epoch(self) -> int:
        return max(1, -(-max(map(len, self._windows)) // self.batch_size))

    def indices(self, epoch: int, shard: int) -> dict[str, np.ndarray]:
        """ "begin", "end", "first" [S, B] int32; a padded window adds nothing."""
        del epoch
        windows = self._windows[shard]
        table = np.zeros((self.steps_per_epoch * self.batch_size, 3), np.int32)
        table[: len(windows)] = windows
        table = table.reshape(self.steps_per_epoch, self.batch_size, 3)
        return {"begin": table[..., 0], "end": table[..., 1], "first": table[..., 2]}


def compute_flows(
    model: FlowDecoder,
    params: Any,
    vectors: Any,
    data: Placed,
    *,
    plan: FlowPlan,
    entries: int,
    context: int,
    horizon: int,
    parallel: Devices,
    dtype: np.dtype,
    memory: int,
    folder: pathlib.Path,
) -> tuple[np.ndarray, np.ndarray]:
    """[D_local, M, T, D] unit flow states after each of a shard's history entries, and
    [D_local, M, 2, H, d] keys and values of the label head.

    Args:
      model: the generator.
      params: its parameters, replicated.
      vectors: [N + 1, D] its item vectors, replicated.
      data: arrays["store"] and constants["items"].
      plan: which windows, with the stride of `context`.
      entries: M.
      context: S.
      horizon: T.
      parallel: the devices.
      dtype: of the result.
      memory: bytes of the result above which it is memory-mapped files in `folder`.
      folder: on a disk with enough space.

    Raises:
      OSError: the disk has too little space.
    """

    def gather(arrays, index):
        xp = index["first"].__array_namespace__()
        last = index["first"] + plan.stride
        entry = last[:, None] + xp.arange(-context, 0, dtype=xp.int32)
        real = (entry >= index["begin"][:, None]) & (entry < index["end"][:, None])
        return gather_segments(arrays["store"], entry, real.astype(xp.int32))[0]

    def roll_out(params, vectors, arrays, constants, inputs):
        index, window = inputs
        index = jax.tree.map(lambda x: x[0], index)
        if data.on_device:
            window = gather(arrays, index)
        else:
            window = jax.tree.map(lambda x: x[0], window)
        bound = model.bind({"params": params})
        flow, past = bound.roll_out(window, constants["items"], horizon, plan.stride, vectors)
        entry = index["first"][:, None] + jnp.arange(plan.stride)
        found = jax.tree.map(lambda x: x.astype(dtype), (flow, past[:, -plan.stride :]))
        return found, jnp.where(entry < index["end"][:, None], entry, -1)

    mapped = parallel.map(roll_out, sharded=True)
    devices = len(parallel.local_shards)
    head = (model.heads, model.dim // model.heads)
    shapes = [(devices, entries, horizon, model.dim), (devices, entries, 2, *head)]
    fits = sum(map(math.prod, shapes)) * dtype.itemsize <= memory
    make = np.zeros if fits else functools.partial(mapped_zeros, folder)
    flows, pasts = (make(shape, dtype) for shape in shapes)
    on_host = data.host_gather(gather)
    stream = Epochs(plan, parallel.local_shards).batches(
        first_step=0,
        last_step=plan.steps_per_epoch,
        steps_per_dispatch=1,
        gather=on_host and (lambda d, index: (index, on_host(d, index))),
    )
    for inputs in stream:
        inputs = parallel.shard(inputs if on_host else (inputs, None))
        found, position = parallel.unshard(mapped(params, vectors, *data.step_arguments, inputs))
        for device in range(devices):
            keep = position[device] >= 0
            for result, part in zip((flows, pasts), found, strict=True):
                result[device][position[device][keep]] = part[device][keep]
    return flows, pasts


def generator_outputs(run: Context, params: Any) -> GeneratorOutputs:
    """Computes once what fine-tuning reads again and again."""
    vectors = jax.jit(functools.partial(flow_decoder(run).apply, method="vectors"))(
        {"params": params}, run.items
    )
    vectors = np.asarray(vectors)
    flow, past = _all_flows(run, params, vectors) if run.config.flow.cache else (None, None)
    return GeneratorOutputs(params, vectors, flow, past)


def _all_flows(run: Context, params: Any, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`compute_flows` of the run's generator."""
    context = run.config.pretrain.context
    bounds = []
    for rows in run.dataset.shard_rows:
        users = run.dataset.movelines.user[rows[of_rows(run.dataset.eligible, rows)]]
        _, first = np.unique(users, return_index=True)
        bounds.append(np.append(first, len(users)))
    return compute_flows(
        flow_decoder(run),
        run.parallel.replicate(params),
        run.parallel.replicate(vectors),
        run.place(),
        plan=FlowPlan(bounds, stride_of(context), batch_size=64),
        entries=run.dataset.stores.history_row.shape[1],
        context=context,
        horizon=run.config.flow.horizon,
        parallel=run.parallel,
        dtype=jnp.dtype(run.config.flow.cache_dtype),
        memory=run.config.flow.cache_bytes,
        folder=run.folder,
    )
