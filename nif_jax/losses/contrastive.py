"""InfoNCE over item vectors, Eq. 1: exact over the catalogue, or against sampled negatives."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_BLOCK, _BLOCK_ON_CPU = 2**27, 2**19
"""Logits of a block of queries: what fits a CPU's cache, and an accelerator's memory with ease."""

_FEWEST = 64
"""Queries of a block at least: each adds to a gradient as large as the table."""


def exact(
    queries: jax.Array,
    table: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    temperature: float,
    block: int | None = None,
) -> jax.Array:
    """Sum of weight x -log exp(<f, e_pos> / tau) / sum over the whole catalogue.

    The gradient is made beside the value, block by block of queries: logits are computed once, and
    are in the cache when they are read again.

    Args:
      queries: [..., D] unit vectors.
      table: [N + 1, D] unit vectors; row 0 is padding and no candidate.
      targets: [...] int rows of table.
      weights: [...] >= 0, to which no gradient comes; where one is 0, the query and its target may
        be anything.
      temperature: tau.
      block: queries of a block; None = as many as suit the device.

    Returns:
      Scalar.
    """
    settings = (targets, weights, temperature, None, block)
    return exact_of_share(queries, table[1:], len(table) - 1, *settings)


def exact_of_share(
    queries: jax.Array,
    items: jax.Array,
    number_of_items: int,
    targets: jax.Array,
    weights: jax.Array,
    temperature: float,
    axis_name: str | None,
    block: int | None = None,
) -> jax.Array:
    """`exact` where each device along an axis has a share of the catalogue and computes its logits.

    Args:
      queries: [..., D] unit vectors, the same on all of these devices.
      items: [R, D] unit vectors: of items k R + 1 to (k + 1) R on device k. Rows past the last item
        may be anything finite.
      number_of_items: N.
      targets, weights, temperature, block: see `exact`.
      axis_name: of the devices; None = one has all.

    Returns:
      Scalar, the same on all of these devices.
    """
    if block is None:
        logits = _BLOCK_ON_CPU if jax.default_backend() == "cpu" else _BLOCK
        block = max(_FEWEST, logits // len(items))
    number = weights.size
    blocks = -(-number // block)
    rows = -(-number // blocks)  # so that the last is about as full as the others

    def cut(x):
        x = x.reshape(number, *x.shape[weights.ndim :])
        padded = jnp.pad(x, [(0, blocks * rows - number)] + [(0, 0)] * (x.ndim - 1))
        return padded.reshape(blocks, rows, *x.shape[1:])

    real = weights > 0
    queries = cut(jnp.where(real[..., None], queries, 0.0))
    targets = cut(jnp.where(real, targets, 1))
    # The padding of `cut` is row 0 of the table, which is no item, with weight 0.
    share = _Share(number_of_items, temperature, axis_name)
    return _exact(queries, items, targets - 1, cut(weights), share)


class _Share(NamedTuple):
    number: int  # N
    temperature: float
    axis_name: str | None

    def over(self, collective: Callable, x: jax.Array) -> jax.Array:
        return x if self.axis_name is None else collective(x, self.axis_name)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _exact(queries, items, targets, weights, share):
    """`exact` for blocks of queries [blocks, rows, D] and this device's items [R, D]."""
    return _exact_forward(queries, items, targets, weights, share)[0]


def _exact_forward(queries, items, targets, weights, share: _Share):
    """The sum, and its gradient by queries and items."""
    real, temperature = None, share.temperature
    if share.axis_name is not None:
        first = jax.lax.axis_index(share.axis_name) * len(items)
        real = first + jnp.arange(len(items)) < share.number
        targets = targets - first

    def one(by_item, block):
        query, target, weight = block
        logits = query @ items.T / temperature  # [rows, R]
        if real is None:
            positive = items[target]
        else:
            logits = jnp.where(real, logits, -jnp.inf)
            # Targets of other devices are dropped, here and in the gradient.
            target = jnp.where(target < 0, len(items), target)
            positive = share.over(jax.lax.psum, items.at[target].get(mode="fill", fill_value=0))
        highest = share.over(jax.lax.pmax, logits.max(axis=-1, keepdims=True))
        odds = jnp.exp(logits - highest)
        partition = share.over(jax.lax.psum, odds.sum(axis=-1, keepdims=True))
        loss = (jnp.log(partition) + highest)[:, 0] - (query * positive).sum(-1) / temperature
        scale = weight[:, None] / temperature
        pull = odds * (scale / partition)
        pulled = share.over(jax.lax.psum, pull @ items)
        by_item = (by_item + pull.T @ query).at[target].add(-scale * query, mode="drop")
        return by_item, ((weight * loss).sum(), pulled - scale * positive)

    blocks = (queries, targets, weights)
    by_item, (losses, by_query) = jax.lax.scan(one, jnp.zeros_like(items), blocks)
    return losses.sum(), (by_query, by_item)


def _exact_backward(share, gradients, cotangent):
    del share
    by_query, by_item = gradients
    return cotangent * by_query, cotangent * by_item, None, None


_exact.defvjp(_exact_forward, _exact_backward)


class Candidates(NamedTuple):
    """Negatives shared by all queries.

    Attributes:
      item: [C] int.
      log_expected: [C] log of how often the sampler is expected to draw the item (logQ).
      mask: [C] bool, True = real.
    """

    item: jax.Array
    log_expected: jax.Array
    mask: jax.Array


def sampled(
    queries: jax.Array,
    positives: jax.Array,
    targets: jax.Array,
    negatives: jax.Array,
    candidates: Candidates,
    temperature: float,
) -> jax.Array:
    """InfoNCE against drawn candidates, each logit corrected by -logQ.

    The positive is always there, so it is not corrected, and its equals among the candidates are
    masked: the sum under the logarithm is then an unbiased estimate of the exact one.

    Args:
      queries: [Q, D] unit vectors.
      positives: [Q, D] vectors of the targets.
      targets: [Q] int.
      negatives: [C, D] vectors of the candidates.
      candidates: the negatives.
      temperature: tau.

    Returns:
      [Q] losses.
    """
    positive = (queries * positives).sum(-1) / temperature
    logits = queries @ negatives.T / temperature - candidates.log_expected
    keep = candidates.mask & (candidates.item != targets[:, None])
    logits = jnp.where(keep, logits, -jnp.inf)
    return jax.nn.logsumexp(jnp.concatenate([positive[:, None], logits], axis=1), axis=1) - positive


def log_expected_count(
    frequency: jax.Array, items: jax.Array, in_batch: jax.Array | int, uniform: int
) -> jax.Array:
    """logQ: expected draws of an item among `in_batch` targets and `uniform` uniform samples.

    Args:
      frequency: [N + 1] share of train targets, 0 for padding.
      items: [...] int.
      in_batch: number of in-batch candidates of all devices.
      uniform: number of uniform candidates of all devices.
    """
    expected = in_batch * frequency[items] + uniform / (frequency.shape[0] - 1)
    return jnp.log(jnp.maximum(expected, 1e-9))


def draw_candidates(
    rng: jax.Array,
    targets: jax.Array,
    mask: jax.Array,
    frequency: jax.Array,
    *,
    in_batch: bool,
    uniform: int,
    axis_name: str | None,
) -> Candidates:
    """Negatives of a step, gathered over devices.

    Args:
      rng: differs between devices.
      targets: [Q] int, this device's.
      mask: [Q] bool.
      frequency: see log_expected_count.
      in_batch: whether all devices' targets are candidates.
      uniform: uniform samples a device.
      axis_name: the device axis; None on one device outside pmap.

    Returns:
      The candidates of all devices.
    """
    drawn = jax.random.randint(rng, (uniform,), 1, len(frequency))
    items, real = drawn, jnp.ones(uniform, bool)
    if in_batch:
        items, real = jnp.concatenate([targets, drawn]), jnp.concatenate([mask, real])
    batch_count = mask.sum() if in_batch else 0
    uniform_count = uniform
    if axis_name is not None:
        items = jax.lax.all_gather(items, axis_name, tiled=True)
        real = jax.lax.all_gather(real, axis_name, tiled=True)
        batch_count = jax.lax.psum(batch_count, axis_name)
        uniform_count = uniform * jax.lax.axis_size(axis_name)
    # Item ids travel between devices; each looks up their vectors in its own copy of the table.
    expected = log_expected_count(frequency, items, batch_count, uniform_count)
    return Candidates(items, expected, real)


def item_frequency(item: np.ndarray, train: np.ndarray, num_items: int) -> np.ndarray:
    """[N + 1] float32 share of train events, 0 for padding."""
    counts = np.bincount(item[train], minlength=num_items + 1).astype(np.float64)
    return (counts / max(counts.sum(), 1)).astype(np.float32)
