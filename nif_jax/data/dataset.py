"""From movelines to what training reads: splits, train vocabulary, one store a shard of users."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from nif_jax.data import dates, labels, splits
from nif_jax.data.histories import history_bounds, visible_rows
from nif_jax.data.negatives import sample_negatives
from nif_jax.data.ranges import RowRange, of_rows
from nif_jax.data.row_statistics import RowStatistics, row_statistics
from nif_jax.data.schema import NO_LABEL, Movelines
from nif_jax.data.shards import lay_out, power_of_two, require_shardable
from nif_jax.data.vocabulary import item_tables, with_ids
from nif_jax.data.windows import Store


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set, split and cut into shards of users; shard s belongs to device s of the run.

    Attributes:
      movelines: the whole store; rows below are its rows.
      split: [E] int8, splits.TRAIN, VALIDATION or TEST.
      trained: [E] bool, rows of train that models are trained on, see dates.trained_rows.
      items: feature name -> [N + 1, M] int32; "id" holds the row of the id embedding (OOV for an
        item without a train event).
      item_sizes: feature name -> rows of its embedding table; likewise user_sizes.
      num_scenes, num_actions: largest ids.
      shard_rows: for each shard of all processes, [E_s] int64 rows of movelines in the shard's
        order.
      stores: the local shards stacked, every leaf [D_local, ...], padded to the longest shard of
        all processes: each has to map programs of equal shapes.
      local_shards: numbers of the local shards.
      eligible: [E] bool, the row may stand in a history.
      sampled: [E] bool, the row is a sampled negative: an impression, and no event.
      event_label: [E] int8, the label of every event, which generators are trained on;
        movelines.label has only those that rankers may use.
      seen_item: [N + 1] bool, the item has a train event; seen_user: [U], the same for users.
      visible: [E] int32, a row sees its user's events before this row, see histories.visible_rows.
      cut: [E] int32, the same where it sees no event of its own period.
      num_labels: [3, 2] impressions of each period with label 0 and 1.
      listed: for each period and shard, what `impressions` returns, if it is kept in files.
      statistics: labels that they read ("all" or "labelled") -> count features of the rows.
    """

    movelines: Movelines
    split: np.ndarray
    trained: np.ndarray
    items: Mapping[str, np.ndarray]
    item_sizes: Mapping[str, int]
    user_sizes: Mapping[str, int]
    num_scenes: int
    num_actions: int
    shard_rows: Sequence[np.ndarray | RowRange]
    stores: Store
    local_shards: Sequence[int]
    eligible: np.ndarray
    sampled: np.ndarray
    event_label: np.ndarray
    seen_item: np.ndarray
    seen_user: np.ndarray
    visible: np.ndarray
    cut: np.ndarray
    num_labels: np.ndarray
    listed: Sequence[Sequence[np.ndarray]] | None = None
    statistics: Mapping[str, RowStatistics] = dataclasses.field(default_factory=dict)

    def impressions(self, shard: int, split: int, sampled: bool = True) -> np.ndarray:
        """[R] int32 rows, in the shard's numbering, of the impressions of a period.

        `sampled` says whether sampled negatives are among them: what is to be predicted as the next
        item is an event.
        """
        if self.listed is not None:  # large logs, which have no sampled negatives
            return self.listed[split][shard]
        rows = self.shard_rows[shard]
        period = self.trained if split == splits.TRAIN else self.split == split
        chosen = period[rows] & (self.movelines.label[rows] != NO_LABEL)
        if not sampled:
            chosen &= ~self.sampled[rows]
        return np.flatnonzero(chosen).astype(np.int32)

    @property
    def train_events(self) -> np.ndarray:
        """[E] bool, events of the train period: what popularity and item frequencies count."""
        return (self.split == splits.TRAIN) & ~self.sampled

    def train_entries(self, shard: int, context: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """[U_s] bounds, in the shard's history_row, of each user's entries up to the last of train.

        Under the random split other periods' entries stand between; Store.train tells them apart.
        Where rows of train are not trained on, users without others have no entries, and those of
        the others begin `context` entries before the first that is trained on.
        """
        rows = self._entry_rows(shard)
        user = self.movelines.user[rows]
        _, begin, inverse = np.unique(user, return_index=True, return_inverse=True)
        end = begin.copy()
        train = np.flatnonzero(self.split[rows] == splits.TRAIN)
        np.maximum.at(end, inverse[train], train + 1)
        trained = np.flatnonzero(self.trained[rows])
        if len(trained) < len(train):
            first = end.copy()
            np.minimum.at(first, inverse[trained], trained)
            begin = np.where(first < end, np.maximum(begin, first - context), end)
        return begin, end

    def entry_users(self, shard: int) -> np.ndarray:
        """[U_s] the users whose bounds `train_entries` gives."""
        return np.unique(self.movelines.user[self._entry_rows(shard)])

    def _entry_rows(self, shard: int) -> np.ndarray:
        """[M_s] rows of movelines that the shard's history_row lists."""
        rows = self.shard_rows[shard]
        return rows[of_rows(self.eligible, rows)]


def build_dataset(
    movelines: Movelines,
    *,
    split: str,
    time_zone: str = "UTC",
    train_share: float,
    validation_share: float,
    history: str,
    ties: str,
    label_share: float = 1.0,
    label_scenes: str = "",
    negatives: int = 0,
    negatives_exclude: str = "user",
    negatives_days: float = 0.0,
    fixed_shapes: bool = False,
    seed: int,
    num_shards: int = 1,
    local_shards: Sequence[int] = (0,),
) -> Dataset:
    """Splits a store and lays it out for `num_shards` devices.

    Args:
      movelines: the store.
      split: kind of split, see splits.assign_splits, as are time_zone and the two shares.
      history: see history_bounds.
      ties: see histories.visible_rows.
      label_share: share of the train labels that rankers may use; movelines stay complete.
      label_scenes: scenes whose labels rankers may use, in every period; see labels.of_scenes.
      negatives, negatives_exclude, negatives_days: see negatives.sample_negatives; sampled rows are
        in the period of their event.
      fixed_shapes: whether sizes do not depend on where the split cuts the log: id tables have a
        row for each item and user of the store, and the shards' stores are padded to powers of two
        that have room for all events.
      seed: of the random split, of the label sample and of sampled negatives.
      num_shards: devices of the whole run; local_shards: those of this process.

    Raises:
      ConfigError: for a bad choice.
      DataError: for an empty period, fewer users than devices, or a data set that spans more
        seconds than int32 holds.
    """
    whole, movelines = movelines, dates.before_end(movelines, split, time_zone)
    require_shardable(movelines, num_shards)
    ranked = labels.of_scenes(movelines, label_scenes)  # histories have the complete store
    period = splits.assign_splits(ranked, split, train_share, validation_share, seed, time_zone)
    train = period == splits.TRAIN
    label = _labels_of_rankers(ranked.label, train, label_share, seed)
    seen_item = np.bincount(movelines.item[train], minlength=movelines.num_items + 1) > 0
    seen_user = np.bincount(movelines.user[train], minlength=movelines.num_users) > 0
    drawn = (negatives, negatives_exclude, seed, negatives_days)
    complete, source = sample_negatives(movelines, *drawn)
    period, sampled = period[source], np.append(np.diff(source) == 0, False)
    label = np.where(label[source] == NO_LABEL, np.int8(NO_LABEL), complete.label)
    movelines = dataclasses.replace(complete, label=label)
    trained = dates.trained_rows(movelines, period == splits.TRAIN, split, time_zone)
    items, item_sizes = item_tables(movelines, seen_item, every=fixed_shapes)
    users, user_sizes = with_ids(movelines.user_features, seen_user, every=fixed_shapes)
    bounds = visible_rows(complete, period, ties)
    columns = history_bounds(complete, history, bounds, sampled)
    largest, room = (whole, whole.num_events // num_shards) if fixed_shapes else (movelines, None)
    shards, stores = lay_out(complete, trained, columns, users, num_shards, local_shards, room)
    return Dataset(
        movelines=movelines,
        split=period,
        trained=trained,
        items=items,
        item_sizes=item_sizes,
        user_sizes=user_sizes,
        num_scenes=int(largest.scene.max()),
        num_actions=int(largest.action.max()),
        shard_rows=shards,
        eligible=columns[0],
        sampled=sampled,
        event_label=complete.label,
        stores=stores,
        local_shards=tuple(local_shards),
        seen_item=seen_item,
        seen_user=seen_user,
        visible=bounds[0],
        cut=bounds[1],
        num_labels=count_labels(period, label),
    )


def _labels_of_rankers(label: np.ndarray, train: np.ndarray, share: float, seed: int) -> np.ndarray:
    """[E] int8, the labels with a share of those of train [E]; ConfigError if it is too small."""
    found = labels.share_of_train(label, train, share, np.random.default_rng(seed))
    labels.require_share(share, *(int((x[train] != NO_LABEL).sum()) for x in (label, found)))
    return found


def count_labels(split: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Dataset.num_labels of periods [E] and labels [E]."""
    kept = label != NO_LABEL
    return np.bincount(2 * split[kept] + label[kept], minlength=6).reshape(3, 2)


def with_statistics(dataset: Dataset, kinds: Iterable[str], fixed_shapes: bool = False) -> Dataset:
    """The data set with count features that read the labels of "all" events, as generators do, or
    those "labelled" for rankers, or both; fixed_shapes as in `build_dataset`."""
    read = {"all": dataset.event_label, "labelled": dataset.movelines.label}
    found = {
        kind: row_statistics(
            dataset.movelines,
            read[kind],
            dataset.sampled,
            dataset.split,
            (dataset.visible, dataset.cut),
            dataset.shard_rows,
            dataset.local_shards,
            dataset.stores.item.shape[1],
            power_of_two if fixed_shapes else int,
        )
        for kind in kinds
    }
    return dataclasses.replace(dataset, statistics=found)
