"""Factorisation machine (Rendle, ICDM 2010) on the features of user, item and scene."""

from collections.abc import Mapping

import flax.linen as nn
import jax

from nif_jax.data.windows import Impressions
from nif_jax.models.baselines.interface import Baseline, Fields
from nif_jax.models.baselines.lr import LogisticRegression
from nif_jax.models.embed import second_order


class FactorizationMachine(Baseline):
    """logit = <w, x> + sum over pairs of features of <v_i, v_j>.

    Attributes:
      item_sizes: feature name -> rows of its table; user_sizes: the same for users.
      num_scenes: largest scene id.
      id_dropout: see ItemEmbed.
      factors: width of v.
    """

    item_sizes: Mapping[str, int]
    user_sizes: Mapping[str, int]
    num_scenes: int
    id_dropout: float
    factors: int

    @nn.compact
    def score(self, batch: Impressions, items: Mapping[str, jax.Array], train: bool) -> jax.Array:
        """[B]."""
        sizes = (self.item_sizes, self.user_sizes, self.num_scenes)
        first_order = LogisticRegression(*sizes, self.id_dropout, name="first_order")
        fields = Fields(*sizes, self.factors, self.id_dropout, name="fields")(batch, items, train)
        return first_order.score(batch, items, train) + second_order(fields)


MODEL = FactorizationMachine
