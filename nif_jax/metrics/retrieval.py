"""Next-item retrieval over the whole catalogue: ranks on the device, summaries in NumPy.

Ranks are exact: no sampled negatives, whose metrics do not order models as the full ones do.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

CHUNK = 16_384
"""Items that are scored at once where the catalogue is larger."""


def ranks_from_scores(
    scores: ArrayLike, targets: ArrayLike, exclude: ArrayLike | None = None
) -> jax.Array:
    """Rank of each target among the catalogue: 1 + items strictly higher + half the ties.

    Half the ties is their expected share under a random order, rounded up, so that a model that
    scores everything alike gets the middle rank and not the first. A NaN never helps: an item with
    a NaN score counts as higher than the target, and a target with one is last.

    Args:
      scores: [B, N] float or signed int.
      targets: [B] int columns of `scores`. One outside 0..N-1 (an item that the catalogue lacks)
        ranks behind every item.
      exclude: [B, L] int columns that do not count, such as items already seen; entries outside
        0..N-1 are padding. The target itself is never excluded.

    Returns:
      [B] int32 in 1..N+1.
    """
    scores = jnp.asarray(scores)
    num_items = scores.shape[1]
    rows = jnp.arange(scores.shape[0])[:, None]  # [B, 1]
    targets = _outside_if_negative(targets, num_items)[:, None]  # [B, 1]
    target_scores = scores.at[rows, targets].get(mode="fill")  # [B, 1]; NaN or the least int
    counted = jnp.ones(scores.shape, bool).at[rows, targets].set(False, mode="drop")
    if exclude is not None:
        exclude = _outside_if_negative(exclude, num_items)
        counted = counted.at[rows, exclude].set(False, mode="drop")
    return _rank(_places_lost(scores, target_scores, counted))


def ranks_in_chunks(
    score: Callable[[jax.Array], jax.Array],
    num_items: int,
    targets: ArrayLike,
    exclude: ArrayLike | None = None,
    chunk: int = CHUNK,
) -> jax.Array:
    """`ranks_from_scores` of scores that are computed chunk by chunk. Jittable.

    Memory is that of [B, chunk] scores. Only counts of a chunk are kept, so the items of equal
    score that lie in different chunks count as ties if `score` gives them equal bits.

    Args:
      score: [K] int columns in 0..N-1 -> [B, K] scores.
      num_items: N.
      targets: [B] int columns.
      exclude: [B, L] int columns; see `ranks_from_scores` for both.
      chunk: K; a catalogue of at most K items is scored in one piece.

    Returns:
      [B] int32 in 1..N+1.
    """
    if num_items <= chunk:
        return ranks_from_scores(score(jnp.arange(num_items)), targets, exclude)
    targets = _outside_if_negative(targets, num_items)  # [B]
    exclude = None if exclude is None else _outside_if_negative(exclude, num_items)
    batch, chunk = len(targets), max(chunk, len(targets))
    rows, place = jnp.arange(batch)[:, None], jnp.arange(chunk)
    # The targets themselves are scored first, as a chunk of the same program: a product of another
    # shape may round differently, and an item would not tie with its own duplicate.
    own = jnp.pad(targets, (0, chunk - batch), constant_values=num_items)

    def body(number, state):
        target_scores, lost = state
        start = (number - 1) * chunk
        items = jnp.where(number == 0, own, start + place)
        scores = score(jnp.minimum(items, num_items - 1))  # [B, K]
        found = jnp.where((targets < num_items)[:, None], rows, chunk)
        found = scores.at[rows, found].get(mode="fill")
        target_scores = jnp.where(number == 0, found, target_scores)
        real = (number > 0) & (items < num_items)
        counted = real & (items != targets[:, None])
        if exclude is not None:
            column = _outside_if_negative(exclude - start, chunk)
            counted = counted.at[rows, column].set(False, mode="drop")
        return target_scores, lost + _places_lost(scores, target_scores, counted)

    scores = jax.eval_shape(score, place)
    state = (jnp.zeros((batch, 1), scores.dtype), jnp.zeros(batch, jnp.int32))
    chunks = -(-num_items // chunk)
    return _rank(jax.lax.fori_loop(0, 1 + chunks, body, state)[1])


def _places_lost(scores: jax.Array, target_scores: jax.Array, counted: jax.Array) -> jax.Array:
    """[B] int32, two for each counted item of [B, K] that is higher than the target, one for a
    tie; a comparison with NaN is False, so that a NaN is higher."""
    lost = (~(scores < target_scores)).astype(jnp.int32) + ~(scores <= target_scores)
    return jnp.sum(jnp.where(counted, lost, 0), axis=1, dtype=jnp.int32)


def _rank(lost: jax.Array) -> jax.Array:
    """[B] rank by twice the number of higher items plus that of ties."""
    return 1 + (lost + 1) // 2


def target_ranks(
    queries: jax.Array,
    table: jax.Array,
    targets: jax.Array,
    exclude: jax.Array | None = None,
    chunk: int = CHUNK,
) -> jax.Array:
    """Rank of each target by dot product; normalise both sides first for cosine. Jittable.

    A table whose row 0 is padding is passed as table[1:] with ids - 1; a padded id then becomes -1,
    which `exclude` ignores.

    Args:
      queries: [B, D].
      table: [N, D].
      targets: [B] int rows of `table`; see `ranks_from_scores`.
      exclude: [B, L] int rows of `table`; see `ranks_from_scores`.
      chunk: see `ranks_in_chunks`.

    Returns:
      [B] int32 in 1..N+1.
    """

    def score(items):
        # Full precision: the bfloat16 default of a TPU would turn near neighbours into ties.
        return jnp.einsum(
            "bd,nd->bn",
            queries,
            table[items],
            precision=jax.lax.Precision.HIGHEST,
            preferred_element_type=jnp.float32,
        )

    return ranks_in_chunks(score, len(table), targets, exclude, chunk)


def popularity_ranks(
    counts: ArrayLike, targets: ArrayLike, exclude: ArrayLike | None = None, chunk: int = CHUNK
) -> jax.Array:
    """Rank of each target when everyone is shown the most popular items: the floor to beat.

    Args:
      counts: [N] training interactions of each item, below 2**31.
      targets: [B] int columns; see `ranks_from_scores`.
      exclude: [B, L] int columns; see `ranks_from_scores`.
      chunk: see `ranks_in_chunks`.

    Returns:
      [B] int32 in 1..N+1.
    """
    counts, targets = jnp.asarray(counts).astype(jnp.int32), jnp.asarray(targets)

    def score(items):
        return jnp.broadcast_to(counts[items], (len(targets), len(items)))

    return ranks_in_chunks(score, len(counts), targets, exclude, chunk)


def hit_rate(ranks: np.ndarray, k: int, weights: np.ndarray | None = None) -> float:
    """Share of targets ranked in the first k, in 0..1.

    Args:
      ranks: [B] from 1.
      k: cut-off, at least 1.
      weights: [B] weights or a True = real mask; None counts each once.

    Raises:
      ValueError: empty or mismatched arrays, a rank or k below 1, weights that sum to 0.
    """
    ranks, weights = _checked(ranks, weights, k)
    return float(np.average(ranks <= k, weights=weights))


def ndcg(ranks: np.ndarray, k: int, weights: np.ndarray | None = None) -> float:
    """Mean of 1 / log2(1 + rank) within the first k, else 0; one relevant item, so ideal DCG = 1.

    Args and errors are those of `hit_rate`.
    """
    ranks, weights = _checked(ranks, weights, k)
    return float(np.average(np.where(ranks <= k, 1 / np.log2(1.0 + ranks), 0), weights=weights))


def mrr(ranks: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Mean reciprocal rank over the whole catalogue, in 0..1; see `hit_rate`."""
    ranks, weights = _checked(ranks, weights)
    return float(np.average(1 / ranks, weights=weights))


def summarize(
    ranks: np.ndarray, ks: Sequence[int] = (10, 50), weights: np.ndarray | None = None
) -> dict[str, float]:
    """{"hr@10", "ndcg@10", ..., "mrr"}; arguments and errors are those of `hit_rate`."""
    summary = {}
    for k in ks:
        summary[f"hr@{k}"] = hit_rate(ranks, k, weights)
        summary[f"ndcg@{k}"] = ndcg(ranks, k, weights)
    return summary | {"mrr": mrr(ranks, weights)}


def _outside_if_negative(rows: ArrayLike, num_items: int) -> jax.Array:
    """JAX wraps negative indices as NumPy does; past the end they are dropped, as padding must."""
    rows = jnp.asarray(rows)
    return jnp.where(rows < 0, num_items, rows)


def _checked(
    ranks: np.ndarray, weights: np.ndarray | None, k: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Ranks and weights as float64 [B], or a ValueError that names what is wrong."""
    ranks = np.asarray(ranks, np.float64)
    if ranks.ndim != 1 or not len(ranks):
        raise ValueError(f"ranks must be one dimension and not empty, got shape {ranks.shape}")
    weights = np.ones_like(ranks) if weights is None else np.asarray(weights, np.float64)
    if weights.shape != ranks.shape:
        raise ValueError(f"weights has shape {weights.shape}, ranks {ranks.shape}")
    if not weights.sum() > 0 or weights.min() < 0:
        raise ValueError("weights must be 0 or more and not all 0; the split has no real rows")
    if not ranks.min() >= 1 or k < 1:
        raise ValueError(f"ranks and k count from 1, got rank {ranks.min()} and k {k}")
    return ranks, weights
