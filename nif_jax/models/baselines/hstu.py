"""HSTU (Zhai et al., ICML 2024) as a ranker: the history and the candidate in one sequence."""

import functools
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from nif_jax.data.buckets import NUM_GAPS, log2_bucket
from nif_jax.data.windows import Impressions
from nif_jax.models.baselines.interface import Baseline, with_statistics
from nif_jax.models.dropout import Dropout
from nif_jax.models.embed import ContextEmbed, ItemEmbed, Mlp, UserEmbed, embedding_init

NUM_PLACES = 33
"""Buckets of log2 of the number of places between two entries."""


class PointwiseAttention(nn.Module):
    """One layer: y = x + W2 (norm(A V) * U), A = silu(Q K^T + bias) / length, no softmax.

    U, V, Q and K are silu(W1 norm(x)). The bias of two entries is a number for how many places they
    are apart (in buckets of log2) and one for their ages, buckets of the time up to the impression.
    The paper has one for every number of places, and buckets of the time between the two.

    Attributes:
      dim: D, a multiple of heads.
      heads: H.
      dropout: rate on what is added.
      dtype: of activations and products; attention weights are float32.
    """

    dim: int
    heads: int
    dropout: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, age: jax.Array, mask: jax.Array, train: bool) -> jax.Array:
        """[B, L, D] for x [B, L, D], age [B, L] int and mask [B, L]; causal."""
        length, width = x.shape[1], self.dim // self.heads
        norm = functools.partial(nn.LayerNorm, dtype=self.dtype)
        dense = functools.partial(nn.Dense, dtype=self.dtype)
        gates = nn.silu(dense(4 * self.dim, name="in")(norm(name="norm_in")(x)))
        gates = gates.reshape(*gates.shape[:2], 4, self.heads, width)
        u, v, q, k = (gates[:, :, part] for part in range(4))  # [B, L, H, D / H]
        by_place = self.param("by_place", embedding_init, (NUM_PLACES,))
        by_age = self.param("by_age", embedding_init, (NUM_GAPS, NUM_GAPS))
        apart = jnp.arange(length)[:, None] - jnp.arange(length)
        bias = by_place[log2_bucket(apart)] + by_age[age[:, :, None], age[:, None]]  # [B, L, L]
        visible = (apart >= 0) & mask[:, None]
        scores = jnp.einsum("bqhe,bkhe->bhqk", q, k) + bias[:, None]
        weights = jnp.where(visible[:, None], nn.silu(scores), 0.0)
        # By the number of visible entries, so that padding changes nothing.
        weights /= jnp.maximum(visible.sum(-1), 1)[:, None, :, None]
        mixed = jnp.einsum("bhqk,bkhe->bqhe", weights.astype(self.dtype), v)
        mixed = norm(name="norm_out")(mixed.reshape(x.shape)) * u.reshape(x.shape)
        added = dense(self.dim, name="out")(mixed)
        return x + Dropout(self.dropout)(added, deterministic=not train)


class Hstu(Baseline):
    """logit = MLP(user, scene, target, state), state = the layers' output at the candidate.

    Attributes:
      item_sizes: feature name -> rows of its table; user_sizes: the same for users.
      num_scenes: largest scene id; num_actions: largest action id.
      dim: D.
      tower: hidden widths of the MLP; dropout: its rate.
      id_dropout: see ItemEmbed; dtype: of activations and products.
      encoder_layers: layers; encoder_heads: their heads; encoder_dropout: their rate.
    """

    item_sizes: Mapping[str, int]
    user_sizes: Mapping[str, int]
    num_scenes: int
    num_actions: int
    dim: int
    tower: tuple[int, ...]
    dropout: float
    id_dropout: float
    encoder_layers: int
    encoder_heads: int
    encoder_dropout: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def score(self, batch: Impressions, items: Mapping[str, jax.Array], train: bool) -> jax.Array:
        """[B]."""
        history = batch.history
        context = ContextEmbed(self.num_scenes, self.num_actions, self.dim, name="context")
        user = UserEmbed(self.user_sizes, self.dim, name="user")(batch.user_features)
        shown = jnp.concatenate([history.item, batch.item[:, None]], axis=1)
        vectors = ItemEmbed(self.item_sizes, self.dim, self.id_dropout, name="items")(
            shown, items, train
        )
        target = vectors[:, -1]
        x = jnp.concatenate([vectors[:, :-1] + context(history), target[:, None]], axis=1)
        x, last = x.astype(self.dtype), ((0, 0), (0, 1))
        age, mask = jnp.pad(history.gap, last), jnp.pad(history.mask, last, constant_values=True)
        for layer in range(self.encoder_layers):
            sizes = (self.dim, self.encoder_heads, self.encoder_dropout, self.dtype)
            x = PointwiseAttention(*sizes, name=f"layer_{layer}")(x, age, mask, train)
        state = nn.LayerNorm(dtype=self.dtype, name="norm")(x[:, -1])
        fields = jnp.concatenate([*user, context.scene[batch.scene], target, state], axis=-1)
        head = Mlp((*self.tower, 1), self.dropout, self.dtype, name="head")
        return head(with_statistics(fields, batch), train)[:, 0]


MODEL = Hstu
