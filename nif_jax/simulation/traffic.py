"""Simulated traffic: what users would be shown next, laid behind a store so that models score it.

An impression of the traffic is a draw of the user's next event, after all that the moveline holds:
a moment, a scene, and a slate of candidates by the simulator's law. Impressions of one user are
independent draws of that event, not a sequence: histories do not grow during a test, so all models
rank the same candidates, and no ranking changes the candidates of another model.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from nif_jax.data.counters import Queries
from nif_jax.data.dataset import Dataset
from nif_jax.data.row_statistics import RowStatistics
from nif_jax.data.schema import Movelines
from nif_jax.data.simulator import World, sigmoid


@dataclasses.dataclass(frozen=True)
class Traffic:
    """V impressions, ids as in Movelines.

    Attributes:
      user: [V] int64.
      scene: [V] int64 in 1..S.
      time: [V] int64 seconds, later than all of the user's events.
      slate: [V, C] int64 candidates in 1..N.
      probability: [V, C] float64, the true probability of a click if that candidate is shown.
      chance: [V] float64 uniform; whatever is shown is clicked where chance < probability, so that
        models are compared under common random numbers.
    """

    user: np.ndarray
    scene: np.ndarray
    time: np.ndarray
    slate: np.ndarray
    probability: np.ndarray
    chance: np.ndarray


def draw_traffic(
    lines: Movelines, world: World, *, impressions: int, slate: int, seed: int
) -> Traffic:
    """Traffic of all users.

    Args:
      lines: the store, histories up to its last event.
      world: its law, in the store's ids.
      impressions: of each user.
      slate: C.
      seed: of everything drawn.

    Raises:
      DataError: at some time no item is alive.
    """
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(lines.num_users), impressions)
    last = lines.time[lines.user_offsets[1:] - 1][user]
    time = last + 1 + rng.exponential(world.mean_gap, len(user)).astype(np.int64)
    scene = rng.integers(0, len(world.scene_vectors), len(user))
    items = world.draw_slates(rng, time, slate)
    probability = sigmoid(world.log_odds(user, scene, time, items))
    return Traffic(user, scene + 1, time, items + 1, probability, rng.random(len(user)))


def lay_behind(dataset: Dataset, traffic: Traffic) -> tuple[Dataset, list[np.ndarray], np.ndarray]:
    """The data set with the candidates as further rows of its stores.

    Such a row sees its user's whole moveline and stands in no history; what is known of history
    entries (flows) stays valid.

    Args:
      dataset: what models were trained on.
      traffic: of its users.

    Returns:
      The data set to place and score; for each shard of the run, the numbers [n] of its new rows;
      and [V x C] the place in the flattened slates of each, shard after shard.
    """
    lines, width = dataset.movelines, traffic.slate.shape[1]
    begin, end, local_user = _whole_histories(dataset)
    seconds = (traffic.time - lines.time.min()).astype(np.int32)
    shard_of_user = np.zeros(lines.num_users, np.int64)
    for shard, rows in enumerate(dataset.shard_rows):
        shard_of_user[lines.user[rows]] = shard
    impressions = [
        np.flatnonzero(shard_of_user[traffic.user] == s) for s in range(len(dataset.shard_rows))
    ]
    longest = max(map(len, impressions)) * width

    def columns(shard: int) -> dict[str, np.ndarray]:
        chosen = impressions[shard]
        user = traffic.user[chosen]
        once = {
            "scene": traffic.scene[chosen],
            "time": seconds[chosen],
            "user": local_user[user],
            "history_begin": begin[user],
            "history_end": end[user],
            "frozen_end": end[user],
        }
        found = {name: np.repeat(values, width) for name, values in once.items()}
        found["item"] = traffic.slate[chosen].reshape(-1)
        return {k: np.pad(v, (0, longest - len(v))) for k, v in found.items()}

    new = [columns(shard) for shard in dataset.local_shards]
    stores = dataset.stores
    shape = (len(new), longest)

    def behind(name: str) -> np.ndarray:
        old = getattr(stores, name)
        added = np.stack([c[name] for c in new]) if name in new[0] else np.zeros(shape)
        return np.concatenate([old, added.astype(old.dtype)], axis=1)

    entries = ("history_row", "user_features")  # the only columns that rows do not have
    names = [name for name in stores._fields if name not in entries]
    longer: dict[str, Any] = {name: behind(name) for name in names}
    laid = stores._replace(**longer)
    local = [impressions[shard] for shard in dataset.local_shards]
    statistics = {
        name: _statistics_behind(rows, lines, traffic, local, longest)
        for name, rows in dataset.statistics.items()
    }
    first = stores.item.shape[1]
    shard_rows = [first + np.arange(len(chosen) * width) for chosen in impressions]
    place = np.concatenate(impressions)[:, None] * width + np.arange(width)
    laid = dataclasses.replace(dataset, stores=laid, statistics=statistics)
    return laid, shard_rows, place.reshape(-1)


def _statistics_behind(
    rows: RowStatistics,
    lines: Movelines,
    traffic: Traffic,
    impressions: Sequence[np.ndarray],
    longest: int,
) -> RowStatistics:
    """Count features with those of the candidates of each local shard's impressions behind, padded
    to `longest` new rows."""
    width = traffic.slate.shape[1]

    def of_shard(chosen: np.ndarray) -> np.ndarray:
        chosen = np.repeat(chosen, width)
        user, slot = traffic.user[chosen], np.arange(len(chosen)) % width
        queries = Queries(
            user=user,
            row=lines.user_offsets[user + 1],
            time=traffic.time[chosen],
            item=traffic.slate[chosen, slot],
            scene=traffic.scene[chosen],
            later=np.ones(len(chosen), bool),
        )
        values = rows.fitted.values(queries)
        return np.pad(values, ((0, longest - len(values)), (0, 0)))

    added = np.stack([of_shard(chosen) for chosen in impressions])
    padding = ((0, 0), (0, longest))
    longer = {
        "values": np.concatenate([rows.arrays["values"], added], axis=1),
        "cut": np.pad(rows.arrays["cut"], padding, constant_values=-1),
    }
    return rows._replace(arrays={**rows.arrays, **longer})


def _whole_histories(dataset: Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[U] begin and end of each user in its shard's history_row, and its number in the shard."""
    lines = dataset.movelines
    begin, end, local = (np.zeros(lines.num_users, np.int64) for _ in range(3))
    for rows in dataset.shard_rows:
        users = np.unique(lines.user[rows])
        entries = np.bincount(lines.user[rows[dataset.eligible[rows]]], minlength=lines.num_users)
        end[users] = np.cumsum(entries[users])
        begin[users] = end[users] - entries[users]
        local[users] = np.arange(len(users))
    return begin, end, local
