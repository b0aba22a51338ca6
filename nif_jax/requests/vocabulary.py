"""Names of users, items, scenes and actions, and the numbers that models have for them."""

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np
import pandas as pd
import pyarrow as pa

from nif_jax.data.schema import NO_LABEL

SEVERAL = 2
"""Label of an action whose events have several."""


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Names in the order of their numbers, which count from 1 (users: from 0).

    Attributes:
      user, item, scene, action: [n] object arrays of str.
      profile: user feature -> [n] values; item_profile: item feature -> [n] values.
      added: ids of further items, whose numbers follow that of unknown items.
      action_label: [A + 1] int8, the label that all events of an action have, or SEVERAL.
    """

    user: np.ndarray
    item: np.ndarray
    scene: np.ndarray
    action: np.ndarray
    profile: Mapping[str, np.ndarray]
    item_profile: Mapping[str, np.ndarray]
    action_label: np.ndarray
    added: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, object))

    @functools.cached_property
    def _index(self) -> dict[str, pd.Index]:
        kinds = {kind: getattr(self, kind) for kind in ("user", "item", "scene", "action", "added")}
        return {kind: pd.Index(names, dtype=object) for kind, names in kinds.items()} | {
            f"{of}/{name}": pd.Index(names, dtype=object)
            for of, profile in (("user", self.profile), ("item", self.item_profile))
            for name, names in profile.items()
        }

    def places(self, kind: str, names: pa.Array) -> np.ndarray:
        """[n] place of each of the names [n] in order, -1 for one that is unknown or null.

        Args:
          kind: "user", "item", "scene", "action", "user/<feature>" or "item/<feature>".
          names: text.
        """
        if not len(names):
            return np.zeros(0, np.int64)
        encoded = names.dictionary_encode()
        # As objects: pandas would convert text to its own form first, which takes longer.
        text = pd.Index(encoded.dictionary.to_numpy(zero_copy_only=False), dtype=object)
        distinct = self._index[kind].get_indexer(text)
        codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        return np.append(distinct, -1)[codes].astype(np.int64)

    def place(self, kind: str, name: str | None) -> int:
        """Place of one name in order, -1 for one that is unknown; see `places`."""
        try:
            return int(self._index[kind].get_loc(name))
        except KeyError:
            return -1

    def items(self, names: pa.Array) -> np.ndarray:
        """[n] int32 items; one that is unknown is the row behind the last item, see Catalogue."""
        place, unknown = self.places("item", names), len(self.item)
        if len(self.added):
            added = self.places("added", names)
            place = np.where(added < 0, place, unknown + 1 + added)
        return np.where(place < 0, unknown, place).astype(np.int32) + 1

    @functools.cached_property
    def item_names(self) -> np.ndarray:
        """Names of the numbers that `items` gives, from 1; None for unknown items."""
        return np.concatenate([self.item, np.array([None]), self.added])


def action_labels(action: np.ndarray, label: np.ndarray, num_actions: int) -> np.ndarray:
    """Vocabulary.action_label of events with these actions [E] and labels [E] int8."""
    occurs = np.zeros((num_actions + 1, 3), bool)
    occurs[action, label.astype(np.int64) - NO_LABEL] = True
    one = np.argmax(occurs, axis=1) + NO_LABEL
    return np.where(occurs.sum(1) == 1, one, SEVERAL).astype(np.int8)
