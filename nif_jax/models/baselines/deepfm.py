"""DeepFM (Guo et al., IJCAI 2017): a factorisation machine and an MLP over the same embeddings."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from nif_jax.data.windows import Impressions
from nif_jax.models.baselines.interface import Baseline, Fields, with_statistics
from nif_jax.models.baselines.lr import LogisticRegression
from nif_jax.models.embed import Mlp, second_order


class DeepFactorization(Baseline):
    """logit = <w, x> + sum over pairs of fields <v_i, v_j> + MLP(v).

    Attributes:
      item_sizes: feature name -> rows of its table; user_sizes: the same for users.
      num_scenes: largest scene id.
      dim: D.
      tower: hidden widths of the MLP; dropout: its rate.
      id_dropout: see ItemEmbed; dtype: of activations and products.
    """

    item_sizes: Mapping[str, int]
    user_sizes: Mapping[str, int]
    num_scenes: int
    dim: int
    tower: tuple[int, ...]
    dropout: float
    id_dropout: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def score(self, batch: Impressions, items: Mapping[str, jax.Array], train: bool) -> jax.Array:
        """[B]."""
        sizes = (self.item_sizes, self.user_sizes, self.num_scenes)
        first_order = LogisticRegression(*sizes, self.id_dropout, name="first_order")
        fields = Fields(*sizes, self.dim, self.id_dropout, name="fields")(batch, items, train)
        deep = Mlp((*self.tower, 1), self.dropout, self.dtype, name="deep")
        return (
            first_order.score(batch, items, train)
            + second_order(fields)
            + deep(with_statistics(fields.reshape(fields.shape[0], -1), batch), train)[:, 0]
        )


MODEL = DeepFactorization
