"""The compiled functions that a Model calls: of a run's stages, or of an artefact.

Letters: G requests, R candidates, C windows of a request, S context, T horizon, D width.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

SPARE_ITEMS = 1024
"""Rows for new items behind those of the run's items and of an unknown one; see new_items.py."""
GIVEN_WIDTH = 100
"""Items that the beam search of an artefact gives; that of a run gives any number."""


@dataclasses.dataclass(frozen=True)
class StatePrograms:
    """For the states of users, where the generator's windows are chunks (config.flow.cache).

    Attributes:
      empty: () -> arrays of a generator that has read no event.
      update: (arrays, generator, entry [6] int32) -> generator; `entry` as state.append gives it,
        and the generator's arrays are reused.
      flow: (arrays, generator, entries []) -> flow [1, T, D], past [1, S, 2, H, d] and mask [1, S].
      score: (arrays, flow, past, mask, batch, owner, item, statistics) -> [R] logits of candidates
        whose requests all see the flow.
    """

    empty: Callable[[], Any]
    update: Callable[..., Any]
    flow: Callable[..., tuple[jax.Array, jax.Array, jax.Array]]
    score: Callable[..., jax.Array]


@dataclasses.dataclass(frozen=True)
class Programs:
    """Of one variant. `arrays` are parameters and tables, which no function contains.

    Attributes:
      score: (arrays, *requests.encode.Encoded) -> [R] logits before calibration.
      flows: (arrays, windows [G * C, S], entries [G]) -> flow [G, T, D], past, mask; None without a
        flow generator.
      item_vectors: (arrays) -> [I, D] the generator's unit vectors, of which row N + 1 is that of
        an unknown item, and further ones those of new items; None likewise.
      embed_items: (arrays, feature -> [SPARE_ITEMS, M]) -> [SPARE_ITEMS, D] the same of new items;
        None likewise.
      state: None likewise, and where the generator reads the last S entries.
      generate: (arrays, history [G, L], width) -> [G, width] int32 items by beam search, 0 = none;
        None without an intent model.
    """

    score: Callable[..., jax.Array]
    flows: Callable[..., tuple[jax.Array, jax.Array, jax.Array]] | None = None
    item_vectors: Callable[[Any], jax.Array] | None = None
    embed_items: Callable[..., jax.Array] | None = None
    state: StatePrograms | None = None
    generate: Callable[..., jax.Array] | None = None


ITEM_FEATURES = "['constants']['items']"
"""Path of the tables of item features among the arrays of a variant."""


def named_arrays(arrays: Any) -> dict[str, Any]:
    """Path -> array, as in the manifest of an artefact, whose arrays are such a dictionary."""
    leaves = jax.tree.leaves_with_path(arrays)
    if all(len(path) == 1 for path, _ in leaves):
        return dict(arrays)
    return {jax.tree_util.keystr(path): x for path, x in leaves}


def replaced_arrays(arrays: Any, changed: Mapping[str, Any]) -> Any:
    """The arrays of a variant with others in the place of some; see named_arrays."""
    if changed.keys() <= arrays.keys():
        return dict(arrays) | dict(changed)
    name = jax.tree_util.keystr
    return jax.tree.map_with_path(lambda path, x: changed.get(name(path), x), arrays)


def item_features(named: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Feature -> [I, M] int32, I = N + 2 + SPARE_ITEMS; row N + 1 is that of an unknown item."""
    return {
        name.removeprefix(ITEM_FEATURES)[2:-2]: np.asarray(table)
        for name, table in named.items()
        if name.startswith(ITEM_FEATURES)
    }
