"""SASRec (Kang & McAuley, ICDM 2018) for CTR: a causal encoder of the history, and a head."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from nif_jax.data.windows import Impressions, Window
from nif_jax.models.baselines.interface import Baseline, with_statistics
from nif_jax.models.embed import ContextEmbed, ItemEmbed, Mlp, UserEmbed
from nif_jax.models.transformer import CausalBlock

MLP_RATIO = 2


class SasRec(Baseline):
    """logit = MLP(user, scene, target, state, target * state), state = the encoder's last.

    The state does not depend on the candidate. Blocks are our generator's (pre-norm, rotary
    positions); the paper's are post-norm with learned positions, and rank by <state, target>.

    Attributes:
      item_sizes: feature name -> rows of its table; user_sizes: the same for users.
      num_scenes: largest scene id; num_actions: largest action id.
      dim: D.
      tower: hidden widths of the MLP; dropout: its rate.
      id_dropout: see ItemEmbed; dtype: of activations and products.
      encoder_layers: blocks; encoder_heads: their heads; encoder_dropout: their rate.
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

    def setup(self):
        self.items = ItemEmbed(self.item_sizes, self.dim, self.id_dropout)
        self.context = ContextEmbed(self.num_scenes, self.num_actions, self.dim)
        self.user = UserEmbed(self.user_sizes, self.dim)
        sizes = (self.dim, self.encoder_heads, MLP_RATIO, self.encoder_dropout, "mixed", self.dtype)
        self.blocks = [CausalBlock(*sizes) for _ in range(self.encoder_layers)]
        self.norm = nn.LayerNorm(dtype=self.dtype)
        self.head = Mlp((*self.tower, 1), self.dropout, self.dtype)

    def encode(self, vectors: jax.Array, history: Window, train: bool = False) -> jax.Array:
        """[B, L, D] state after each entry, for item vectors [B, L, D]; padding has any state."""
        length = history.mask.shape[1]
        visible = jnp.tril(jnp.ones((length, length), bool)) & history.mask[:, None]  # [B, L, L]
        x = (vectors + self.context(history)).astype(self.dtype)
        for block in self.blocks:
            x, _ = block(x, jnp.arange(length), visible, train=train)
        return self.norm(x)

    def score(self, batch: Impressions, items: Mapping[str, jax.Array], train: bool) -> jax.Array:
        """[B]."""
        history = batch.history
        shown = jnp.concatenate([batch.item[:, None], history.item], axis=1)
        vectors = self.items(shown, items, train)
        target = vectors[:, 0]
        # Without a history there is no state.
        state = self.encode(vectors[:, 1:], history, train)[:, -1] * history.mask[:, -1:]
        fields = [*self.user(batch.user_features), self.context.scene[batch.scene]]
        x = jnp.concatenate([*fields, target, state, target * state], axis=-1)
        return self.head(with_statistics(x, batch), train)[:, 0]


MODEL = SasRec
