"""Self-supervised regularisation between the ranker and its side head (method.md, 2.5)."""

import jax
import optax

from nif_jax.losses.ctr import cross_entropy


def self_supervised(
    logits: jax.Array, side: jax.Array, labels: jax.Array, detach: bool = True
) -> jax.Array:
    """[B] BCE(z, sigmoid(z_fm)) + BCE(z_fm, y).

    Args:
      logits: [B] z of the ranker.
      side: [B] z_fm of the side head.
      labels: [B] 1 or 0.
      detach: whether sigmoid(z_fm) is a fixed target; the authors let the ranker pull it as well.
    """
    side_probability = jax.nn.sigmoid(side)
    if detach:
        side_probability = jax.lax.stop_gradient(side_probability)
    return optax.sigmoid_binary_cross_entropy(logits, side_probability) + cross_entropy(
        side, labels
    )
