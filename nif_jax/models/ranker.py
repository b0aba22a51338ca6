"""F_0 and F_theta: one ranker, with or without flow and cohorts (method.md, 1.1, 1.3 and 2.4)."""

import functools
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from nif_jax.data.buckets import NUM_GAPS
from nif_jax.data.table_columns import whole
from nif_jax.data.windows import Impressions
from nif_jax.models.align import SemanticAlignment
from nif_jax.models.cohorts import CohortNetwork, DeepFm, Generated
from nif_jax.models.cpu import over_positions
from nif_jax.models.dropout import Dropout
from nif_jax.models.embed import (
    ContextEmbed,
    ItemEmbed,
    Mlp,
    UserEmbed,
    catalogue_is_shorter,
    embedding_init,
)
from nif_jax.models.semantic_ids import SemanticIds

NUM_LENGTHS = 33
"""Buckets of log2 history length."""


class TargetAttention(nn.Module):
    """DIN: weights from an MLP on [q, k, q - k, q * k], one a position, not normalised.

    The first layer is linear in q, k and q * k, so it is computed as q A + k B + (q * k) C: the
    same function for about half the work, because q A does not depend on the position.

    Attributes:
      widths: hidden widths.
      dtype: of products and of the interest; weights are float32.
    """

    widths: tuple[int, ...]
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, target: jax.Array, keys: jax.Array, mask: jax.Array) -> jax.Array:
        """[B, D] interest for target [B, D], keys [B, L, D], mask [B, L]."""
        target, keys = target.astype(self.dtype), keys.astype(self.dtype)
        first = functools.partial(nn.Dense, self.widths[0], dtype=self.dtype)
        from_target = first(name="from_target")(target)[:, None]
        pairs = jnp.concatenate([keys, keys * target[:, None]], axis=-1)
        from_pair = first(use_bias=False, name="from_pair")
        hidden = nn.relu(over_positions(from_pair, pairs) + from_target)  # [B, L, widths[0]]
        score = Mlp((*self.widths[1:], 1), dtype=self.dtype, name="score")
        weights = score(hidden)[..., 0]  # [B, L]
        weights = jnp.where(mask, weights, 0.0)
        # By the number of real entries, not of places: padding changes nothing. A sum of floats,
        # because ONNX has no root of whole numbers.
        scale = jax.lax.rsqrt(jnp.maximum(mask.astype(jnp.float32).sum(1, keepdims=True), 1.0))
        interest = jnp.einsum("bl,bld->bd", weights.astype(self.dtype), keys)
        return (interest * scale).astype(self.dtype)


class Ranker(nn.Module):
    """Scores a candidate from user, context, history and, if given, flow and interest cohorts.

    Attributes:
      item_sizes: feature name -> rows of its table; user_sizes: the same for users.
      num_scenes: largest scene id.
      num_actions: largest action id.
      dim: D.
      attention: hidden widths of the target attention.
      tower: hidden widths of the final MLP.
      dropout: rate in the tower.
      id_dropout: see ItemEmbed.
      align_heads: heads of the Semantic Alignment Module.
      align_dropout: rate on what comes from the generator, its item vectors and r.
      calibration: hidden width of the calibration head c(r, target).
      statistics_widths: hidden widths of the MLP that makes a field of the count features.
      cohorts: the network that attends to the cohorts, or None.
      side: the head of the self-supervised regularisation, or None.
      dtype: of activations and products; tables, the MLP of count features, weights of the target
        attention, and logits are float32.
    """

    item_sizes: Mapping[str, int]
    user_sizes: Mapping[str, int]
    num_scenes: int
    num_actions: int
    dim: int
    attention: tuple[int, ...]
    tower: tuple[int, ...]
    dropout: float
    id_dropout: float
    align_heads: int
    align_dropout: float
    calibration: int
    statistics_widths: tuple[int, ...] = ()
    cohorts: CohortNetwork | None = None
    side: DeepFm | None = None
    dtype: DTypeLike = jnp.float32

    def setup(self):
        self.items = ItemEmbed(self.item_sizes, self.dim, self.id_dropout)
        self.context = ContextEmbed(self.num_scenes, self.num_actions, self.dim)
        self.user = UserEmbed(self.user_sizes, self.dim)
        self.project_returned = nn.Dense(self.dim, use_bias=False, dtype=self.dtype)
        self.recency = self.param("recency", embedding_init, (NUM_GAPS, self.dim))
        self.length = self.param("length", embedding_init, (NUM_LENGTHS, self.dim))
        self.interest = TargetAttention(self.attention, self.dtype)
        self.align = SemanticAlignment(self.dim, self.align_heads, self.dtype)
        self.align_drop = Dropout(self.align_dropout)
        self.calibrator = Mlp((self.calibration, 1), dtype=self.dtype)
        self.head = Mlp((*self.tower, 1), self.dropout, self.dtype)
        self.counts = Mlp((*self.statistics_widths, self.dim))
        # The name `believe` stays: names of parameters set the order in which norms are summed.
        self.believe = nn.Dense(1, use_bias=False, kernel_init=nn.initializers.zeros)

    def embed_items(self, shown, items, generator_item_emb, train: bool) -> jax.Array:
        """[..., D] float32: e_i = E_i + P E^G_i, the second term if the generator's item table is
        given."""
        vectors = self.items(shown, items, train)
        if generator_item_emb is None:
            return vectors
        if catalogue_is_shorter(len(generator_item_emb), shown):
            # Dropped out as a table, so once an item and pass: a mask for every entry of every
            # history would cost more than the rest of the table's return.
            added = self._returned(whole(generator_item_emb), train)[shown]
        else:
            added = self._returned(generator_item_emb[shown], train)
        return vectors + added

    def _returned(self, vectors, train: bool) -> jax.Array:
        added = self.project_returned(vectors).astype(jnp.float32)
        return self.align_drop(added, deterministic=not train)

    def calibrate(self, evidence: jax.Array, target: jax.Array) -> jax.Array:
        """[B] calibration score c(r, target), float32."""
        return self.calibrator(jnp.concatenate([evidence, target, evidence * target], -1))[:, 0]

    def _aligned(self, target, flow, flow_mask, train: bool) -> jax.Array:
        return self.align_drop(self.align(target, flow, flow_mask), deterministic=not train)

    def _evidence(self, target, keys, mask, flow, flow_mask, train: bool) -> jax.Array:
        """r: from the flow where there is one, otherwise the base interest (TSP without NIF)."""
        if flow is None:
            return self.interest(target, keys, mask)
        return self._aligned(target, flow, flow_mask, train)

    def _cohort_fields(
        self, target, items, generator_item_emb, generated, ids, train: bool
    ) -> list:
        """Fields [B, D]: the state of the history, and r_c where there are cohorts."""
        assert self.cohorts is not None
        state = self.cohorts.last_state(generated)
        found = [jnp.broadcast_to(state, target.shape)]
        if generated.beams is not None:
            means = generated.means
            if means is None:
                means = self.cohort_means(items, generator_item_emb, ids, train)
            refined, mask = self.cohorts.refine(means, generated)
            found.append(self.cohorts.attend(target, refined, mask, train))
        return found

    def cohort_means(self, items, generator_item_emb, ids, train: bool = False) -> list[jax.Array]:
        """Mean embeddings of all cohorts, see cohorts.level_means."""
        assert self.cohorts is not None
        everything = jnp.arange(items["id"].shape[0])
        return self.cohorts.means(
            self.embed_items(everything, items, generator_item_emb, train), ids
        )

    def __call__(
        self,
        batch: Impressions,
        items: Mapping[str, jax.Array],
        generator_item_emb: jax.Array | None = None,
        train: bool = False,
        shared_pairs: bool = False,
        generated: Generated | None = None,
        ids: SemanticIds | None = None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Logits of a batch.

        Args:
          batch: impressions; with batch.flow the alignment is on.
          items: the catalogue's features, [N + 1, M] each.
          generator_item_emb: [N + 1, D_G] the generator's item vectors, or None.
          train: whether dropout is on; needs an rng named "dropout".
          shared_pairs: also score each pair's negative with its positive's moveline.
          generated: the intent model's output for the users; of one user for all B rows if its B is
            1, so that many candidates cost one generation.
          ids: the catalogue's semantic IDs, with `generated`.

        Returns:
          logits: [B], calibration score included.
          named intermediates: "calibration" [B]; "shared" [B // 2], the negatives' calibration
          score with the positives' moveline, if requested; "side" [B], logits of the side head, in
          training.
        """
        history = batch.history
        shown = jnp.concatenate([batch.item[:, None], history.item], axis=1)
        vectors = self.embed_items(shown, items, generator_item_emb, train)
        target = vectors[:, 0].astype(self.dtype)
        keys = (vectors[:, 1:] + self.context(history)).astype(self.dtype)
        interest = self.interest(target, keys, history.mask)
        fields = [
            *self.user(batch.user_features),
            target,
            interest,
            self.context.scene[batch.scene],
            self.recency[batch.recency],
            self.length[batch.history_length],
        ]
        evidence = interest
        if batch.flow is not None:
            evidence = self._aligned(target, batch.flow, batch.flow_mask, train)
            fields.append(evidence)
        if generated is not None:
            fields += self._cohort_fields(target, items, generator_item_emb, generated, ids, train)
        if batch.statistics is not None:
            fields.append(self.counts(batch.statistics))
        stacked = jnp.stack([field.astype(self.dtype) for field in fields], axis=1)  # [B, F, D]
        left, right = np.triu_indices(len(fields), k=1)
        products = jnp.einsum("bfd,bgd->bfg", stacked, stacked)[:, left, right]
        x = jnp.concatenate([stacked.reshape(stacked.shape[0], -1), products], axis=-1)
        if batch.statistics is not None:
            x = jnp.concatenate([x, batch.statistics], axis=-1)  # float32, rounded by the head
        calibration = self.calibrate(evidence, target)
        if batch.label_logit is None:
            logits = self.head(x, train)[:, 0] + calibration
        else:
            # Dropped out like all outputs of the generator: it was trained on these labels.
            label_logit = self.align_drop(batch.label_logit[:, None], deterministic=not train)
            x = jnp.concatenate([x, label_logit], axis=-1)
            logits = (self.head(x, train) + self.believe(label_logit))[:, 0] + calibration
        named = {"calibration": calibration}
        if train and self.side is not None:
            own = [*self.user(batch.user_features), target, self.context.scene[batch.scene]]
            named["side"] = self.side(jnp.stack(own, axis=1), train)
        if shared_pairs:
            flow, flow_mask = batch.flow, batch.flow_mask
            if flow is not None:
                flow, flow_mask = flow[0::2], flow_mask[0::2]
            negative = target[1::2]
            r = self._evidence(negative, keys[0::2], history.mask[0::2], flow, flow_mask, train)
            named["shared"] = self.calibrate(r, negative)
        return logits, named
