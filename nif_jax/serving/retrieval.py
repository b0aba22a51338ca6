"""Candidates of a user out of a large catalogue, in memory that does not depend on its size.

Letters: G requests, N items of a pool, P pairs of a request and an item that is left out, m chosen.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

CHUNK = 1 << 14
"""Items whose scores are held at a time, for each request."""


class Pool:
    """Items to choose from.

    Attributes:
      item: [N] int32 sorted.
    """

    def __init__(self, item: np.ndarray):
        """Takes distinct items [N] in any order."""
        self.item = np.sort(item).astype(np.int32)
        chunks = max(1, -(-len(self.item) // CHUNK))
        size = min(CHUNK, len(self.item)) if chunks == 1 else CHUNK
        padded = np.zeros(chunks * size, np.int32)
        padded[: len(self.item)] = self.item
        self._chunks = jnp.asarray(padded.reshape(chunks, size))

    def places(self, item: np.ndarray) -> np.ndarray:
        """[P] int32 place of each item in the pool, -1 where it is not in it."""
        place = np.minimum(np.searchsorted(self.item, item), len(self.item) - 1)
        return np.where(self.item[place] == item, place, -1).astype(np.int32)

    def best(
        self,
        vectors: jax.Array,
        queries: jax.Array,
        count: int,
        group: np.ndarray,
        place: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The items with the largest dot products.

        Args:
          vectors: [n, D] of all items.
          queries: [G, D].
          count: m, at most N.
          group: [P] requests, and the places [P] in the pool of items that they leave out; -1
            leaves out nothing.
          place: see group.

        Returns:
          [G, m] int32 items, best first, and [G, m] bool, False where none is left.
        """
        found = _best(vectors, queries, self._chunks, count, len(self.item), group, place)
        return np.asarray(found[0]), np.asarray(found[1])


@functools.partial(jax.jit, static_argnames="count")
def _best(vectors, queries, chunks, count: int, size, group, place):
    """See Pool.best; chunks [n, K] of the pool, of which the first `size` items are real."""
    groups, width = len(queries), chunks.shape[1]

    def body(number, state):
        best, items = state
        ids = jax.lax.dynamic_index_in_dim(chunks, number, keepdims=False)
        scores = jnp.einsum("gd,nd->gn", queries, vectors[ids], precision=jax.lax.Precision.HIGHEST)
        start = number * width
        scores = jnp.where(start + jnp.arange(width) < size, scores, -jnp.inf)
        column = jnp.where((place < start) | (place >= start + width), width, place - start)
        scores = scores.at[group, column].set(-jnp.inf, mode="drop")
        scores = jnp.concatenate([best, scores], axis=1)
        shown = jnp.concatenate([items, jnp.broadcast_to(ids, (groups, width))], axis=1)
        best, at = jax.lax.top_k(scores, count)
        return best, jnp.take_along_axis(shown, at, axis=1)

    state = (jnp.full((groups, count), -jnp.inf), jnp.zeros((groups, count), jnp.int32))
    best, items = jax.lax.fori_loop(0, len(chunks), body, state)
    return items, best > -jnp.inf
