"""Causal attention that serves a full pass and a roll-out of many branches alike.

Positions are rotary, so that only distances count: a roll-out that goes T steps past a context of
S stays among trained distances as long as training windows are S + T long.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from nif_jax.models.attention import KeyValue, attend, rotate
from nif_jax.models.cpu import over_positions
from nif_jax.models.dropout import Dropout


class CausalBlock(nn.Module):
    """Pre-norm Transformer block.

    Attributes:
      dim: D.
      heads: H.
      mlp_ratio: width of the feed-forward layer over D.
      dropout: rate on both residual branches.
      output: "mixed" is the usual block, giving [B, P, D]; "heads" stops at the attention, giving
        [B, P, H, D / H]: the multi-head outputs that are the paper's flow states.
      dtype: of activations and products, the residual stream included; statistics of the norms and
        softmax are float32.
    """

    dim: int
    heads: int
    mlp_ratio: int
    dropout: float
    output: str = "mixed"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        position: jax.Array,
        mask: jax.Array,
        shared: KeyValue | None = None,
        own: KeyValue | None = None,
        train: bool = False,
    ) -> tuple[jax.Array, KeyValue]:
        """One pass over x, either a whole window or one step of every branch.

        Args:
          x: [B, P, D].
          position: [P].
          mask: [B, P, S], see attend.
          shared: the window's keys and values [B, S, H, d] when x is a step of branches; None when
            x is the window.
          own: the branches' own [B, P, t, H, d] of the steps before, or None.
          train: whether dropout is on.

        Returns:
          The block's output, and the keys and values to keep: the window's, or the branches' own
          with this step appended.
        """
        shape = (self.heads, self.dim // self.heads)

        def heads_of(flat):
            names = ("query", "key", "value")
            return [nn.DenseGeneral(shape, dtype=self.dtype, name=n)(flat) for n in names]

        normed = nn.LayerNorm(dtype=self.dtype, name="norm_attention")(x)
        query, key, value = over_positions(heads_of, normed)  # [B, P, H, d] each
        query, key = rotate(query, position), rotate(key, position)
        if shared is None:
            memory = KeyValue(key, value)
            heads = attend(query, key, value, mask)
        else:
            memory = KeyValue(key[:, :, None], value[:, :, None])
            if own is not None:
                memory = jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=2), own, memory)
            heads = attend(query, *shared, mask, own=memory)
        if self.output == "heads":
            return heads, memory
        drop = Dropout(self.dropout, deterministic=not train)
        mix = nn.DenseGeneral(self.dim, axis=(-2, -1), dtype=self.dtype, name="mix")
        x = x + drop(over_positions(mix, heads, inputs=2))

        def feed_forward(flat):
            up = nn.Dense(self.mlp_ratio * self.dim, dtype=self.dtype, name="up")
            return nn.Dense(self.dim, dtype=self.dtype, name="down")(nn.gelu(up(flat)))

        normed = nn.LayerNorm(dtype=self.dtype, name="norm_mlp")(x)
        return x + drop(over_positions(feed_forward, normed)), memory
