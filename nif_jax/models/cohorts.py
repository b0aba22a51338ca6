"""Interest cohorts and the hierarchical network that attends to them (method.md, 2.3 and 2.4).

Letters: B batch, G beams, K levels, N catalogue, M nodes, S history states, D width.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from nif_jax.models.attention import attend
from nif_jax.models.beam import Beams
from nif_jax.models.dropout import Dropout
from nif_jax.models.embed import Mlp, embedding_init, second_order
from nif_jax.models.semantic_ids import SemanticIds


class Generated(NamedTuple):
    """Output of the intent model for a user, equal for all candidates. B may be 1 for many of them.

    Attributes:
      states: [B, S, D_I] encoder states of the history, most recent last.
      mask: [B, S] bool.
      beams: the likeliest next items, or None where cohorts are off.
      means: level_means of the catalogue where they are computed already, or None.
    """

    states: jax.Array
    mask: jax.Array
    beams: Beams | None
    means: Sequence[jax.Array] | None = None


def cohort_means(table: jax.Array, group: jax.Array, size: int, mean: str) -> jax.Array:
    """[M, D] mean embedding of the items of each group.

    Args:
      table: [N + 1, D] embeddings; row 0 is padding.
      group: [N + 1] int32 group of each item; that of padding is not looked at.
      size: M.
      mean: "members" divides by a group's own size, "padded" by that of the largest group: the
        authors average over padded rows, so that a small cohort is a short vector (a quirk).
    """
    group = group.at[0].set(size)  # one group more, cut off below
    count = jax.ops.segment_sum(jnp.ones(len(group)), group, size + 1)[:size]
    if mean == "padded":
        count = jnp.full_like(count, count.max())
    return jax.ops.segment_sum(table, group, size + 1)[:size] / jnp.maximum(count, 1.0)[:, None]


def level_means(
    table: jax.Array, ids: SemanticIds, levels: int, form: str, mean: str
) -> list[jax.Array]:
    """[M, D] mean embeddings of a level's cohorts, coarse to fine; they depend on no user.

    Args:
      table: [N + 1, D] item embeddings.
      ids: the catalogue's semantic IDs.
      levels: how many digits make cohorts; the collision digit does not.
      form: "prefix": items that share all digits down to a level. "level": items that share the
        digit of that level whatever comes before (the authors' form).
      mean: see cohort_means.
    """
    if form == "prefix":
        groups, size = ids.node, len(ids.item)
    else:
        groups, size = ids.code - 1, ids.num_codes
    return [cohort_means(table, groups[:, level], size, mean) for level in range(levels)]


def cohort_vectors(
    means: Sequence[jax.Array], beams: Beams, form: str
) -> tuple[jax.Array, jax.Array]:
    """Embeddings [B, G, levels, D] of the beams' cohorts, coarse to fine, and their mask.

    Args:
      means: of each level, see level_means.
      beams: what was generated.
      form: see level_means.
    """
    vectors, masks = [], []
    for level, of_level in enumerate(means):
        chosen = beams.node[..., level] if form == "prefix" else beams.code[..., level] - 1
        vectors.append(of_level[jnp.maximum(chosen, 0)])
        # Beams of one prefix are one cohort: the first of them speaks for it.
        same = (chosen[:, :, None] == chosen[:, None, :]) & beams.mask[:, None, :]
        first = ~jnp.tril(same, k=-1).any(-1)
        masks.append(beams.mask & (chosen >= 0) & first)
    return jnp.stack(vectors, axis=2), jnp.stack(masks, axis=2)


class CohortNetwork(nn.Module):
    """Cross-attention of cohorts over the history, then of the target over the cohorts.

    Attributes:
      dim: D of the ranker.
      heads: of both attentions.
      levels: see level_means; likewise form and mean.
      attention: "separate" modules with padding masks, or one "shared" module without (a quirk).
      residual: whether a refined cohort keeps what it was.
      dropout: rate on r.
      dtype: of activations and products; means of cohorts are float32.
    """

    dim: int
    heads: int
    levels: int
    form: str
    mean: str
    attention: str
    residual: bool
    dropout: float
    dtype: DTypeLike = jnp.float32

    def setup(self):
        self.level = self.param("level", embedding_init, (self.levels, self.dim))
        self.states = nn.Dense(self.dim, dtype=self.dtype)
        sizes: dict[str, Any] = {"num_heads": self.heads, "out_features": self.dim}
        sizes["dtype"] = self.dtype
        # attend takes masks [B, 1 or P, S], without the axis of heads that flax's own function has.
        self.over_history = nn.MultiHeadDotProductAttention(**sizes, attention_fn=attend)
        if self.attention == "separate":
            self.over_cohorts = nn.MultiHeadDotProductAttention(**sizes, attention_fn=attend)
            self.norm = nn.LayerNorm(dtype=self.dtype)
        self.drop = Dropout(self.dropout)

    def last_state(self, generated: Generated) -> jax.Array:
        """[B, D] encoder state of the last event; 0 for an empty history."""
        return self.states(generated.states[:, -1]) * generated.mask[:, -1:]

    def means(self, table: jax.Array, ids: SemanticIds) -> list[jax.Array]:
        """See level_means."""
        return level_means(table, ids, self.levels, self.form, self.mean)

    def refine(
        self, means: Sequence[jax.Array], generated: Generated
    ) -> tuple[jax.Array, jax.Array]:
        """Cross-attention 1, which does not depend on the candidate.

        Returns:
          [B, G * levels, D] refined cohorts, and their mask.
        """
        assert generated.beams is not None
        cohorts, mask = cohort_vectors(means, generated.beams, self.form)
        batch = cohorts.shape[0]
        mask = mask.reshape(batch, -1)
        states = self.states(generated.states)
        shared = self.attention == "shared"
        if not shared:
            cohorts = cohorts + self.level
        cohorts = cohorts.reshape(batch, -1, self.dim).astype(self.dtype)
        seen = None if shared else generated.mask[:, None]
        refined = self.over_history(cohorts, states, mask=seen)
        if self.residual:
            refined = refined + cohorts
        if not shared:
            refined = self.norm(refined)
            mask = mask & generated.mask.any(1, keepdims=True)
        return refined, mask

    def attend(
        self, target: jax.Array, refined: jax.Array, mask: jax.Array, train: bool
    ) -> jax.Array:
        """r_c: cross-attention 2.

        Args:
          target: [B, D], the same number of candidates for each user in turn.
          refined: [U, C, D] cohorts of U users, U = B or 1; keys and values are made once a user.
          mask: [U, C].
          train: whether dropout is on.

        Returns:
          [B, D]; 0 for a user without cohorts.
        """
        query = target.reshape(refined.shape[0], -1, self.dim)  # [U, B / U, D]
        if self.attention == "shared":
            r = self.over_history(query, refined)
        else:
            r = self.over_cohorts(query, refined, mask=mask[:, None])
            r = r * mask.any(1)[:, None, None]
        return self.drop(r.reshape(target.shape), deterministic=not train)


class DeepFm(nn.Module):
    """Side head of the self-supervised regularisation: linear + pairwise + deep, training only.

    Attributes:
      widths: hidden widths; dropout: rate; dtype: of the hidden layers.
    """

    widths: tuple[int, ...]
    dropout: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, fields: jax.Array, train: bool) -> jax.Array:
        """[B] logits of fields [B, F, D]."""
        flat = fields.reshape(fields.shape[0], -1)
        deep = Mlp((*self.widths, 1), self.dropout, self.dtype)(flat, train)[:, 0]
        linear = nn.Dense(1, dtype=jnp.float32, name="linear")(flat)[:, 0]
        return linear + second_order(fields) + deep
