"""The constant predictor: the click rate of the train impressions, for every impression."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from nif_jax.models.baselines.interface import Baseline, FitData, log_odds


class Constant(Baseline):
    """logit = log odds of the train rate (closed form): an NE of 1 is its score."""

    @nn.compact
    def score(self, batch, items, train: bool) -> jax.Array:
        """[B]."""
        del items, train
        rate = self.param("logit", nn.initializers.zeros, ())
        return jnp.broadcast_to(rate, batch.item.shape)

    @staticmethod
    def fit(data: FitData) -> dict:
        """See Baseline.fit."""
        return {"logit": log_odds(data.train.label)}


MODEL = Constant
