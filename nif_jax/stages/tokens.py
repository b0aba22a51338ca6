"""From items' content to their semantic IDs: the tokenizer's codes, or those of a control."""

from typing import Any

import numpy as np

from nif_jax.data.schema import ConfigError
from nif_jax.metrics import codebook
from nif_jax.models.collisions import resolve_collisions
from nif_jax.models.quantizer import (
    fit_codebooks,
    quantize,
    random_codes,
    require_form,
)
from nif_jax.models.semantic_ids import SemanticIds, add_digit, build_semantic_ids

TRAINED = ("ema", "straight_through")
"""Forms of tokenizer that are a stage; the others are made here, at once."""


def untrained_codes(
    form: str, content: np.ndarray, levels: int, codes: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """[N, K] codes in 0..V-1 of content [N + 1, C] by a form without training: nearest ones, and
    with collisions resolved.

    Args:
      form: "kmeans" (residual k-means on the content itself) or "random".
      content: content vectors; row 0 is padding.
      levels: K.
      codes: V.
      seed: of chance.
    """
    require_form(form)
    if form == "random":
        found = random_codes(len(content) - 1, levels, codes, seed)
        return found, found
    books = fit_codebooks(content[1:], levels, codes, len(content) - 1, seed)
    nearest = np.asarray(quantize(books.vectors, content[1:]).codes)
    return nearest, resolve_collisions(content[1:], books.vectors, nearest)


def require_beams(beams: int, items: int) -> None:
    """Raises ConfigError if beams would be wider than the catalogue."""
    if beams > items:
        raise ConfigError(
            f"config.genci.beams={beams} is more than the {items} items of the catalogue."
        )


def semantic_ids(codes: np.ndarray, size: int, beams: int) -> SemanticIds:
    """The catalogue's IDs: codes [N, K] and the collision digit, as a trie.

    Raises:
      ConfigError: more collisions than a digit holds, or more beams than items.
    """
    require_beams(beams, len(codes))
    return build_semantic_ids(add_digit(codes, size), size)


def describe(
    form: str,
    codes: tuple[np.ndarray, np.ndarray],
    size: int,
    categories: np.ndarray | None,
    rebuilt: float | None,
) -> list[dict[str, Any]]:
    """Records of results.json: metrics.codebook.summarize of the codes in use, with the form, the
    collision rate that nearest codes would have, and the share of content variance that codes
    rebuild (None where nothing is rebuilt)."""
    nearest, used = codes
    return [
        {"form": form}
        | record
        | {"nearest_collision_rate": codebook.collision_rate(nearest[:, : record["level"]])}
        | {"r2": rebuilt}
        for record in codebook.summarize(used, size, categories)
    ]
