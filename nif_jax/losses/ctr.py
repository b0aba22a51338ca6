"""Binary cross-entropy of click probabilities."""

import jax
import jax.numpy as jnp


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """[B] -log p(label) for logits [B] and labels [B] of 0 or 1, stable for any logit."""
    return jax.nn.softplus(logits) - labels * logits


def weighted_sum(values: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sum of values where the weight is not 0, times it, and the sum of weights.

    A padded entry may hold anything, NaN included; it adds exactly nothing.
    """
    values = jnp.where(weights > 0, values, 0.0)
    return (values * weights).sum(), weights.sum()
