"""Which labels rankers may use; movelines stay whole, so that generators and histories see all."""

import dataclasses

import numpy as np

from nif_jax.data.schema import NO_LABEL, ConfigError, Movelines, require_choice


def of_scenes(movelines: Movelines, scenes: str) -> Movelines:
    """The store with the labels of some scenes only.

    Args:
      movelines: the store.
      scenes: names with "+" between, "tab0+tab4"; "" keeps every label.

    Raises:
      ConfigError: for a scene that the data has not.
    """
    if not scenes:
        return movelines
    names = movelines.vocabulary["scene"]
    kept = np.zeros(len(names) + 1, bool)
    for scene in scenes.split("+"):
        require_choice("data.label_scenes", scene, names.tolist())
        kept[1 + np.flatnonzero(names == scene)] = True
    label = np.where(kept[movelines.scene], movelines.label, NO_LABEL)
    return dataclasses.replace(movelines, label=label.astype(np.int8))


def share_of_train(movelines: Movelines, train: np.ndarray, share: float, seed: int) -> Movelines:
    """The store with a share of its train labels, drawn at random.

    Args:
      movelines: the store.
      train: [E] bool.
      share: in (0, 1]; the labels of a smaller share are among those of a larger one.
      seed: of the draw.

    Raises:
      ConfigError: for a share out of range, or one that leaves no label.
    """
    if not 0 < share <= 1:
        raise ConfigError(f"config.data.label_share={share} is not in (0, 1].")
    labelled = train & (movelines.label != NO_LABEL)
    drop = labelled & (np.random.default_rng(seed).random(len(train)) >= share)
    if labelled.any() and not (labelled & ~drop).any():
        raise ConfigError(
            f"config.data.label_share={share} leaves none of the {labelled.sum()} labels of the "
            f"train period; give at least {min(1.0, 10 / labelled.sum()):.2g}, which leaves about "
            f"{min(10, labelled.sum())}."
        )
    label = np.where(drop, NO_LABEL, movelines.label)
    return dataclasses.replace(movelines, label=label.astype(np.int8))
