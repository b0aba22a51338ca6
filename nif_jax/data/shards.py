"""Shards of users: which device holds which user, and the stores of the shards."""

from collections.abc import Mapping, Sequence

import numpy as np

from nif_jax.data import ranges
from nif_jax.data.schema import DataError, Movelines
from nif_jax.data.windows import Store


def assign_shards(movelines: Movelines, num_shards: int) -> np.ndarray:
    """[U] shard of each user: dealt in order of falling event count, so that shards are even, or
    ranges of users in a large log."""
    if movelines.num_events >= ranges.LARGE:
        users = ranges.cut_users(movelines.user_offsets, num_shards)
        return np.repeat(np.arange(num_shards), np.diff(users))
    order = np.argsort(-np.diff(movelines.user_offsets), kind="stable")
    shard = np.empty(movelines.num_users, np.int64)
    shard[order] = np.arange(movelines.num_users) % num_shards
    return shard


def power_of_two(length: int) -> int:
    """The smallest power of two that is not smaller."""
    return 1 << max(0, length - 1).bit_length()


def _shard_store(movelines, train, columns, user_features, users, rows) -> Store:
    """The Store of these users and rows; see `lay_out`."""
    eligible, begin, end, frozen = columns
    order_only = movelines.order_only
    if order_only is None:
        order_only = np.zeros(movelines.num_events, bool)
    history_row = np.arange(len(rows), dtype=np.int32)[eligible[rows]]
    bounds, user = [begin, end, frozen], movelines.user
    if len(rows) == movelines.num_events:
        rows = slice(None)  # one shard: no copies, so that what is mapped from a file stays there
    else:
        # Bounds count entries of the whole store: subtract the entries that other shards own.
        kept_before = np.zeros(int(eligible.sum()) + 1, np.int32)
        own = np.zeros(movelines.num_events, bool)
        own[rows] = True
        np.cumsum(own[eligible], dtype=np.int32, out=kept_before[1:])
        bounds = [kept_before[bound[rows]] for bound in bounds]
        local_user = np.full(movelines.num_users, -1, np.int32)
        local_user[users] = np.arange(len(users))
        user = local_user[user[rows]]
    time = np.empty(len(user), np.int32)  # without int64 between
    np.subtract(movelines.time[rows], movelines.time.min(), out=time, casting="unsafe")
    return Store(
        item=movelines.item[rows],
        scene=movelines.scene[rows],
        action=movelines.action[rows],
        time=time,
        label=movelines.label[rows].astype(np.float32),
        train=train[rows],
        user=user,
        user_features={name: values[users] for name, values in user_features.items()},
        history_row=history_row,
        history_begin=bounds[0],
        history_end=bounds[1],
        frozen_end=bounds[2],
        order_only=order_only[rows],
    )


def _stack(stores: Sequence[Store], rows: int, users: int, entries: int) -> Store:
    """Shards with every column padded to these lengths (at least 1), stacked."""

    def stack(length, *columns):
        length = max(1, length)
        if len(columns) == 1 and len(columns[0]) == length:
            return columns[0][None]
        return np.stack([np.pad(c, (0, length - len(c))) for c in columns])

    def stack_field(name, columns):
        if name == "user_features":
            return {k: stack(users, *(c[k] for c in columns)) for k in columns[0]}
        return stack(entries if name == "history_row" else rows, *columns)

    return Store(*map(stack_field, Store._fields, zip(*stores, strict=True)))


def lay_out(
    movelines: Movelines,
    train: np.ndarray,
    columns: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    user_features: Mapping[str, np.ndarray],
    num_shards: int,
    local_shards: Sequence[int],
    room: int | None = None,
) -> tuple[list[np.ndarray], Store]:
    """Cuts a store into shards of users.

    Args:
      movelines: the store.
      train: [E] bool, rows of the train period.
      columns: eligible, history_begin, history_end and frozen_end [E] of the whole store, see
        histories.history_bounds; a shard's bounds count its own entries.
      user_features: feature name -> [U] int32.
      num_shards: devices of the whole run.
      local_shards: those of this process.
      room: pads all shards to powers of two, and to at least so many events; None pads them to the
        longest.

    Returns:
      For each shard its rows [E_s], and the local shards' stores stacked, every leaf [D_local, ...]
      and padded alike.
    """
    shard_of_user = assign_shards(movelines, num_shards)
    shard_of_row = shard_of_user.astype(np.int32)[movelines.user]
    shard_rows = [np.flatnonzero(shard_of_row == s) for s in range(num_shards)]
    stores = [
        _shard_store(
            movelines,
            train,
            columns,
            user_features,
            np.flatnonzero(shard_of_user == s),
            shard_rows[s],
        )
        for s in local_shards
    ]
    rows = max(map(len, shard_rows))
    users = int(np.bincount(shard_of_user).max())
    entries = max(int(columns[0][rows].sum()) for rows in shard_rows)
    if room is not None:
        rows, entries = (power_of_two(max(room, length)) for length in (rows, entries))
        users = power_of_two(users)
    return shard_rows, _stack(stores, rows, users, entries)


def require_shardable(movelines: Movelines, num_shards: int) -> None:
    """Raises DataError for times that int32 does not hold, or fewer users than devices."""
    if movelines.time.max() - movelines.time.min() >= 2**31:
        raise DataError(f"{movelines.name}: timestamps span 68 years or more; are they seconds?")
    if movelines.num_users < num_shards:
        raise DataError(
            f"{movelines.name} has {movelines.num_users} users for {num_shards} devices; users are "
            "dealt out to devices, so use fewer devices."
        )
