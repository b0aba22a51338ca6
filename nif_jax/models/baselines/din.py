"""DIN (Zhou et al., KDD 2018): the history weighed by what it has to do with the candidate."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from nif_jax.data.windows import Impressions
from nif_jax.models.baselines.interface import Baseline, with_statistics
from nif_jax.models.embed import ContextEmbed, ItemEmbed, Mlp, UserEmbed
from nif_jax.models.ranker import TargetAttention


class DeepInterest(Baseline):
    """logit = MLP(user, scene, target, interest, target * interest).

    An entry of the history is its item plus its context, so that a moveline of all events says
    which of them were liked. Against our Ranker it lacks products of fields, recency, length and
    the calibration head. ReLU stands for the paper's Dice.

    Attributes:
      item_sizes: feature name -> rows of its table; user_sizes: the same for users.
      num_scenes: largest scene id; num_actions: largest action id.
      dim: D.
      attention: hidden widths of the target attention.
      tower: hidden widths of the MLP; dropout: its rate.
      id_dropout: see ItemEmbed; dtype: of activations and products.
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
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def score(self, batch: Impressions, items: Mapping[str, jax.Array], train: bool) -> jax.Array:
        """[B]."""
        history = batch.history
        embed = ItemEmbed(self.item_sizes, self.dim, self.id_dropout, name="items")
        context = ContextEmbed(self.num_scenes, self.num_actions, self.dim, name="context")
        user = UserEmbed(self.user_sizes, self.dim, name="user")
        shown = jnp.concatenate([batch.item[:, None], history.item], axis=1)
        vectors = embed(shown, items, train)
        target, keys = vectors[:, 0], vectors[:, 1:] + context(history)
        attention = TargetAttention(self.attention, self.dtype, name="interest")
        interest = attention(target, keys, history.mask)
        fields = [*user(batch.user_features), context.scene[batch.scene]]
        x = jnp.concatenate([*fields, target, interest, target * interest], axis=-1)
        x = with_statistics(x, batch)
        return Mlp((*self.tower, 1), self.dropout, self.dtype, name="head")(x, train)[:, 0]


MODEL = DeepInterest
