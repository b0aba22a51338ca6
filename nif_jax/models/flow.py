"""G_phi: the causal decoder whose head outputs are the Next Interest Flow (method.md, 1.2).

Letters: S context, P branches, T horizon, H heads, D width, N catalogue.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from nif_jax.data.table_columns import Columns, squared_norms, whole
from nif_jax.data.table_rows import TableRows
from nif_jax.data.windows import Window
from nif_jax.models.dropout import Dropout
from nif_jax.models.embed import ContextEmbed, ItemEmbed, hide_context
from nif_jax.models.label_head import LabelHead
from nif_jax.models.transformer import CausalBlock


def unit(x: Any) -> Any:
    """x over its length along the last axis; the zero vector stays zero, with zero gradient."""
    return x * jax.lax.rsqrt(jnp.maximum(squared_norms(x), 1e-12))


class FlowDecoder(nn.Module):
    """Predicts the embedding of a user's next item, and of those after it by its own output.

    Flow and item vectors live on the unit sphere, where the loss compares them by cosine; the same
    vectors are what the decoder reads, so that a flow state can take the place of an item.

    Attributes:
      item_sizes: feature name -> rows of its table.
      num_scenes: largest scene id; num_actions: largest action id.
      dim: D, a multiple of 2 x heads: each head rotates pairs of numbers by their position.
      heads: H.
      layers: blocks, the last of which gives the flow.
      mlp_ratio, dropout: see CausalBlock.
      id_dropout: see ItemEmbed.
      context_dropout: share of events whose scene, action and gap a train step hides, so that
        the unknown context of imagined events is a trained one (our choice).
      flow: "heads" (the paper's: outputs of the last attention, one part a head) or "mixed" (a full
        last block, cut into parts).
      label_head: hidden width of the label head (nif_jax/models/label_head.py).
      dtype: of the decoder's activations and products; flow and item vectors are float32.
    """

    item_sizes: Mapping[str, int]
    num_scenes: int
    num_actions: int
    dim: int
    heads: int
    layers: int
    mlp_ratio: int
    dropout: float
    id_dropout: float
    context_dropout: float
    flow: str
    label_head: int
    dtype: DTypeLike = jnp.float32

    def setup(self):
        self.items = ItemEmbed(self.item_sizes, self.dim, self.id_dropout)
        self.context = ContextEmbed(self.num_scenes, self.num_actions, self.dim)
        self.read = nn.Dense(self.dim, dtype=self.dtype)
        outputs = ["mixed"] * (self.layers - 1) + [self.flow]
        sizes = (self.dim, self.heads, self.mlp_ratio, self.dropout)
        self.blocks = [CausalBlock(*sizes, output, self.dtype) for output in outputs]
        self.drop = Dropout(self.dropout)
        # The name `responder` stays: the random keys of its parameters depend on it.
        self.responder = LabelHead(self.dim, self.heads, self.label_head, self.dropout, self.dtype)

    def label_logits(
        self,
        flow: jax.Array,
        vectors: jax.Array,
        scene: jax.Array,
        gap: jax.Array,
        past: jax.Array,
        visible: jax.Array,
        train: bool = False,
    ) -> jax.Array:
        """Log odds that an item has the label 1, given that it is shown next.

        Args:
          flow: [B, P, D] unit states f_1.
          vectors: [B, P, D] unit vectors of the items.
          scene: [B, P] where they are shown.
          gap: [B, P] bucket of the time since the entry before.
          past: [B, S, 2, H, d], as a pass or a roll-out gives it.
          visible: see LabelHead.
          train: whether dropout is on.

        Returns:
          [B, P] logits.
        """
        context = self.context.scene[scene] + self.context.gap[gap]
        # Unit vectors have entries of D^-1/2: bring them to the scale of the head's weights.
        scale = self.dim**0.5
        evidence = [flow * scale, vectors * scale, flow * vectors * self.dim, context]
        item = self._input(vectors, context, train)
        return self.responder(item, evidence, past, visible, train)

    def past(self, states: jax.Array) -> jax.Array:
        """[B, S, 2, H, d] keys and values of the label head, of the states [B, S, D] that the last
        block read."""
        return self.responder.past(states)

    def next_label_logits(
        self, flow: jax.Array, vectors: jax.Array, rows: Any, past: jax.Array, mask: jax.Array
    ) -> jax.Array:
        """[B] logits of `label_logits` for the item of each row.

        Args:
          flow: [B, D] unit states f_1.
          vectors: [N + 1, D] unit vectors of the catalogue.
          rows: what has item, scene and recency [B]: Impressions or Next.
          past: [B, S, 2, H, d].
          mask: [B, S] bool, which entries of the past are real; a row attends to all.
        """
        flow, shown, scene, gap, visible = (
            x[:, None] for x in (flow, vectors[rows.item], rows.scene, rows.recency, mask)
        )
        return self.label_logits(flow, shown, scene, gap, past, visible)[:, 0]

    def vectors(
        self, items: Mapping[str, jax.Array], train: bool = False, shown: jax.Array | None = None
    ) -> jax.Array | TableRows | Columns:
        """[N + 1, D] unit vectors of items, row 0 is padding; or of those `shown` [U], sorted."""
        if shown is None:
            return unit(self.items.table(items, train))
        own = {name: values[shown] for name, values in items.items()}
        return TableRows(shown, unit(whole(self.items.table(own, train))), len(items["id"]))

    def _input(self, vectors: jax.Array, context: jax.Array, train: bool) -> jax.Array:
        x = self.read(vectors * self.dim**0.5) + context.astype(self.dtype)
        return self.drop(x, deterministic=not train)

    def _decode(self, x, position, mask, shared, own, train) -> tuple[jax.Array, list, jax.Array]:
        """Heads, a memory for each block, and what the last block read."""
        memories = []
        for block, s, o in zip(self.blocks, shared, own, strict=True):
            states = x
            x, memory = block(x, position, mask, s, o, train)
            memories.append(memory)
        heads = x.reshape(*x.shape[:2], self.heads, self.dim // self.heads)
        return heads.astype(jnp.float32), memories, states

    def __call__(
        self,
        window: Window,
        items: Mapping[str, jax.Array],
        train: bool = False,
        segment: jax.Array | None = None,
        shown: jax.Array | None = None,
        vectors: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Teacher-forced pass.

        Args:
          window: [B, S] entries, gap = time since the entry before.
          items: the catalogue's features, [N + 1, M] each.
          train: whether dropout is on; needs an rng named "dropout".
          segment: [B, S], for rows that hold several windows: an entry sees its own window only.
          shown: [U] sorted, the items to embed, those of the window included; None = all.
          vectors: what `vectors` gives, if it is computed already.

        Returns:
          heads: [B, S, H, D / H]; position k is the flow state after entry k.
          named intermediates: "vectors" (see `vectors`), "memories" (one KeyValue a block), "past"
            [B, S, 2, H, d] (keys and values of the label head), "states" [B, S, D] (what those
            are made of), "visible" [B, S, S] (which entries are known after each).
        """
        vectors = self.vectors(items, train, shown) if vectors is None else vectors
        if train and self.context_dropout:
            window = hide_context(window, self.make_rng("dropout"), self.context_dropout)
        x = self._input(vectors[window.item], self.context(window), train)
        size = window.item.shape[1]
        mask = jnp.tril(jnp.ones((size, size), bool)) & window.mask[:, None]
        if segment is not None:
            mask &= segment[:, :, None] == segment[:, None]
        none = [None] * self.layers
        heads, memories, states = self._decode(x, jnp.arange(size), mask, none, none, train)
        past = self.past(states)
        if self.is_initializing():  # makes the head's parameters, which a plain pass does not need
            queries = (vectors[window.item], window.scene, window.gap, past, mask)
            self.label_logits(unit(heads.reshape(*heads.shape[:2], self.dim)), *queries)
        named = {"vectors": vectors, "memories": memories, "past": past, "visible": mask}
        return heads, named | {"states": states}

    def continue_from(
        self,
        heads: jax.Array,
        memories: list,
        mask: jax.Array,
        steps: int,
        train: bool = False,
        segment: jax.Array | None = None,
        start: jax.Array | None = None,
    ) -> jax.Array:
        """Rolls every branch on by itself: its own output is its next input, keys are cached.

        Branch p starts after entry start[p] of the window and sees the window up to there.

        Args:
          heads: [B, P, H, D / H], the flow states of a teacher-forced pass at `start`.
          memories: that pass's memories, S entries.
          mask: [B, S], the window's.
          steps: T - 1, steps to take.
          train: whether dropout is on.
          segment: as in the teacher-forced pass.
          start: [P] entries, the same in every row; None = the last P.

        Returns:
          [B, P, T, H, D / H]; entry 0 is `heads`.
        """
        branches, size = heads.shape[1], mask.shape[1]
        if start is None:
            start = jnp.arange(size - branches, size)
        visible = (jnp.arange(size) <= start[:, None]) & mask[:, None]  # [B, P, S]
        if segment is not None:
            visible &= segment[:, start, None] == segment[:, None]
        own, flow = [None] * self.layers, [heads]
        for step in range(1, steps + 1):
            imagined = unit(flow[-1].reshape(*heads.shape[:2], self.dim))
            x = self._input(imagined, self.context.unknown(), train)
            heads, own, _ = self._decode(x, start + step, visible, memories, own, train)
            flow.append(heads)
        return jnp.stack(flow, axis=2)

    def roll_out(
        self, window: Window, items: Any, horizon: int, branches: int, vectors: Any = None
    ) -> tuple[jax.Array, jax.Array]:
        """The Next Interest Flow after each of the window's last entries, and the keys and values
        of the label head.

        Args:
          window: [B, S].
          items: the catalogue's features; vectors: see `__call__`.
          horizon: T.
          branches: P, how many of the last entries to start from; 1 when serving, S for a cache.

        Returns:
          [B, P, T, D] unit vectors f_1..f_T, and [B, S, 2, H, d] the past of all entries.
        """
        heads, named = self(window, items, vectors=vectors)
        flow = self.continue_from(heads[:, -branches:], named["memories"], window.mask, horizon - 1)
        return unit(flow.reshape(*flow.shape[:3], self.dim)), named["past"]
