"""Temporal Sequential Pairwise loss (method.md, 1.4): a BPR with a margin across time windows."""

import jax
import jax.numpy as jnp


def temporal_sequential_pairwise(
    positive: jax.Array, negative: jax.Array, margin: float
) -> jax.Array:
    """softplus(m - (c_pos - c_neg)), [P] for scores [P] of pairs."""
    return jax.nn.softplus(margin - (positive - negative))


def not_yet_seen(negative_item: jax.Array, history: jax.Array) -> jax.Array:
    """[P] bool: the negative's item [P] stands nowhere in the positive's moveline [P, L].

    With one moveline for both members, a negative that stands in it would be recognised by having
    happened already; such pairs are left out.
    """
    return jnp.all(history != negative_item[:, None], axis=1)
