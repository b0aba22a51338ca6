"""What is tuned for CPUs: dense layers over flattened positions, and attention.

XLA on CPU contracts several axes at once by loops that take twice as long as a matrix product. The
gradient of a [B, S, D] x [D, E] product is such a contraction; that of [B * S, D] x [D, E] is not.
Accelerators lose nothing by the flattened form, so models use it everywhere. The attention below is
for CPUs only; `attention.attend` chooses it.

Letters: P queries, S keys, H heads, d width of a head.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

MASKED = -1e9
"""Score of a masked key: finite, so that a row without a visible key has a finite gradient."""


def over_positions(layer: Callable[[jax.Array], Any], x: jax.Array, inputs: int = 1) -> Any:
    """layer(x) for layers that treat every position alike, computed as matrix products.

    Args:
      layer: [n, *E] -> arrays [n, ...], such as an nn.Dense, or several of them.
      x: [..., *E].
      inputs: number of axes E that the layer contracts.

    Returns:
      The layer's arrays, each [..., *F] where the layer gave [n, *F].
    """
    lead = x.shape[: x.ndim - inputs]
    found = layer(x.reshape(-1, *x.shape[x.ndim - inputs :]))
    return jax.tree.map(lambda y: y.reshape(*lead, *y.shape[1:]), found)


def attend(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None, scale: float
) -> jax.Array:
    """Attention with the gradient that JAX derives; arguments as in attention.attend.

    The arithmetic is that of jax.nn.dot_product_attention, which takes 1.0 to 2.0 times as long on
    a CPU (benchmarks/attention.py), because it computes over whole broadcast masks.
    """
    if key.shape[-2] == 1:
        return _attend_one_head(query, key[..., 0, :], value[..., 0, :], mask, scale)
    scores = jnp.einsum("...phd,...shd->...hps", query, key) * scale
    if mask is not None:
        scores = jnp.where(mask[..., None, :, :], scores, MASKED)
    found = jnp.einsum("...hps,...shd->...phd", nn.softmax(scores), value)
    return found if mask is None else found * mask.any(-1)[..., None, None]


def _attend_one_head(query, key, value, mask, scale):
    """[..., P, H, d] for keys and values [..., S, d] that all heads share.

    All heads and queries of a row are one matrix product.
    """
    *lead, queries, heads, width = query.shape
    query = query.reshape(*lead, queries * heads, width)
    scores = jnp.einsum("...qd,...sd->...qs", query, key)
    scores = (scores * scale).reshape(*lead, queries, heads, -1)
    if mask is None:
        weights = nn.softmax(scores)
    else:
        mask = mask[..., None, :]  # [..., P or 1, 1, S]
        weights = nn.softmax(jnp.where(mask, scores, MASKED)) * mask.any(-1, keepdims=True)
    weights = weights.reshape(*lead, queries * heads, -1)
    return jnp.einsum("...qs,...sd->...qd", weights, value).reshape(*lead, queries, heads, width)


def attend_shared_and_own(query, shared, mask, own, scale):
    """attention.attend with `own` keys, without a copy of the shared keys for every query.

    Args:
      query: [B, P, H, d].
      shared: pair of [B, S, H, d], keys and values of all queries of a row.
      mask: [B, P, S] of the shared keys.
      own: pair of [B, P, t, H, d], keys and values of one query each, t >= 1.
      scale: of the scores.

    Returns:
      [B, P, H, d].
    """
    size = shared[0].shape[1]
    scores = jnp.einsum("bphd,bshd->bhps", query, shared[0]) * scale
    scores = jnp.where(mask[:, None], scores, MASKED)
    past = jnp.einsum("bphd,bpthd->bhpt", query, own[0]) * scale
    weights = nn.softmax(jnp.concatenate([scores, past], axis=-1))
    return jnp.einsum("bhps,bshd->bphd", weights[..., :size], shared[1]) + jnp.einsum(
        "bhpt,bpthd->bphd", weights[..., size:], own[1]
    )


def attend_fast_gradient(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None, scale: float
) -> jax.Array:
    """As `attend`, for as many key heads as query heads, with a gradient that is written out.

    The derived gradient divides and broadcasts whole [P, S] arrays: a third to two thirds of the
    time for 150 tokens (benchmarks/attention.py). Results differ from `attend` by rounding.
    """
    if mask is None:
        mask = jnp.ones((1, key.shape[-3]), bool)
    query, key, value = (jnp.swapaxes(x, -2, -3) for x in (query * scale, key, value))
    return jnp.swapaxes(_by_head(query, key, value, mask[..., None, :, :]), -2, -3)


@jax.custom_vjp
def _by_head(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array) -> jax.Array:
    """[..., P, d] for queries [..., P, d], keys and values [..., S, d], mask [..., 1 or P, S]."""
    return _forward(query, key, value, mask)[0]


def _forward(query, key, value, mask):
    scores = jnp.where(mask, jnp.einsum("...pd,...sd->...ps", query, key), MASKED)
    odds = jnp.exp(scores - scores.max(-1, keepdims=True))
    # Normalised after the product with the values: d numbers a query instead of S.
    norm = jnp.where(mask.any(-1, keepdims=True), 1 / odds.sum(-1, keepdims=True), 0.0)
    found = jnp.einsum("...ps,...sd->...pd", odds, value) * norm
    return found, (query, key, value, odds, norm, found)


def _backward(kept, gradient):
    query, key, value, odds, norm, found = kept
    gradient = gradient * norm
    # d softmax: w (g - sum w g), where sum w g = <gradient, found>.
    mean = (gradient * found).sum(-1, keepdims=True)
    d_scores = odds * (jnp.einsum("...pd,...sd->...ps", gradient, value) - mean)
    # Transposed first: contracting an inner axis is slow on a CPU.
    d_value = jnp.einsum("...sp,...pd->...sd", jnp.swapaxes(odds, -1, -2), gradient)
    d_key = jnp.einsum("...sp,...pd->...sd", jnp.swapaxes(d_scores, -1, -2), query)
    return jnp.einsum("...ps,...sd->...pd", d_scores, key), d_key, d_value, None


_by_head.defvjp(_forward, _backward)
