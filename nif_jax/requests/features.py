"""Requests as a table of named features: what a ranker reads of them, one candidate a row.

The names are those that --mode=score --features writes and that --mode=parity compares. Histories
are lists, oldest event first. Letters: G requests, R candidates, P events of all histories.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from nif_jax.data.vocabulary import OOV
from nif_jax.requests.encode import Encoded, Encoder
from nif_jax.requests.log import Lines, lay_out
from nif_jax.requests.numbered import Numbered
from nif_jax.requests.vocabulary import Vocabulary


class Features(NamedTuple):
    """What the features of requests are read from.

    Attributes:
      vocabulary: names.
      encoder: from numbers to arrays.
      items: item feature -> [I, M] int32 numbers, padded with 0, by the number of the item.
    """

    vocabulary: Vocabulary
    encoder: Encoder
    items: Mapping[str, np.ndarray]

    def table(self, requests: Numbered) -> tuple[pa.Table, Encoded]:
        """R rows of `schema`, in the order of the candidates, and the requests as arrays."""
        lines = lay_out(self.encoder.log, requests)
        encoded = self.encoder.encode(requests, lines)
        owner = pa.array(encoded.owner)
        columns = {"scene": _named(self.vocabulary.scene, requests.scene)}
        columns |= self._of_users(requests, encoded) | self._of_histories(lines, encoded)
        columns = {name: column.take(owner) for name, column in columns.items()}
        columns |= dict(self._of_items(encoded.item))
        if self.encoder.statistics is not None and encoded.statistics is not None:
            values = encoded.statistics.astype(np.float32).T
            names = self.encoder.statistics.names
            columns |= {f"statistic/{n}": pa.array(v) for n, v in zip(names, values, strict=True)}
        return pa.table(columns), encoded

    def schema(self) -> pa.Schema:
        """Names and types of the columns."""
        text, none = pa.string(), np.zeros(0, np.int64)
        kinds = dict.fromkeys(("scene", *map(_of_user, self.encoder.user_features)), text)
        events = {"item": text, "scene": text, "action": text, "time": pa.int64()}
        events |= {"label": pa.int8(), "gap": pa.int32()}
        kinds |= {f"history/{name}": pa.list_(kind) for name, kind in events.items()}
        kinds |= {"history/length": pa.int32()}
        kinds |= {name: column.type for name, column in self._of_items(none)}
        counted = () if self.encoder.statistics is None else self.encoder.statistics.names
        return pa.schema(kinds | {f"statistic/{name}": pa.float32() for name in counted})

    def _of_users(self, requests: Numbered, encoded: Encoded) -> dict[str, pa.Array]:
        """[G] of each feature; null where it is unknown."""
        found = {}
        for name, values in encoded.batch.user_features.items():
            if name == "id":
                known = np.where(values > OOV, requests.user + 1, 0)
                found[_of_user(name)] = _named(self.vocabulary.user, known)
            else:
                found[_of_user(name)] = _named(self.vocabulary.profile[name], values)
        return found

    def _of_histories(self, lines: Lines, encoded: Encoded) -> dict[str, pa.Array]:
        """[G] lists of the events that stand in each history, and how many there were in all."""
        window = encoded.batch.history
        mask, names = window.mask, self.vocabulary
        sizes = mask.sum(1)
        bounds = np.append(0, np.cumsum(sizes)).astype(np.int32)
        place = np.arange(bounds[-1]) + np.repeat(lines.end - bounds[1:], sizes)
        row = lines.store.history_row[place]
        events = {
            "item": _named(names.item_names, window.item[mask]),
            "scene": _named(names.scene, window.scene[mask]),
            "action": _named(names.action, window.action[mask]),
            "time": pa.array(lines.rows.time[row], pa.int64()),
            "label": pa.array(lines.rows.label[row], pa.int8()),
            "gap": pa.array(window.gap[mask], pa.int32()),
        }
        found: dict[str, pa.Array] = {
            f"history/{name}": pa.ListArray.from_arrays(bounds, values)
            for name, values in events.items()
        }
        return found | {"history/length": pa.array(encoded.entries, pa.int32())}

    def _of_items(self, item: np.ndarray) -> Iterator[tuple[str, pa.Array]]:
        """(name, [R]) of each feature of the candidates."""
        for name, table in self.items.items():
            values = table[item]
            if name == "id":
                known = np.where(values[:, 0] > OOV, item, 0)
                yield "item/id", _named(self.vocabulary.item, known)
                continue
            real = values > 0
            bounds = np.append(0, np.cumsum(real.sum(1))).astype(np.int32)
            named = _named(self.vocabulary.item_profile[name], values[real])
            yield f"item/{name}", pa.ListArray.from_arrays(bounds, named)


def _of_user(name: str) -> str:
    return f"user/{name}"


def _named(names: np.ndarray, numbers: np.ndarray) -> pa.Array:
    """Names of numbers that count from 1; null for 0 and for numbers behind the last."""
    names = np.append(names, np.array([None]))
    return pa.array(names[np.minimum(numbers - 1, len(names) - 1)], pa.string())
