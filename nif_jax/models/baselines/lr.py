"""Logistic regression on everything that is known of user, item and scene."""

from collections.abc import Mapping

import flax.linen as nn
import jax

from nif_jax.data.windows import Impressions
from nif_jax.models.baselines.interface import Baseline, Fields


class LogisticRegression(Baseline):
    """logit = bias + sum of a weight for each value: ids (the user's and item's bias), features.

    A feature with several values counts as their mean. There is no history in it.

    Attributes:
      item_sizes: feature name -> rows of its table; user_sizes: the same for users.
      num_scenes: largest scene id.
      id_dropout: see ItemEmbed.
    """

    item_sizes: Mapping[str, int]
    user_sizes: Mapping[str, int]
    num_scenes: int
    id_dropout: float

    @nn.compact
    def score(self, batch: Impressions, items: Mapping[str, jax.Array], train: bool) -> jax.Array:
        """[B]."""
        sizes = (self.item_sizes, self.user_sizes, self.num_scenes)
        weights = Fields(*sizes, 1, self.id_dropout, name="weights")(batch, items, train)
        logits = self.param("bias", nn.initializers.zeros, ()) + weights.sum((1, 2))
        if batch.statistics is None:
            return logits
        return logits + nn.Dense(1, use_bias=False, name="counts")(batch.statistics)[:, 0]


MODEL = LogisticRegression
