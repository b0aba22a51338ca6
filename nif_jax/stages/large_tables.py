"""Which tables of a stage are large, and which of their rows a pass reads.

A table of at least `sparse_rows` rows is large: its gradient and its update are those of the rows
of a step (nif_jax/training/sparse.py). Tables of scenes, actions and buckets are never large.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from nif_jax.data.schema import ID_FEATURE
from nif_jax.data.table_rows import Lookup
from nif_jax.data.vocabulary import OOV
from nif_jax.data.windows import Impressions
from nif_jax.models.embed import table_name
from nif_jax.models.flow import FlowDecoder
from nif_jax.stages.flow_loss import FlowLoss, draw
from nif_jax.stages.sequences import Sequences


def large_features(sizes: Mapping[str, int], sparse_rows: int) -> tuple[str, ...]:
    """Features whose tables are large; none if sparse_rows is 0."""
    return tuple(name for name, size in sizes.items() if 0 < sparse_rows <= size)


def item_lookups(
    names: tuple[str, ...],
    items: Mapping[str, jax.Array],
    shown: jax.Array,
    real: jax.Array,
    id_dropout: float,
) -> dict[str, Lookup]:
    """What an ItemEmbed reads, "items/<feature>".

    Args:
      names: large features.
      items: the catalogue's features, [N + 1, M] each.
      shown: [...] items.
      real: [...] bool, False for what only padding reads.
      id_dropout: see ItemEmbed; with it, any item may read the row of unknown ones.
    """
    found = {}
    for name in names:
        ids = items[name][shown]  # [..., M]
        known = (real[..., None] & (ids > 0)).reshape(-1)
        ids = ids.reshape(-1)
        if name == ID_FEATURE:
            ids = jnp.append(ids, OOV).astype(jnp.int32)
            known = jnp.append(known, id_dropout > 0)
        found[f"items/{table_name(name)}"] = Lookup(ids, known)
    return found


def ranker_lookups(
    item_sizes: Mapping[str, int],
    user_sizes: Mapping[str, int],
    sparse_rows: int,
    id_dropout: float,
    whole_catalogue: bool,
) -> Callable[..., dict[str, Lookup]] | None:
    """Stage.lookups of a ranker, None where no table is large.

    Args:
      item_sizes: feature name -> rows of its table; user_sizes: the same for users.
      sparse_rows: see above.
      id_dropout: see ItemEmbed.
      whole_catalogue: whether a pass embeds all items (cohorts, and a generator that is trained
        with the ranker), so that no table of items is large.
    """
    of_items = () if whole_catalogue else large_features(item_sizes, sparse_rows)
    of_users = large_features(user_sizes, sparse_rows)
    if not of_items and not of_users:
        return None

    def lookups(constants: Any, batch: Impressions, rng: jax.Array) -> dict[str, Lookup]:
        del rng
        real = batch.weight > 0
        users = {
            f"user/{table_name(name)}": Lookup(batch.user_features[name], real) for name in of_users
        }
        shown = jnp.concatenate([batch.item[:, None], batch.history.item], axis=1)
        real = jnp.broadcast_to(real[:, None], shown.shape)
        return users | item_lookups(of_items, constants["items"], shown, real, id_dropout)

    return lookups


def generator_lookups(
    model: FlowDecoder, spec: FlowLoss, sparse_rows: int, axis_name: str
) -> Callable[..., dict[str, Lookup]] | None:
    """Stage.lookups of the generator, None where no table is large.

    Exact InfoNCE reads the catalogue, so that no table is large.
    """
    names = () if spec.negatives == "exact" else large_features(model.item_sizes, sparse_rows)
    if not names:
        return None

    def lookups(constants: Any, batch: Sequences, rng: jax.Array) -> dict[str, Lookup]:
        shown = draw(spec, batch, constants["frequency"], rng, axis_name).shown
        if shown is None:
            shown = jnp.arange(len(constants["frequency"]))
        return item_lookups(names, constants["items"], shown, shown > 0, model.id_dropout)

    return lookups
