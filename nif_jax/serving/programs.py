"""The compiled functions that a Model calls: of a run's stages, or of an artefact.

Letters: G requests, R candidates, C windows of a request, S context, T horizon, D width.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

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
      item_vectors: (arrays) -> [N + 2, D] the generator's unit vectors; None likewise.
      state: None likewise, and where the generator reads the last S entries.
      generate: (arrays, history [G, L], width) -> [G, width] int32 items by beam search, 0 = none;
        None without an intent model.
    """

    score: Callable[..., jax.Array]
    flows: Callable[..., tuple[jax.Array, jax.Array, jax.Array]] | None = None
    item_vectors: Callable[[Any], jax.Array] | None = None
    state: StatePrograms | None = None
    generate: Callable[..., jax.Array] | None = None
