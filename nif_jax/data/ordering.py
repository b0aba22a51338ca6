"""Order of events: by user and time, then by content; ties in time are shuffled by a seed."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd


def sort_keys(user: np.ndarray, time: np.ndarray) -> np.ndarray:
    """[n] int64 that sort rows as (user, time) does, and are equal where both are; n > 0."""
    first, users = int(time.min()), int(user.max()) + 1
    span = int(time.max()) - first + 1
    if users * span >= 2**63:
        _, time = np.unique(time, return_inverse=True)
        first, span = 0, len(time)
    return user.astype(np.int64) * span + (time - first)


def tied(keys: np.ndarray) -> np.ndarray:
    """[n] bool, rows whose key is that of a neighbour; keys are sorted."""
    same = keys[1:] == keys[:-1]
    return np.append(False, same) | np.append(same, False)


def by_content(keys: np.ndarray, content: Sequence[np.ndarray]) -> np.ndarray:
    """Permutation [n] to the order of keys, and of content where they are equal.

    So the order of the rows has no influence. The last column [n] of content counts most.
    """
    order = np.argsort(keys)
    places = np.flatnonzero(tied(keys[order]))
    rows = np.sort(order[places])
    order[places] = rows[np.lexsort((*(column[rows] for column in content), keys[rows]))]
    return order


def without_repeats(
    order: np.ndarray, keys: np.ndarray, columns: Mapping[str, pd.Series | np.ndarray]
) -> np.ndarray:
    """`order`, see by_content, with one row of all that are equal in every column [n]."""
    places = np.flatnonzero(tied(keys[order]))
    rows = order[places]
    # As codes of values: what is equal is compared fast, and null equals null.
    codes = pd.DataFrame(
        {name: pd.factorize(pd.Series(c, copy=False).iloc[rows])[0] for name, c in columns.items()}
    )
    return np.delete(order, places[codes.duplicated().to_numpy()])


def permutation(length: int, seed: int) -> np.ndarray:
    """[length] `default_rng(seed).permutation(length)`, as int32 where that fits."""
    found = np.arange(length, dtype=np.int32 if length < 2**31 else np.int64)
    np.random.default_rng(seed).shuffle(found)
    return found


def shuffled_ties(keys: np.ndarray, shuffle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places [t] of ties in sorted keys [n], and the place [t] that each gets its row from.

    Args:
      keys: [n].
      shuffle: [n] distinct numbers, which order ties.
    """
    places = np.flatnonzero(tied(keys))
    return places, places[np.lexsort((shuffle[places], keys[places]))]


def count_unsorted(user: np.ndarray, time: np.ndarray) -> int:
    """Rows [n] whose time is smaller than that of the same user's row before them."""
    rows = np.arange(len(user))
    # A stable sort by user: sorting numbers is several times faster than sorting their indices.
    order = np.sort(user.astype(np.int64) * len(user) + rows) % len(user)
    user, time = user[order], time[order]
    return int(((user[1:] == user[:-1]) & (time[1:] < time[:-1])).sum())
