"""Attention over long sequences on a CPU: tile by tile, in memory linear in the length.

The running softmax of Rabe and Staats 2021, arXiv 2112.05682, and of FlashAttention, Dao et al.
2022, arXiv 2205.14135, with the gradient of the latter. A tile is TILE queries by TILE keys of one
row, all heads: it stays in the cache of a core. Tiles in which no query sees a key are skipped:
almost half of a causal mask, and most of a mask of short segments.

Letters: R rows, P queries, S keys, H heads, d width of a head; n and m tiles of the two lengths.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from nif_jax.models.cpu import MASKED

TILE = 128


def attend(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None, scale: float
) -> jax.Array:
    """attention.attend for as many key heads as query heads; equal to cpu.attend but for rounding.

    Args:
      query: [..., P, H, d].
      key: [..., S, H, d].
      value: like key.
      mask: bool, broadcastable to [..., P, S]; None = every query sees every key.
      scale: of the scores.

    Returns:
      [..., P, H, d].
    """
    *lead, queries, heads, width = query.shape
    keys = key.shape[-3]
    if mask is None:
        mask = jnp.ones((1, keys), bool)
    tiles = _tiles(jnp.broadcast_to(mask, (*lead, queries, keys)).reshape(-1, queries, keys))
    found = _by_tile(*(_split(x) for x in (query * scale, key, value)), tiles)
    found = found.swapaxes(2, 3).reshape(found.shape[0], -1, heads, width)
    return found[:, :queries].reshape(query.shape)


class Tiles(NamedTuple):
    """Which keys are seen.

    Attributes:
      visible: [R, m TILE, n TILE] bool, a row for each key.
      places: [R n m, 3] int32, row and tile of queries and of keys where a key is visible, in
        order; what follows them is of no use.
      start: [R n + 1] int32, where the places of each tile of queries begin; the last is their
        number.
    """

    visible: jax.Array
    places: jax.Array
    start: jax.Array


def _tiles(mask: jax.Array) -> Tiles:
    """Tiles of a mask [R, P, S]."""
    rest = [(0, -size % TILE) for size in mask.shape[1:]]
    visible = jnp.pad(mask.swapaxes(1, 2), ((0, 0), rest[1], rest[0]))
    rows, keys, queries = visible.shape
    # By one axis after the other, which vectorises.
    active = visible.reshape(rows, keys // TILE, TILE, queries).any(2)
    active = active.reshape(rows, keys // TILE, queries // TILE, TILE).any(3)
    active = active.swapaxes(1, 2)
    places = jnp.stack(jnp.nonzero(active, size=active.size, fill_value=0), axis=1)
    start = jnp.pad(jnp.cumsum(active.sum(2, dtype=jnp.int32)), (1, 0))
    return Tiles(visible, places, start)


def _split(x: jax.Array) -> jax.Array:
    """[R, n, H, TILE, d] for x [..., n TILE or fewer, H, d]."""
    x = x.reshape(-1, *x.shape[-3:])
    x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % TILE), (0, 0), (0, 0)))
    return x.reshape(x.shape[0], -1, TILE, *x.shape[2:]).swapaxes(2, 3)


def _at(x: jax.Array, row, tile) -> jax.Array:
    """x[row, tile]."""
    return jax.lax.dynamic_slice(x, (row, tile, *(0,) * (x.ndim - 2)), (1, 1, *x.shape[2:]))[0, 0]


def _put(x: jax.Array, value: jax.Array, row, tile) -> jax.Array:
    """x with x[row, tile] = value."""
    return jax.lax.dynamic_update_slice(x, value[None, None], (row, tile, *(0,) * value.ndim))


def _scores(query, key, visible, row, i, j):
    """[H, TILE keys, TILE queries]; MASKED where a query does not see a key."""
    seen = jax.lax.dynamic_slice(visible, (row, j * TILE, i * TILE), (1, TILE, TILE))
    return jnp.where(seen, _products(_at(key, row, j), _at(query, row, i)), MASKED)


def _products(keys: jax.Array, queries: jax.Array) -> jax.Array:
    """[H, k, q] of keys [H, k, d] and queries [H, q, d]."""
    return jnp.einsum("hkd,hqd->hkq", keys, queries)


@jax.custom_vjp
def _by_tile(query: jax.Array, key: jax.Array, value: jax.Array, tiles: Tiles) -> jax.Array:
    """[R, n, H, TILE, d] for queries [R, n, H, TILE, d], keys and values [R, m, H, TILE, d]."""
    return _forward(query, key, value, tiles)[0]


def _forward(query, key, value, tiles: Tiles):
    rows, count, heads, _, width = query.shape
    # A column of ones: its product with the odds is their sum.
    column = jnp.ones_like(value[..., :1])
    transposed = jnp.concatenate([value, column], -1).swapaxes(-1, -2)  # [R, m, H, d + 1, TILE]

    def step(at, carry):
        highest, sums = carry
        row, i, j = tiles.places[at]
        scores = _scores(query, key, tiles.visible, row, i, j)
        now = jnp.maximum(highest, scores.max(1))
        odds = jnp.exp(scores - now[:, None])
        added = jnp.einsum("hdk,hkq->hdq", _at(transposed, row, j), odds)
        return now, sums * jnp.exp(highest - now)[:, None] + added

    def tile_of_queries(ends):
        first = jnp.full((heads, TILE), MASKED, query.dtype)
        nothing = jnp.zeros((heads, width + 1, TILE), query.dtype)
        return jax.lax.fori_loop(ends[0], ends[1], step, (first, nothing))

    # A loop in a loop: one that carries all tiles would copy `highest` in every step.
    highest, sums = jax.lax.map(tile_of_queries, (tiles.start[:-1], tiles.start[1:]))
    highest = highest.reshape(rows, count, heads, TILE)
    sums = sums.reshape(rows, count, heads, width + 1, TILE)
    seen = highest > MASKED
    norm = jnp.where(seen, sums[..., -1, :], 1.0)
    found = (sums[..., :-1, :] * (seen / norm)[..., None, :]).swapaxes(-1, -2)
    # 0 for a query that sees nothing: its weights are then exp(MASKED) = 0 in the gradient.
    log_norm = jnp.where(seen, highest + jnp.log(norm), 0.0)
    return found, (query, key, value, tiles, found, log_norm)


def _backward(kept, gradient):
    query, key, value, tiles, found, log_norm = kept
    # d softmax: w (g - sum w g), where sum w g = <gradient, found>.
    mean = (gradient * found).sum(-1)
    transposed = key.swapaxes(-1, -2)

    def step(at, carry):
        d_query, d_key, d_value = carry
        row, i, j = tiles.places[at]
        scores = _scores(query, key, tiles.visible, row, i, j)
        weights = jnp.exp(scores - _at(log_norm, row, i)[:, None])
        slope = _products(_at(value, row, j), _at(gradient, row, i))
        d_scores = weights * (slope - _at(mean, row, i)[:, None])
        to_query = jnp.einsum("hdk,hkq->hdq", _at(transposed, row, j), d_scores)
        to_key = jnp.einsum("hkq,hqd->hkd", d_scores, _at(query, row, i))
        to_value = jnp.einsum("hkq,hqd->hkd", weights, _at(gradient, row, i))
        return (
            _put(d_query, _at(d_query, row, i) + to_query, row, i),
            _put(d_key, _at(d_key, row, j) + to_key, row, j),
            _put(d_value, _at(d_value, row, j) + to_value, row, j),
        )

    zeros = (query.swapaxes(-1, -2), key, value)
    first = tuple(jnp.zeros_like(x) for x in zeros)
    d_query, d_key, d_value = jax.lax.fori_loop(0, tiles.start[-1], step, first)
    return d_query.swapaxes(-1, -2), d_key, d_value, None


_by_tile.defvjp(_forward, _backward)
