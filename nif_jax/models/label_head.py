"""The label head: predicts the label of an item, given that the item is shown next.

Ours, not the paper's: InfoNCE trains the flow to predict the next item, not its label. In a log of
positives, a sampled negative has the label 0.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from nif_jax.models.attention import attend
from nif_jax.models.embed import Mlp


class LabelHead(nn.Module):
    """Target attention over the decoder's states of past events, and a perceptron.

    The flow state summarises the user's interest in D numbers. The label of one item depends on the
    past events that are similar to it, so the item attends to them, as in DIN, but at every
    position of every moveline. The attention has no positions: the states contain them, and rotary
    ones made no difference.

    Letters: S past events, P queried items, H heads of d.

    Attributes:
      dim: D = H d.
      heads: H.
      width: hidden units of the perceptron.
      dropout: rate after them.
      dtype: of activations and products; log odds are float32.
    """

    dim: int
    heads: int
    width: int
    dropout: float
    dtype: DTypeLike = jnp.float32

    def setup(self):
        shape = (self.heads, self.dim // self.heads)
        dense = functools.partial(nn.DenseGeneral, shape, dtype=self.dtype)
        self.query, self.value = dense(), dense()
        # A bias of the keys would add one number to all scores of a query: softmax ignores it.
        self.key = dense(use_bias=False)
        self.perceptron = Mlp((self.width, 1), self.dropout, self.dtype)

    def past(self, states: jax.Array) -> jax.Array:
        """[B, S, 2, H, d] keys and values of the decoder's states [B, S, D]."""
        return jnp.stack([self.key(states), self.value(states)], axis=2)

    def __call__(
        self,
        item: jax.Array,
        evidence: list[jax.Array],
        past: jax.Array,
        visible: jax.Array,
        train: bool = False,
    ) -> jax.Array:
        """[B, P] log odds that the label is 1.

        Args:
          item: [B, P, D], each item as an event whose label is unknown.
          evidence: [B, P, D] each, further inputs of the perceptron.
          past: [B, S, 2, H, d], see `past`.
          visible: [B, P, S] bool, the past events that each item may attend to; without any, the
            attention gives 0.
          train: whether dropout is on.
        """
        past = past.astype(self.dtype)  # cached ones are float32
        attended = attend(self.query(item), past[:, :, 0], past[:, :, 1], visible)
        parts = [x.astype(self.dtype) for x in (*evidence, attended.reshape(item.shape))]
        return self.perceptron(jnp.concatenate(parts, axis=-1), train)[..., 0]
