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


def share_of_train(
    label: np.ndarray, train: np.ndarray, share: float, rng: np.random.Generator
) -> np.ndarray:
    """[E] int8 labels with a share of those of train, drawn at random.

    Args:
      label: [E] int8.
      train: [E] bool.
      share: in (0, 1]; the labels of a smaller share are among those of a larger one.
      rng: of the draw. Parts of a store that are drawn in turn get what the whole store gets.
    """
    if share == 1:
        return label
    drop = train & (rng.random(len(train)) >= share)
    return np.where(drop, np.int8(NO_LABEL), label)


def require_share(share: float, before: int, after: int) -> None:
    """Raises ConfigError for a share out of range, or one that leaves none of the labels of train.

    Args:
      share: see share_of_train.
      before: labels of train.
      after: labels that are left.
    """
    if not 0 < share <= 1:
        raise ConfigError(f"config.data.label_share={share} is not in (0, 1].")
    if before and not after:
        raise ConfigError(
            f"config.data.label_share={share} leaves none of the {before} labels of the "
            f"train period; give at least {min(1.0, 10 / before):.2g}, which leaves about "
            f"{min(10, before)}."
        )
