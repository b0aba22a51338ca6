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
    statistics = batch.statistics
    if statistics is not None and len(statistics) != len(candidates):
        raise ValueError(f"{len(statistics)} count features of {len(candidates)} candidates")
    batch = batch._replace(pair=None, statistics=None)
    if owner is None or len(batch.scene) == 1:
        size = len(candidates)
        many = jax.tree.map(lambda x: jnp.broadcast_to(x, (size, *x.shape[1:])), batch)
    else:
        many = jax.tree.map(lambda x: x[owner], batch)
    return many._replace(item=candidates, statistics=statistics)


def generated_for(generated: Generated | None, owner: jax.Array | None) -> Generated | None:
    """The intent model's output of the user of each candidate; that of one user serves them all."""
    if generated is None or owner is None or len(generated.mask) == 1:
        return generated
    means = generated.means  # of the catalogue
    chosen = jax.tree.map(lambda x: x[owner], generated._replace(means=None))
    return chosen._replace(means=means)
