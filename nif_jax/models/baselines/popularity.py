"""Popularity: an item's click rate in the train period, the same for all users (closed form)."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import numpy as np
from scipy.special import logit

from nif_jax.data.windows import Impressions
from nif_jax.models.baselines.interface import Baseline, FitData


class Popularity(Baseline):
    """A logit an item. Nothing is trained: `click_logits` is where its row starts and ends."""

    @nn.compact
    def score(self, batch: Impressions, items: Mapping[str, jax.Array], train: bool) -> jax.Array:
        """[B]; user, scene and history say nothing."""
        del train
        return self.param("logit", nn.initializers.zeros, items["id"].shape[:1])[batch.item]

    @staticmethod
    def fit(data: FitData) -> dict:
        """See Baseline.fit."""
        prior = data.settings["prior"]
        return {"logit": click_logits(data.train.item, data.train.label, data.num_items, prior)}


def click_logits(item: np.ndarray, label: np.ndarray, num_items: int, prior: float) -> np.ndarray:
    """[N + 1] log odds of a click on each item, smoothed towards the mean.

    p_i = (clicks_i + prior * p) / (shown_i + prior), with p = (clicks + 1) / (shown + 2) over all
    items (Laplace's rule keeps it off 0 and 1): the posterior mean under a Beta prior that weighs
    `prior` impressions. An item that was never shown has p.

    Args:
      item: [R] int ids of the train impressions.
      label: [R] 0 or 1.
      num_items: N.
      prior: impressions at the mean rate that every item is given, positive: at 0 an unseen item
        has no rate.
    """
    clicks = np.bincount(item, weights=label, minlength=num_items + 1)
    shown = np.bincount(item, minlength=num_items + 1)
    mean = (clicks.sum() + 1) / (shown.sum() + 2)
    rate = (clicks + prior * mean) / (shown + prior)
    return logit(rate).astype(np.float32)


MODEL = Popularity
