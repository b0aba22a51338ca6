"""Causal attention that serves a full pass and a roll-out of many branches alike.

Positions are rotary, so that only distances count: a roll-out that goes T steps past a context of
S stays among trained distances as long as training windows are S + T long.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp


class Memory(NamedTuple):
    """Keys and values that queries attend to.

    Attributes:
      key: [B, S, H, d] for a memory shared by all queries, [B, P, t, H, d] for branches' own.
      value: like key.
    """

    key: jax.Array
    value: jax.Array


def rotate(x: jax.Array, position: jax.Array) -> jax.Array:
    """Rotary position embedding of x [B, P, H, d], d even, at position [P]."""
    half = x.shape[-1] // 2
    frequency = 10_000.0 ** (-jnp.arange(half) / half)
    angle = position[:, None, None] * frequency  # [P, 1, d / 2]
    left, right = jnp.split(x, 2, axis=-1)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return jnp.concatenate([left * cos - right * sin, left * sin + right * cos], axis=-1)


def attend(
    query: jax.Array, shared: Memory, mask: jax.Array, own: Memory | None = None
) -> jax.Array:
    """Softmax attention over a shared memory and, for branches, each branch's own past.

    Args:
      query: [B, P, H, d].
      shared: S entries.
      mask: [B, P, S] bool, True where a query may look.
      own: t entries of each query's own branch, all visible; or None.

    Returns:
      [B, P, H, d], one output a head, not yet mixed.
    """
    scale = query.shape[-1] ** -0.5
    scores = jnp.einsum("bphd,bshd->bhps", query, shared.key) * scale
    # A finite floor: a padded query sees nothing, and its output has to stay finite.
    scores = jnp.where(mask[:, None], scores, -1e9)
    if own is None:
        return jnp.einsum("bhps,bshd->bphd", nn.softmax(scores), shared.value)
    past = jnp.einsum("bphd,bpthd->bhpt", query, own.key) * scale
    weights = nn.softmax(jnp.concatenate([scores, past], axis=-1))
    size = scores.shape[-1]
    return jnp.einsum("bhps,bshd->bphd", weights[..., :size], shared.value) + jnp.einsum(
        "bhpt,bpthd->bphd", weights[..., size:], own.value
    )


class CausalBlock(nn.Module):
    """Pre-norm Transformer block.

    Attributes:
      dim: D.
      heads: H.
      mlp_ratio: width of the feed-forward layer over D.
      dropout: rate on both residual branches.
      output: "mixed" is the usual block, giving [B, P, D]; "heads" stops at the attention, giving
        [B, P, H, D / H]: the multi-head outputs that are the paper's flow states.
    """

    dim: int
    heads: int
    mlp_ratio: int
    dropout: float
    output: str = "mixed"

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        position: jax.Array,
        mask: jax.Array,
        shared: Memory | None = None,
        own: Memory | None = None,
        train: bool = False,
    ) -> tuple[jax.Array, Memory]:
        """One pass over x, either a whole window or one step of every branch.

        Args:
          x: [B, P, D].
          position: [P].
          mask: [B, P, S], see attend.
          shared: the window's memory when x is a step of branches; None when x is the window.
          own: what the branches have behind them (t >= 0 entries), or None.
          train: whether dropout is on.

        Returns:
          The block's output, and the memory to keep: the window's, or the branches' own with this
          step appended.
        """
        shape = (self.heads, self.dim // self.heads)
        normed = nn.LayerNorm(name="norm_attention")(x).reshape(-1, self.dim)  # as in embed.Mlp
        query, key, value = (
            nn.DenseGeneral(shape, name=name)(normed).reshape(*x.shape[:-1], *shape)
            for name in ("query", "key", "value")
        )
        query, key = rotate(query, position), rotate(key, position)
        if shared is None:
            memory = Memory(key, value)
            heads = attend(query, memory, mask)
        else:
            step = Memory(key[:, :, None], value[:, :, None])
            memory = step
            if own is not None:
                memory = jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=2), own, step)
            heads = attend(query, shared, mask, memory)
        if self.output == "heads":
            return heads, memory
        drop = nn.Dropout(self.dropout, deterministic=not train)
        mix = nn.DenseGeneral(self.dim, axis=(-2, -1), name="mix")
        x = x + drop(mix(heads.reshape(-1, *shape)).reshape(x.shape))
        normed = nn.LayerNorm(name="norm_mlp")(x).reshape(-1, self.dim)
        hidden = nn.gelu(nn.Dense(self.mlp_ratio * self.dim, name="up")(normed))
        return x + drop(nn.Dense(self.dim, name="down")(hidden).reshape(x.shape)), memory
