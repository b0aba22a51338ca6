"""DCN-V2 (Wang et al., WWW 2021): cross layers beside an MLP, full-rank weights."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from nif_jax.data.windows import Impressions
from nif_jax.models.baselines.interface import Baseline, Fields, with_statistics
from nif_jax.models.embed import Mlp


class CrossNetwork(nn.Module):
    """x_{l+1} = x_0 * (W_l x_l + b_l) + x_l: l layers hold products of up to l + 1 features.

    Attributes:
      layers: how many; 0 gives x_0 back.
      dtype: of products and results.
    """

    layers: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, X] for x_0 [B, X]."""
        first = x = x.astype(self.dtype)
        for _ in range(self.layers):
            x = first * nn.Dense(x.shape[-1], dtype=self.dtype)(x) + x
        return x


class DeepCross(Baseline):
    """logit = <w, cross(x)> + MLP(x): the paper's parallel form; its last layer is linear in both.

    Attributes:
      item_sizes: feature name -> rows of its table; user_sizes: the same for users.
      num_scenes: largest scene id.
      dim: D.
      tower: hidden widths of the MLP; dropout: its rate.
      id_dropout: see ItemEmbed.
      cross_layers, dtype: see CrossNetwork; logits are float32.
    """

    item_sizes: Mapping[str, int]
    user_sizes: Mapping[str, int]
    num_scenes: int
    dim: int
    tower: tuple[int, ...]
    dropout: float
    id_dropout: float
    cross_layers: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def score(self, batch: Impressions, items: Mapping[str, jax.Array], train: bool) -> jax.Array:
        """[B]."""
        sizes = (self.item_sizes, self.user_sizes, self.num_scenes)
        fields = Fields(*sizes, self.dim, self.id_dropout, name="fields")(batch, items, train)
        x = with_statistics(fields.reshape(fields.shape[0], -1), batch)  # [B, X]
        crossed = CrossNetwork(self.cross_layers, self.dtype, name="cross")(x)
        deep = Mlp((*self.tower, 1), self.dropout, self.dtype, name="deep")(x, train)
        from_cross = nn.Dense(1, use_bias=False, dtype=jnp.float32, name="from_cross")
        return (from_cross(crossed) + deep)[:, 0]


MODEL = DeepCross
