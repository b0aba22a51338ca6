"""Many candidates for few users: what depends on the history only is computed once a user."""

import jax
import jax.numpy as jnp

from nif_jax.data.windows import Impressions
from nif_jax.models.cohorts import Generated


def for_candidates(
    batch: Impressions, candidates: jax.Array, owner: jax.Array | None = None
) -> Impressions:
    """A row for each candidate [C], with what the batch has for its user; batch.statistics, if any,
    is of the candidates, [C, F].

    Args:
      batch: rows of users; its items are not read.
      candidates: [C] items.
      owner: [C] the row of the batch that each candidate is for; None: all are for the only row.
    """
    # Sizes are read from shapes, not by len: those of a program that is exported are symbolic.
    statistics, size = batch.statistics, candidates.shape[0]
    if statistics is not None and statistics.shape[0] != size:
        raise ValueError(f"{statistics.shape[0]} count features of {size} candidates")
    batch = batch._replace(pair=None, statistics=None)
    if owner is None or batch.scene.shape[0] == 1:
        many = jax.tree.map(lambda x: jnp.broadcast_to(x, (size, *x.shape[1:])), batch)
    else:
        many = jax.tree.map(lambda x: x[owner], batch)
    return many._replace(item=candidates, statistics=statistics)


def generated_for(generated: Generated | None, owner: jax.Array | None) -> Generated | None:
    """The intent model's output of the user of each candidate; that of one user serves them all."""
    if generated is None or owner is None or generated.mask.shape[0] == 1:
        return generated
    means = generated.means  # of the catalogue
    chosen = jax.tree.map(lambda x: x[owner], generated._replace(means=None))
    return chosen._replace(means=means)
