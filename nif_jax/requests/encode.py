"""From numbered requests to what models read: histories, count features, windows of the generator.

Letters: G requests, R candidates, L history, S context of the generator, F count features.
"""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from nif_jax.data.buckets import log2_bucket
from nif_jax.data.chunks import stride_of, windows_of_past
from nif_jax.data.counters import Queries
from nif_jax.data.statistics import Statistics
from nif_jax.data.windows import Impressions, Window, gather_history, windows_before
from nif_jax.requests.log import Lines, Log, lay_out
from nif_jax.requests.numbered import Numbered


class Encoded(NamedTuple):
    """Requests as arrays.

    Attributes:
      batch: Impressions of G requests; items are 0, and what comes from the generator is None.
      entries: [G] int32 length of the history, however long.
      windows: [G * C] windows of the generator, see `generator_windows`; None where none is read.
      owner: [R] int32 request of each candidate; item: [R] int32.
      statistics: [R, F] float16, or None.
    """

    batch: Impressions
    entries: np.ndarray
    windows: Window | None
    owner: np.ndarray
    item: np.ndarray
    statistics: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Encoder:
    """How requests become arrays.

    Attributes:
      log: movelines of the run's data.
      user_features: feature -> [U + 1] int32, the last row of an unknown user.
      length: L.
      statistics: count features, or None.
      ranked: whether they read the labels that rankers may use, else those of all events.
      context: S, 0 = the generator is not read.
      chunked: whether windows are those of data/chunks.py, else the last S entries.
      past: whether the keys and values of the label head are read.
    """

    log: Log
    user_features: Mapping[str, np.ndarray]
    length: int
    statistics: Statistics | None
    ranked: bool
    context: int
    chunked: bool
    past: bool

    def encode(
        self, requests: Numbered, lines: Lines | None = None, with_windows: bool = True
    ) -> Encoded:
        """The arrays of some requests.

        Args:
          requests: some.
          lines: their movelines, if they are laid out already.
          with_windows: whether the windows of the generator are wanted.
        """
        lines = lay_out(self.log, requests) if lines is None else lines
        time = (requests.time - self.log.base).astype(np.int32)
        timed = np.ones(len(time), bool)
        bounds = lines.begin, lines.end
        history = windows_before(lines.store, *bounds, time, timed, self.length)
        zeros = np.zeros(len(time), np.int32)
        batch = Impressions(
            item=zeros,
            scene=requests.scene,
            label=zeros.astype(np.float32),
            weight=np.ones(len(time), np.float32),
            user_features=self.users(requests),
            recency=history.gap[:, -1],
            history_length=log2_bucket(lines.end - lines.begin),
            history=history,
            entry=zeros,
            flow=None,
            flow_mask=lines.end > lines.begin,
            events=None,
            pair=np.zeros(0, np.float32),
        )
        windows = None
        if self.context and with_windows:
            windows = generator_windows(lines, self.context, self.chunked, self.past)
        statistics = self.count_features(lines, requests)
        owner = requests.owner.astype(np.int32)
        return Encoded(batch, lines.end - lines.begin, windows, owner, requests.item, statistics)

    def users(self, requests: Numbered) -> dict[str, np.ndarray]:
        """[G] of each feature; a given profile takes the place of the run's."""
        found = {name: values[requests.user] for name, values in self.user_features.items()}
        for name, given in requests.profile.items():
            found[name] = np.where(given < 0, found[name], given)
        return found

    def count_features(self, lines: Lines, requests: Numbered) -> np.ndarray | None:
        """[R, F] of the candidates; all of the train period is before them."""
        if self.statistics is None:
            return None
        rows, owner = lines.rows, requests.owner
        label = rows.ranked if self.ranked else rows.label
        counters = self.statistics.counters.with_movelines(
            lines.user, rows.item, rows.scene, rows.time, label, rows.event, rows.order_only
        )
        queries = Queries(
            user=lines.line[owner],
            row=lines.row[owner],
            time=requests.time[owner],
            item=requests.item,
            scene=requests.scene[owner],
            later=np.ones(len(owner), bool),
        )
        return dataclasses.replace(self.statistics, counters=counters).values(queries)


def generator_windows(lines: Lines, context: int, chunked: bool, past: bool) -> Window:
    """Windows [G * C, S] that the flow after the last entry of each moveline is computed from.

    Of each moveline, one behind the other: the window that adds the last entry; with `past` and
    `chunked` also those before it that add one of the last S entries.

    Args:
      lines: movelines.
      context: S.
      chunked: see Encoder; past likewise.
    """
    begin, end = lines.begin[:, None], lines.end[:, None]
    if chunked:
        stride = stride_of(context)
        back = np.arange(windows_of_past(context) if past else 1)
        last = ((end - begin - 1) // stride + 1 - back) * stride  # [G, C]
        first = begin + np.maximum(last - context, 0)
        end = np.minimum(end, begin + np.maximum(last, 0))
    else:
        first = np.maximum(begin, end - context)
    first, end = (x.astype(np.int32).reshape(-1) for x in np.broadcast_arrays(first, end))
    return gather_history(lines.store, first, end, context)[0]
