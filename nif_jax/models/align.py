"""Semantic Alignment Module: the target attends to the flow (method.md, 1.3; the paper's Eq. 7)."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from nif_jax.models.attention import attend
from nif_jax.models.embed import embedding_init


class SemanticAlignment(nn.Module):
    """Attention with the target as query over the flow, from generator space to ranker space.

    Attributes:
      dim: D of the ranker.
      heads: attention heads.
      dtype: of activations and products.
    """

    dim: int
    heads: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, target: jax.Array, flow: jax.Array, mask: jax.Array) -> jax.Array:
        """r, what the user's coming interests say about the target.

        Args:
          target: [B, D] in ranker space.
          flow: [B, T, D_G] in generator space.
          mask: [B] bool, False for users without a history; their r is 0.

        Returns:
          [B, D].
        """
        chex.assert_rank([target, flow, mask], [2, 3, 1])
        chex.assert_equal_shape_prefix([target, flow, mask], 1)
        batch, horizon, _ = flow.shape
        # The order of a flow matters: f_1 is near, f_T far.
        step = self.param("step", embedding_init, (horizon, self.dim))
        step = step.astype(self.dtype)
        dense = functools.partial(nn.Dense, self.dim, dtype=self.dtype)
        keys = dense(name="key")(flow) + step
        values = dense(name="value")(flow) + step
        split = (batch, -1, self.heads, self.dim // self.heads)
        query = dense(name="query")(target).reshape(split)
        keys, values = keys.reshape(split), values.reshape(split)
        r = attend(query, keys, values).reshape(batch, self.dim)
        return dense(name="out")(r) * mask[:, None]
