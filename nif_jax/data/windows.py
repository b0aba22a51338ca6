"""The columnar store as arrays, and histories gathered from it by index arithmetic.

Every function here runs on NumPy arrays on the host and on JAX arrays inside jit: it uses the
namespace of its argument. Letters: E events, M entries, B batch, L window length, T horizon.
"""

from typing import Any, NamedTuple

from nif_jax.data.buckets import gap_bucket, log2_bucket
from nif_jax.data.row_statistics import gather_statistics

Array = Any  # numpy.ndarray or jax.Array


class Store(NamedTuple):
    """Columns of one shard's users, rows sorted by (user, time).

    Attributes:
      item: [E] int32 in 1..N.
      scene: [E] int32 in 1..S.
      action: [E] int32 in 1..A, what the user did; never an input of its own prediction.
      time: [E] int32 seconds since the data set's first event.
      label: [E] float32 (int8 in a large log), 1 or 0, or NO_LABEL (such rows are in no plan of
        impressions).
      train: [E] bool, the row belongs to the train period and is trained on (dates.trained_rows).
      user: [E] int32 row of user_features.
      user_features: feature name -> [U] int32.
      history_row: [M] int32, the rows that may stand in a history, in store order.
      history_begin: [E] int32, where the row's user begins in history_row.
      history_end: [E] int32, one past the last entry that the row may see ("online").
      frozen_end: [E] int32, the same for a history that ends where the row's period begins.
      order_only: [E] bool, the time sorts the row and is not known: gaps from and to it are 0.
    """

    item: Array
    scene: Array
    action: Array
    time: Array
    label: Array
    train: Array
    user: Array
    user_features: dict[str, Array]
    history_row: Array
    history_begin: Array
    history_end: Array
    frozen_end: Array
    order_only: Array


class Window(NamedTuple):
    """A history, most recent last, padded in front; every id is 0 where mask is False.

    Attributes:
      item: [B, L] int32.
      scene: [B, L] int32.
      action: [B, L] int32.
      gap: [B, L] int32 bucket of a time gap; which one says the function that gathers.
      mask: [B, L] bool, True = real.
    """

    item: Array
    scene: Array
    action: Array
    gap: Array
    mask: Array


class Impressions(NamedTuple):
    """A batch of impressions with what is known before each.

    Attributes:
      item: [B] int32, the candidate.
      scene: [B] int32.
      label: [B] float32.
      weight: [B] float32, 0 for padding.
      user_features: feature name -> [B] int32.
      recency: [B] int32 gap bucket from the last history entry to the impression, 0 without one.
      history_length: [B] int32, log2 bucket of the number of entries before the row.
      history: Window of the last L entries; gap = from the entry to the impression.
      entry: [B] int32 place in history_row of the last history entry, 0 without one.
      flow: [B, T, D] float32 cached Next Interest Flow after the last entry, or None.
      flow_mask: [B] bool, False where there is no history.
      events: Window of the last S entries as the generator reads them, where flow is not cached.
      pair: [B // 2] float32, 1 where rows 2j (positive) and 2j + 1 (negative) are a TSP pair.
      past: [B, S, 2, H, d] keys and values of the generator's label head, of the last S
        entries, or None.
      past_mask: [B, S] bool, which of them are real, or None.
      label_logit: [B] float32, the frozen generator's log odds that the label is 1, or None.
      statistics: [B, F] float32 standardised count features, or None; see data/statistics.py.
    """

    item: Array
    scene: Array
    label: Array
    weight: Array
    user_features: dict[str, Array]
    recency: Array
    history_length: Array
    history: Window
    entry: Array
    flow: Array | None
    flow_mask: Array
    events: Window | None
    pair: Array
    past: Array | None = None
    past_mask: Array | None = None
    label_logit: Array | None = None
    statistics: Array | None = None


def _last_entries(begin: Array, end: Array, length: int) -> tuple[Array, Array]:
    """[B, L] the last places of history_row[begin:end], and which of them are real."""
    xp = begin.__array_namespace__()
    position = end[:, None] + xp.arange(-length, 0, dtype=xp.int32)
    return position, position >= begin[:, None]


def _window(store: Store, entry: Array, mask: Array, joined: Array) -> tuple[Window, Array]:
    """Entries [B, L] of history_row as a Window, and their times [B, L]; gap = seconds since the
    entry before (bucketed), 0 where a time is not known or joined [B, L - 1] is False."""
    xp = entry.__array_namespace__()
    row = store.history_row[xp.where(mask, entry, 0)]
    time = store.time[row]
    # The entry before is a neighbour in the window: no second gather.
    timed = ~store.order_only[row]
    gap = gap_bucket(time[:, 1:] - time[:, :-1], joined & timed[:, 1:] & timed[:, :-1])
    gap = xp.concatenate([xp.zeros_like(time[:, :1]), gap], axis=1)
    item, scene, action = (
        xp.where(mask, column[row], 0) for column in (store.item, store.scene, store.action)
    )
    return Window(item, scene, action, gap, mask), time


def gather_history(store: Store, begin: Array, end: Array, length: int) -> tuple[Window, Array]:
    """The last L = `length` entries of history_row[begin:end], for each pair of bounds [B] int32;
    end <= begin gives an empty window.

    Returns:
      The Window, gap = seconds since the entry before in the window (bucketed, 0 for the first),
      and the entries' times, [B, L] int32.
    """
    position, mask = _last_entries(begin, end, length)
    return _window(store, position, mask, mask[:, 1:] & mask[:, :-1])


def gather_segments(store: Store, entry: Array, segment: Array) -> tuple[Window, Array]:
    """Windows side by side, as SequencePlan lays them out.

    Args:
      store: the shard.
      entry: [B, L] int32 places in history_row.
      segment: [B, L] int32, which window of the row a place belongs to; 0 is padding.

    Returns:
      As gather_history; the first entry of each segment has gap 0.
    """
    mask = segment > 0
    return _window(store, entry, mask, mask[:, 1:] & (segment[:, 1:] == segment[:, :-1]))


def history_bounds(store: Store, index: dict[str, Array]) -> tuple[Array, Array]:
    """[B] begin and end of what each row may see: never itself, never a later row.

    By index["frozen"] [B] bool a plan asks for histories that end where the row's period begins.
    """
    rows = index["row"]
    end = store.history_end[rows]
    if "frozen" in index:
        xp = rows.__array_namespace__()
        end = xp.where(index["frozen"], store.frozen_end[rows], end)
    return store.history_begin[rows], end


def gather_past(
    store: Store, index: dict[str, Array], past: Array, length: int
) -> tuple[Array, Array]:
    """What each row may see of an array that holds something for every history entry.

    Args:
      store: the shard.
      index: see history_bounds.
      past: [M, ...].
      length: S.

    Returns:
      [B, S, ...] of the last S entries, and [B, S] bool which of them are real.
    """
    position, mask = _last_entries(*history_bounds(store, index), length)
    return past[position * mask], mask


def windows_before(
    store: Store, begin: Array, end: Array, time: Array, timed: Array, length: int
) -> Window:
    """The last `length` entries of history_row[begin:end], with gap = seconds from the entry to
    `time` [B] int32 (bucketed), 0 where that is not `timed` [B] bool; see gather_history."""
    xp = begin.__array_namespace__()
    window, entered = gather_history(store, begin, end, length)
    position, mask = _last_entries(begin, end, length)
    known = mask & ~store.order_only[store.history_row[xp.where(mask, position, 0)]]
    return window._replace(gap=gap_bucket(time[:, None] - entered, known & timed[:, None]))


def gather_windows(store: Store, index: dict[str, Array], length: int) -> Window:
    """The last `length` entries that each row of an index may see, see windows_before."""
    rows = index["row"]
    bounds, timed = history_bounds(store, index), ~store.order_only[rows]
    return windows_before(store, *bounds, store.time[rows], timed, length)


def gather_impressions(
    store: Store,
    index: dict[str, Array],
    length: int,
    flow: Array | None = None,
    context: int = 0,
    statistics: dict[str, Array] | None = None,
) -> Impressions:
    """Batch from row numbers.

    Args:
      store: the shard.
      index: "row" [B] int32, "weight" [B] float32, "pair" [B // 2] float32, and see
        history_bounds.
      length: L.
      flow: [M, T, D] flow after each history entry, or None.
      context: S of the generator's window where the flow is to be computed from it, or 0.
      statistics: arguments of gather_statistics, or None.
    """
    rows = index["row"]
    xp = rows.__array_namespace__()
    history = gather_windows(store, index, length)
    begin, end = history_bounds(store, index)
    entry = xp.maximum(end - 1, 0)
    return Impressions(
        item=store.item[rows],
        scene=store.scene[rows],
        label=store.label[rows].astype(xp.float32),
        weight=index["weight"],
        user_features={k: v[store.user[rows]] for k, v in store.user_features.items()},
        recency=history.gap[:, -1],
        history_length=log2_bucket(end - begin),
        history=history,
        entry=entry,
        flow=None if flow is None else flow[entry],
        flow_mask=end > begin,
        events=gather_history(store, begin, end, context)[0] if context else None,
        pair=index["pair"],
        statistics=None if statistics is None else gather_statistics(index, **statistics),
    )
