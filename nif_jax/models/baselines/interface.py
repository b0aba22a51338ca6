"""What the baselines share: how they are called, and one embedding a feature."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import logit

from nif_jax.data.statistics import Statistics
from nif_jax.data.windows import Impressions
from nif_jax.models.embed import ItemEmbed, UserEmbed, embedding_init


class Examples(NamedTuple):
    """Labelled impressions as arrays: item [R], scene [R], user_features, statistics [R, F] (None
    where the variant reads none) and label [R]."""

    item: np.ndarray
    scene: np.ndarray
    user_features: Mapping[str, np.ndarray]
    statistics: np.ndarray | None
    label: np.ndarray


class FitData(NamedTuple):
    """What a baseline that is not trained by gradients is made from.

    Attributes:
      train: impressions of the train period with a label that rankers may use.
      validation: those of the validation period, with rolling histories.
      num_items: N.
      statistics: what Examples.statistics were computed by, or None.
      settings: section config.baselines.
      seed: of the model.
    """

    train: Examples
    validation: Examples
    num_items: int
    statistics: Statistics | None
    settings: Mapping[str, Any]
    seed: int


def log_odds(label: np.ndarray) -> np.float32:
    """Of a label 1 among labels [R], by Laplace's rule, which keeps it finite."""
    return np.float32(logit((label.sum() + 1) / (len(label) + 2)))


class Baseline(nn.Module):
    """A ranker that is called as nif_jax.models.ranker.Ranker is; subclasses define `score`.

    It has no calibration head: its calibration score IS its logit, so that TSP compares logits
    whatever config.tsp.score says.
    """

    def score(self, batch: Impressions, items: Mapping[str, jax.Array], train: bool) -> jax.Array:
        """[B] logits; arguments as in Ranker."""
        raise NotImplementedError

    @staticmethod
    def fit(data: FitData) -> dict | None:
        """Parameters made without gradients, None for a model that is trained here."""
        del data
        return None

    def __call__(
        self,
        batch: Impressions,
        items: Mapping[str, jax.Array],
        generator_item_emb: None = None,
        train: bool = False,
        shared_pairs: bool = False,
        generated: None = None,
        ids: None = None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Logits [B] and {"calibration": [B]}, see Ranker.

        The generator's vectors, cohorts, semantic IDs and pairs of one moveline are for Ranker
        alone: nif_jax/variants.py refuses a baseline with them.
        """
        del generator_item_emb, shared_pairs, generated, ids
        logits = self.score(batch, items, train)
        return logits, {"calibration": logits}


def with_statistics(x: jax.Array, batch: Impressions) -> jax.Array:
    """[B, X + F] an input [B, X] and the batch's count features, where there are any."""
    return x if batch.statistics is None else jnp.concatenate([x, batch.statistics], axis=-1)


class Fields(nn.Module):
    """One embedding for each feature of the user, the item and the scene.

    Attributes:
      item_sizes: feature name -> rows of its table; user_sizes: the same for users.
      num_scenes: largest scene id.
      dim: D.
      id_dropout: see ItemEmbed.
    """

    item_sizes: Mapping[str, int]
    user_sizes: Mapping[str, int]
    num_scenes: int
    dim: int
    id_dropout: float

    @nn.compact
    def __call__(
        self, batch: Impressions, items: Mapping[str, jax.Array], train: bool
    ) -> jax.Array:
        """[B, F, D]; a feature with several values is their mean."""
        shown = {name: values[batch.item] for name, values in items.items()}
        item = ItemEmbed(self.item_sizes, self.dim, self.id_dropout, name="items")
        user = UserEmbed(self.user_sizes, self.dim, name="user")
        scene = self.param("scene", embedding_init, (self.num_scenes + 1, self.dim))
        fields = [*user.fields(batch.user_features), *item.fields(shown, train)]
        return jnp.stack([*fields, scene[batch.scene]], axis=1)
