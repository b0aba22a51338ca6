"""Two counters: the user's positive rate and the item's, nothing trained."""

import flax.linen as nn
import jax
import numpy as np

from nif_jax.models.baselines.interface import Baseline, FitData, log_odds

COUNTED = ("user rate", "item rate")
"""Statistics (data/statistics.py), smoothed log odds."""


class Counters(Baseline):
    """logit = user's log odds + item's log odds - log odds of the train rate (closed form).

    That is Bayes' rule for a user and an item that are independent given the label.
    """

    @nn.compact
    def score(self, batch, items, train: bool) -> jax.Array:
        """[B]."""
        del items, train
        width = batch.statistics.shape[-1]
        weight = self.param("weight", nn.initializers.zeros, (width,))
        return batch.statistics @ weight + self.param("bias", nn.initializers.zeros, ())

    @staticmethod
    def fit(data: FitData) -> dict:
        """See Baseline.fit; the statistics are standardised, so it undoes that."""
        statistics = data.statistics
        assert statistics is not None  # require_relations
        counted = np.isin(statistics.names, COUNTED)
        bias = statistics.mean[counted].sum() - log_odds(data.train.label)
        weight = np.where(counted, statistics.std, 0.0)
        return {"weight": weight.astype(np.float32), "bias": np.float32(bias)}


MODEL = Counters
