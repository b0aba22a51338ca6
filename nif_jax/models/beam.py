"""Beam search over semantic IDs: a fixed number of digits, so no end-of-sequence bookkeeping."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nif_jax.models.semantic_ids import SemanticIds, children

IMPOSSIBLE = -1e9
"""Log-probability of what may not be; finite, so that sums of it stay numbers."""


class Beams(NamedTuple):
    """The best sequences found, best first.

    Attributes:
      code: [B, G, K] int32 in 1..V.
      node: [B, G, K] int32 nodes of the trie along the way, -1 where there is none.
      score: [B, G] log-probability.
      mask: [B, G] bool, False where fewer than G sequences exist.
    """

    code: jax.Array
    node: jax.Array
    score: jax.Array
    mask: jax.Array


def beam_search(
    step: Callable[[Any, jax.Array, jax.Array], tuple[jax.Array, Any]],
    carry: Any,
    ids: SemanticIds,
    *,
    batch: int,
    width: int,
    constrained: bool = True,
) -> Beams:
    """Searches the G likeliest codes; with G >= the number of items it is exhaustive.

    Args:
      step: (carry, previous code [B, G] in 0..V (0 = start), digit []) -> log-probabilities
        [B, G, V] of the codes 1..V, and the carry.
      carry: what the step keeps for each beam, leaves [B, G, ...], such as keys and values.
      ids: the catalogue.
      batch: B.
      width: G.
      constrained: whether only codes of real items are searched. Log-probabilities stay those of
        the model, not renormalised over what is allowed: an item keeps its own probability.
    """
    size = ids.num_codes
    first = jnp.where(jnp.arange(width) == 0, 0.0, IMPOSSIBLE)
    score = jnp.broadcast_to(first, (batch, width))
    node = jnp.zeros((batch, width), jnp.int32)
    code = jnp.zeros((batch, width), jnp.int32)
    allowed = jnp.asarray(ids.allowed)

    def body(state, digit):
        carry, score, node, code = state
        log_probability, carry = step(carry, code, digit)
        total = score[..., None] + log_probability
        if constrained:
            total = jnp.where(allowed[digit, jnp.maximum(node, 0)], total, IMPOSSIBLE)
        score, flat = jax.lax.top_k(total.reshape(batch, -1), width)
        parent, choice = flat // size, flat % size

        def follow(x):
            index = parent.reshape(*parent.shape, *[1] * (x.ndim - 2))
            return jnp.take_along_axis(x, index, axis=1)

        node = children(ids, digit, follow(node), choice)
        state = (jax.tree.map(follow, carry), jnp.maximum(score, IMPOSSIBLE), node, choice + 1)
        return state, (parent, choice + 1, node)

    (_, score, _, _), (parents, codes, nodes) = jax.lax.scan(
        body, (carry, score, node, code), jnp.arange(ids.num_digits)
    )
    # Back from the last digit: which beam each one grew out of.
    place = jnp.broadcast_to(jnp.arange(width), (batch, width))
    trail = []
    for digit in reversed(range(ids.num_digits)):
        trail.append([jnp.take_along_axis(x[digit], place, axis=1) for x in (codes, nodes)])
        place = jnp.take_along_axis(parents[digit], place, axis=1)
    code, node = (jnp.stack(x, axis=-1) for x in zip(*reversed(trail), strict=True))
    return Beams(code, node, score, score > IMPOSSIBLE / 2)
