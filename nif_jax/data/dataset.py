"""From movelines to what training reads: splits, train vocabulary, one store a shard of users."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from nif_jax.data import labels, splits
from nif_jax.data.negatives import sample_negatives
from nif_jax.data.schema import ID_FEATURE, NO_LABEL, DataError, Movelines, require_choice
from nif_jax.data.statistics import Counters, Queries, Statistics, fit
from nif_jax.data.windows import Store

OOV = 1
"""Row of an id embedding for items and users that the train period has not seen; 2.. are known."""


class RowStatistics(NamedTuple):
    """Statistics of the rows of the local shards, standardised on the train impressions.

    Attributes:
      fitted: what they were computed by.
      values: [D_local, E, F] float16, of each row with all that it may see.
      cut_values: [D_local, C, F] float16, of each row after train as if its user's events ended
        where the row's period begins.
      cut: [D_local, E] int32, place in cut_values, -1 for a train row.
    """

    fitted: Statistics
    values: np.ndarray
    cut_values: np.ndarray
    cut: np.ndarray

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """What windows.gather_statistics reads, leaves [D_local, ...]."""
        return {"values": self.values, "cut_values": self.cut_values, "cut": self.cut}


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set, split and cut into shards of users; shard s belongs to device s of the run.

    Attributes:
      movelines: the whole store; rows below are its rows.
      split: [E] int8, splits.TRAIN, VALIDATION or TEST.
      items: feature name -> [N + 1, M] int32; "id" holds the row of the id embedding (OOV for an
        item without a train event).
      item_sizes: feature name -> rows of its embedding table; likewise user_sizes.
      num_scenes, num_actions: largest ids.
      shard_rows: for each shard, [E_s] int64 rows of movelines in the shard's order; shards of all
        processes, since plans need to know how many steps the longest one takes.
      stores: the local shards stacked, every leaf [D_local, ...], padded to the longest shard of
        all processes: each has to map programs of equal shapes.
      local_shards: numbers of the local shards.
      eligible: [E] bool, the row may stand in a history.
      sampled: [E] bool, the row is a sampled negative: an impression, and no event.
      answer: [E] int8, the label of every event, as histories and generators know it;
        movelines.label has those only that rankers may use.
      cold_item: [E] bool, the item has no train event; cold_user: the same for users.
      visible: [E] int64, a row sees its user's events before this row, see visible_rows.
      statistics: labels that they read ("all" or "labelled") -> count features of the rows.
    """

    movelines: Movelines
    split: np.ndarray
    items: Mapping[str, np.ndarray]
    item_sizes: Mapping[str, int]
    user_sizes: Mapping[str, int]
    num_scenes: int
    num_actions: int
    shard_rows: Sequence[np.ndarray]
    stores: Store
    local_shards: Sequence[int]
    eligible: np.ndarray
    sampled: np.ndarray
    answer: np.ndarray
    cold_item: np.ndarray
    cold_user: np.ndarray
    visible: np.ndarray
    statistics: Mapping[str, RowStatistics]

    def impressions(self, shard: int, split: int, sampled: bool = True) -> np.ndarray:
        """[R] int32 rows, in the shard's numbering, of the impressions of a period.

        `sampled` says whether sampled negatives are among them: what is to be predicted as the next
        item is an event.
        """
        rows = self.shard_rows[shard]
        chosen = (self.split[rows] == split) & (self.movelines.label[rows] != NO_LABEL)
        if not sampled:
            chosen &= ~self.sampled[rows]
        return np.flatnonzero(chosen).astype(np.int32)

    @property
    def train_events(self) -> np.ndarray:
        """[E] bool, events of the train period: what popularity and item frequencies count."""
        return (self.split == splits.TRAIN) & ~self.sampled

    def train_entries(self, shard: int) -> tuple[np.ndarray, np.ndarray]:
        """[U_s] bounds, in the shard's history_row, of each user's entries up to the last of train.

        Under the random split other periods' entries stand between; Store.train tells them apart.
        """
        rows = self.shard_rows[shard]
        rows = rows[self.eligible[rows]]
        user = self.movelines.user[rows]
        _, begin, inverse = np.unique(user, return_index=True, return_inverse=True)
        end = begin.copy()
        train = np.flatnonzero(self.split[rows] == splits.TRAIN)
        np.maximum.at(end, inverse[train], train + 1)
        return begin, end

    def entry_users(self, shard: int) -> np.ndarray:
        """[U_s] the users whose bounds `train_entries` gives."""
        rows = self.shard_rows[shard]
        return np.unique(self.movelines.user[rows[self.eligible[rows]]])


def _with_ids(features: Mapping[str, np.ndarray], seen: np.ndarray) -> tuple[dict, dict]:
    """Adds the "id" feature; returns features and table sizes. `seen` covers non-padding rows."""
    ids = np.where(seen, OOV + np.cumsum(seen), OOV).astype(np.int32)
    features = {ID_FEATURE: ids} | dict(features)
    return features, {name: int(values.max(initial=0)) + 1 for name, values in features.items()}


def history_bounds(
    movelines: Movelines, split: np.ndarray, history: str, ties: str, sampled: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Which entries of the history each row may see.

    Args:
      movelines: the store.
      split: [E] int8.
      history: "all" events or "positive" ones only (label 1; events without a label stay).
      ties: "order" lets a row see the events that the seeded shuffle put before it at the same
        second; "exclude" lets it see strictly earlier seconds only.
      sampled: [E] bool, rows that stand in no history; each sees what the event behind it does.

    Returns:
      [E] bool eligible, and history_begin, history_end, frozen_end, each [E] int64: bounds count
      the eligible rows.

    Raises:
      ConfigError: for an unknown choice.
    """
    require_choice("data.history", history, ("all", "positive"))
    require_choice("data.ties", ties, ("order", "exclude"))
    eligible = ~sampled
    if history == "positive":
        eligible &= movelines.label != 0
    before = np.append(0, np.cumsum(eligible))  # [E + 1] entries before each row
    visible, cut = visible_rows(movelines, split, ties)
    begin = before[movelines.user_offsets[movelines.user]]
    return eligible, begin, before[visible], before[cut]


def visible_rows(
    movelines: Movelines, split: np.ndarray, ties: str
) -> tuple[np.ndarray, np.ndarray]:
    """[E] int64 each: a row sees its user's events before `visible`, and before `cut` where what it
    sees ends at the beginning of its period; for a train row both are the same."""
    rows, user = np.arange(movelines.num_events), movelines.user
    visible = rows
    if ties == "exclude":
        new = np.ones(len(rows), bool)
        new[1:] = (np.diff(movelines.time) != 0) | (np.diff(user) != 0)
        visible = np.maximum.accumulate(np.where(new, rows, 0))
    # The first row of each (user, period) in store order: cut histories end there.
    key = user.astype(np.int64) * 3 + split
    _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
    cut = np.where(split == splits.TRAIN, visible, np.minimum(first[inverse], visible))
    return visible, cut


def assign_shards(movelines: Movelines, num_shards: int) -> np.ndarray:
    """[U] shard of each user: dealt in order of falling event count, so that shards are even."""
    order = np.argsort(-np.diff(movelines.user_offsets), kind="stable")
    shard = np.empty(movelines.num_users, np.int64)
    shard[order] = np.arange(movelines.num_users) % num_shards
    return shard


def _shard_store(movelines, train, columns, user_features, users, rows) -> Store:
    """One shard's Store; `columns` is what history_bounds returned, made local here."""
    eligible, begin, end, frozen = columns
    history_row = np.flatnonzero(eligible)
    local_row = np.full(movelines.num_events, -1, np.int64)
    local_row[rows] = np.arange(len(rows))
    kept = local_row[history_row] >= 0
    # Bounds count entries of the whole store: subtract the entries that other shards own.
    kept_before = np.append(0, np.cumsum(kept))
    local_user = np.full(movelines.num_users, -1, np.int64)
    local_user[users] = np.arange(len(users))
    return Store(
        item=movelines.item[rows],
        scene=movelines.scene[rows],
        action=movelines.action[rows],
        time=(movelines.time[rows] - movelines.time.min()).astype(np.int32),
        label=movelines.label[rows].astype(np.float32),
        train=train[rows],
        user=local_user[movelines.user[rows]].astype(np.int32),
        user_features={name: values[users] for name, values in user_features.items()},
        history_row=local_row[history_row[kept]].astype(np.int32),
        history_begin=kept_before[begin[rows]].astype(np.int32),
        history_end=kept_before[end[rows]].astype(np.int32),
        frozen_end=kept_before[frozen[rows]].astype(np.int32),
    )


def _stack(stores: Sequence[Store], rows: int, users: int, entries: int) -> Store:
    """Shards with every column padded to these lengths (at least 1), stacked."""

    def stack(length, *columns):
        length = max(1, length)
        return np.stack([np.pad(c, (0, length - len(c))) for c in columns])

    def stack_field(name, columns):
        if name == "user_features":
            return {k: stack(users, *(c[k] for c in columns)) for k in columns[0]}
        return stack(entries if name == "history_row" else rows, *columns)

    return Store(*map(stack_field, Store._fields, zip(*stores, strict=True)))


def _row_statistics(
    lines: Movelines,
    label: np.ndarray,
    impressions: np.ndarray,
    period: np.ndarray,
    sampled: np.ndarray,
    ties: str,
    shard_rows: Sequence[np.ndarray],
    local_shards: Sequence[int],
) -> RowStatistics:
    """Statistics that read `label` [E], standardised on the train rows of `impressions` [E]."""
    train = period == splits.TRAIN
    columns = (lines.user, lines.item, lines.scene, lines.time)
    counters = Counters(*columns, label, ~sampled, train, lines.item_features)
    visible, cut = visible_rows(lines, period, ties)
    later = np.flatnonzero(~train)
    row = np.append(np.arange(lines.num_events), later)
    user, item, scene, time = (column[row] for column in columns)
    queries = Queries(user, np.append(visible, cut[later]), time, item, scene, ~train[row])
    fitted, values = fit(counters, queries, np.flatnonzero(train & impressions))
    values, cut_values = values[: lines.num_events], values[lines.num_events :]
    place = np.zeros(lines.num_events, np.int32)
    place[later] = np.arange(len(later))
    sizes = [(len(rows), max(1, int((~train[rows]).sum()))) for rows in shard_rows]
    longest, most = np.max(sizes, axis=0)

    def of_shard(rows):
        after = rows[~train[rows]]
        own = np.cumsum(~train[rows]) - 1
        return (
            np.pad(values[rows], ((0, longest - len(rows)), (0, 0))),
            np.pad(cut_values[place[after]], ((0, most - len(after)), (0, 0))),
            np.pad(np.where(train[rows], -1, own).astype(np.int32), (0, longest - len(rows))),
        )

    parts = [of_shard(shard_rows[shard]) for shard in local_shards]
    return RowStatistics(fitted, *map(np.stack, zip(*parts, strict=True)))


def build_dataset(
    movelines: Movelines,
    *,
    split: str,
    train_share: float,
    validation_share: float,
    history: str,
    ties: str,
    label_share: float = 1.0,
    label_scenes: str = "",
    negatives: int = 0,
    negatives_exclude: str = "user",
    seed: int,
    num_shards: int = 1,
    local_shards: Sequence[int] = (0,),
    statistics: Sequence[str] = (),
) -> Dataset:
    """Splits a store and lays it out for `num_shards` devices.

    Args:
      movelines: the store.
      split: kind of split, see splits.assign_splits.
      train_share: share of impressions to train on.
      validation_share: share to select on.
      history: see history_bounds.
      ties: see history_bounds.
      label_share: share of the train labels that rankers may use; movelines stay complete.
      label_scenes: scenes whose labels rankers may use, in every period; see labels.of_scenes.
      negatives, negatives_exclude: see negatives.sample_negatives; sampled rows are in the period
        of their event.
      seed: of the random split, of the label sample and of sampled negatives.
      num_shards: devices of the whole run.
      local_shards: those of this process.
      statistics: labels that count features read: "all" of the movelines, or those "labelled" for
        rankers; one or both, or none.

    Raises:
      ConfigError: for a bad choice.
      DataError: for an empty period, fewer users than devices, or a data set that spans more
        seconds than int32 holds.
    """
    if movelines.time.max() - movelines.time.min() >= 2**31:
        raise DataError(f"{movelines.name}: timestamps span 68 years or more; are they seconds?")
    if movelines.num_users < num_shards:
        raise DataError(
            f"{movelines.name} has {movelines.num_users} users for {num_shards} devices; users are "
            "dealt out to devices, so use fewer devices."
        )
    # Labels that rankers may use; histories and generators see the complete store.
    ranked = labels.of_scenes(movelines, label_scenes)
    period = splits.assign_splits(ranked, split, train_share, validation_share, seed)
    train = period == splits.TRAIN
    ranked = labels.share_of_train(ranked, train, label_share, seed)
    seen_item = np.bincount(movelines.item[train], minlength=movelines.num_items + 1) > 0
    seen_user = np.bincount(movelines.user[train], minlength=movelines.num_users) > 0
    complete, source = sample_negatives(movelines, negatives, negatives_exclude, seed)
    period, sampled = period[source], np.append(np.diff(source) == 0, False)
    label = np.where(ranked.label[source] == NO_LABEL, NO_LABEL, complete.label)
    movelines = dataclasses.replace(complete, label=label.astype(np.int8))
    items, item_sizes = _with_ids({}, seen_item)
    items["id"] = np.where(np.arange(len(seen_item)) > 0, items["id"], 0)[:, None]
    items |= dict(movelines.item_features)
    item_sizes |= {k: int(v.max(initial=0)) + 1 for k, v in movelines.item_features.items()}
    user_features, user_sizes = _with_ids(movelines.user_features, seen_user)
    columns = history_bounds(complete, period, history, ties, sampled)
    shard_of_user = assign_shards(movelines, num_shards)
    shard_of_row = shard_of_user[movelines.user]
    order = np.argsort(shard_of_row, kind="stable")
    shard_rows = np.split(order, np.cumsum(np.bincount(shard_of_row, minlength=num_shards))[:-1])
    stores = [
        _shard_store(
            complete,
            period == splits.TRAIN,
            columns,
            user_features,
            np.flatnonzero(shard_of_user == s),
            shard_rows[s],
        )
        for s in local_shards
    ]
    return Dataset(
        movelines=movelines,
        split=period,
        items=items,
        item_sizes=item_sizes,
        user_sizes=user_sizes,
        num_scenes=int(movelines.scene.max()),
        num_actions=int(movelines.action.max()),
        shard_rows=shard_rows,
        eligible=columns[0],
        sampled=sampled,
        answer=complete.label,
        stores=_stack(
            stores,
            rows=max(map(len, shard_rows)),
            users=int(np.bincount(shard_of_user).max()),
            entries=max(int(columns[0][rows].sum()) for rows in shard_rows),
        ),
        local_shards=tuple(local_shards),
        cold_item=~seen_item[movelines.item],
        cold_user=~seen_user[movelines.user],
        visible=visible_rows(complete, period, ties)[0],
        statistics={
            name: _row_statistics(
                complete,
                {"all": complete.label, "labelled": label}[name],
                label != NO_LABEL,
                period,
                sampled,
                ties,
                shard_rows,
                local_shards,
            )
            for name in statistics
        },
    )
