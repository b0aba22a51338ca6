"""Exact InfoNCE over the whole catalogue, Eq. 1."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

_BLOCK, _BLOCK_ON_CPU = 2**27, 2**19
"""Logits of a block of queries: what fits a CPU's cache, and an accelerator's memory with ease."""

_FEWEST = 64
"""Queries of a block at least: each adds to a gradient as large as the table."""


def product(left: jax.Array, right: jax.Array, dtype: DTypeLike) -> jax.Array:
    """float32 matrix product of factors rounded to dtype."""
    left, right = left.astype(dtype), right.astype(dtype)
    return jnp.matmul(left, right, preferred_element_type=jnp.float32)


def exact(
    queries: jax.Array,
    table: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    temperature: float,
    block: int | None = None,
    dtype: DTypeLike = jnp.float32,
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
      dtype: that the factors of the three products (logits, and the gradient by queries and by
        items) are rounded to. Products are added up, and all else is computed, in float32.

    Returns:
      Scalar.
    """
    settings = (targets, weights, temperature, None, block, dtype)
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
    dtype: DTypeLike = jnp.float32,
) -> jax.Array:
    """`exact` where each device along an axis has a share of the catalogue and computes its logits.

    Args:
      queries: [..., D] unit vectors, the same on all of these devices.
      items: [R, D] unit vectors: of items k R + 1 to (k + 1) R on device k. Rows past the last item
        may be anything finite.
      number_of_items: N.
      targets, weights, temperature, block, dtype: see `exact`.
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
    share = _Share(number_of_items, temperature, axis_name, dtype)
    return _exact(queries, items, targets - 1, cut(weights), share)


class _Share(NamedTuple):
    number: int  # N
    temperature: float
    axis_name: str | None
    dtype: DTypeLike

    def over(self, collective: Callable, x: jax.Array) -> jax.Array:
        return x if self.axis_name is None else collective(x, self.axis_name)

    def product(self, left: jax.Array, right: jax.Array) -> jax.Array:
        return product(left, right, self.dtype)


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

    # Rounded once, for the positive's logit too, which is one of those that are added up below.
    near = items.astype(share.dtype)

    def one(by_item, block):
        query, target, weight = block
        query = query.astype(share.dtype).astype(jnp.float32)
        logits = share.product(query, near.T) / temperature  # [rows, R]
        if real is None:
            positive = near[target].astype(jnp.float32)
        else:
            logits = jnp.where(real, logits, -jnp.inf)
            # Targets of other devices are dropped, here and in the gradient.
            target = jnp.where(target < 0, len(items), target)
            positive = near.at[target].get(mode="fill", fill_value=0).astype(jnp.float32)
            positive = share.over(jax.lax.psum, positive)
        highest = share.over(jax.lax.pmax, logits.max(axis=-1, keepdims=True))
        odds = jnp.exp(logits - highest)
        partition = share.over(jax.lax.psum, odds.sum(axis=-1, keepdims=True))
        loss = (jnp.log(partition) + highest)[:, 0] - (query * positive).sum(-1) / temperature
        scale = weight[:, None] / temperature
        pull = odds * (scale / partition)
        pulled = share.over(jax.lax.psum, share.product(pull, near))
        by_item = by_item + share.product(pull.T, query)
        by_item = by_item.at[target].add(-scale * query, mode="drop")
        return by_item, ((weight * loss).sum(), pulled - scale * positive)

    blocks = (queries, targets, weights)
    by_item, (losses, by_query) = jax.lax.scan(one, jnp.zeros_like(items), blocks)
    return losses.sum(), (by_query, by_item)


def _exact_backward(share, gradients, cotangent):
    del share
    by_query, by_item = gradients
    return cotangent * by_query, cotangent * by_item, None, None


_exact.defvjp(_exact_forward, _exact_backward)
