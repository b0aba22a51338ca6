"""What the baselines share: how they are called, and one embedding a feature."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from nif_jax.data.windows import Impressions
from nif_jax.models.embed import ItemEmbed, UserEmbed, embedding_init


class Baseline(nn.Module):
    """A ranker that is called as nif_jax.models.ranker.Ranker is; subclasses define `score`.

    It has no calibration head: its calibration score IS its logit, so that TSP compares logits
    whatever config.tsp.score says.
    """

    def score(self, batch: Impressions, items: Mapping[str, jax.Array], train: bool) -> jax.Array:
        """[B] logits; arguments as in Ranker."""
        raise NotImplementedError

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
