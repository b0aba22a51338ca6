"""Batches of the flow generator: windows of movelines, and the labels that they hold."""

from collections.abc import Mapping
from typing import NamedTuple

from nif_jax.data.buckets import gap_bucket
from nif_jax.data.schema import NO_LABEL
from nif_jax.data.windows import Array, Store, Window, gather_segments


class LabelQueries(NamedTuple):
    """Impressions whose labels are predicted at an entry: its own, and those sampled for it.

    Attributes:
      item: [B, S, 1 + n] int32, 0 where the label is not to be learned.
      scene: [B, S, 1 + n] int32.
      gap: [B, S, 1 + n] int32 bucket of the time since the entry before.
      label: [B, S, 1 + n] float32, 1 or 0, NO_LABEL where the label is unknown or not to be
        learned.
    """

    item: Array
    scene: Array
    gap: Array
    label: Array


class Sequences(NamedTuple):
    """A batch of moveline windows, one or several side by side in a row.

    Attributes:
      window: Window [B, S], gap = time since the entry before.
      segment: [B, S] int32, which window of its row an entry belongs to; 0 is padding.
      seconds: [B, S] int32 time of each entry.
      in_train: [B, S] bool, the entry belongs to the train period.
      is_target: [B, S] bool, the entry is to be predicted: those of the train period, or the
        positive ones of them.
      label_queries: LabelQueries, whose first impressions are the entries themselves.
    """

    window: Window
    segment: Array
    seconds: Array
    in_train: Array
    is_target: Array
    label_queries: LabelQueries


def gather_sequences(targets: str, sampled: int, arrays, index: Mapping[str, Array]) -> Sequences:
    """Windows from "entry" and "segment" [B, S], see SequencePlan, where n impressions were sampled
    for each event (config.data.negatives)."""
    store, entry, segment = arrays["store"], index["entry"], index["segment"]
    row = store.history_row[entry]
    window, seconds = gather_segments(store, entry, segment)
    in_train = window.mask & store.train[row]
    queries = _gather_label_queries(store, entry, in_train, sampled)
    is_target = in_train & (queries.label[..., 0] > 0) if targets == "positive" else in_train
    return Sequences(window, segment, seconds, in_train, is_target, queries)


def _gather_label_queries(
    store: Store, entry: Array, in_train: Array, sampled: int
) -> LabelQueries:
    """Impressions of entries [B, S]: sampled ones stand right before their event, and in no
    history."""
    xp = entry.__array_namespace__()
    back = xp.arange(1 + sampled, dtype=xp.int32)
    row = store.history_row[entry][..., None] - back
    before = store.history_row[xp.maximum(entry - 1, 0)][..., None]
    # An event for which fewer were found has others right before it.
    known = in_train[..., None] & ((row > before) | (back == 0))
    timed = ~(store.order_only[row] | store.order_only[before])
    gap = gap_bucket(store.time[row] - store.time[before], timed)
    label = xp.where(known, store.label[row].astype(xp.float32), NO_LABEL)
    return LabelQueries(xp.where(known, store.item[row], 0), store.scene[row], gap, label)


def within(batch: Sequences, ahead: int) -> Array:
    """[B, S - ahead] whether the entry so many places on is of the same window."""
    segment = batch.segment
    return batch.window.mask[:, :-ahead] & (segment[:, ahead:] == segment[:, :-ahead])


def targets_ahead(batch: Sequences, ahead: int) -> Array:
    """[B, S - ahead] bool, whether the entry so many places on is to be predicted from here."""
    return within(batch, ahead) & batch.is_target[:, ahead:]
