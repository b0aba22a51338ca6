"""The best items for a user: a shortlist by the generator, ordered by the ranker.

The shortlist is made of the items nearest to the flow's first state, or of those that beams
generate (genci). A variant without a generator ranks every item of the pool. Where the history is
empty, or beams give fewer items, the most frequent items of the run's data fill the shortlist.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from scipy.special import expit

from nif_jax.requests.encode import Encoded
from nif_jax.requests.log import Lines, lay_out
from nif_jax.requests.numbered import Numbered, take
from nif_jax.requests.objects import RequestError
from nif_jax.serving.batching import padded, size_of
from nif_jax.serving.retrieval import Pool

if TYPE_CHECKING:
    from nif_jax.serving.model import Model

REQUESTS = 128
"""Requests that are worked on at a time."""


def seen_size(count: int) -> int:
    """The power of 16 that `count` pairs of a request and an item it has seen are padded to."""
    return 16 ** max(1, -(-max(0, count - 1).bit_length() // 4))


def seen_sizes(most: int) -> list[int]:
    """Those that up to `most` pairs are padded to."""
    found = [seen_size(0)]
    while found[-1] < most:
        found.append(16 * found[-1])
    return found


def shortlist_of(k: int) -> int:
    """Items that the ranker orders, for k of them."""
    return max(100, 2 * k)


class Recommended(NamedTuple):
    """Of one request, best first.

    Attributes:
      item_id: [k] ids.
      logit: [k] float32 calibrated log odds.
    """

    item_id: list[str]
    logit: np.ndarray

    @property
    def probability(self) -> np.ndarray:
        """[k] float32 in 0..1."""
        return expit(self.logit)


class Recommender:
    """Recommends out of a fixed pool of items."""

    def __init__(self, model: "Model", candidates: Iterable[str] | None = None):
        """See Model.recommend; raises RequestError for an unknown candidate."""
        self._model, known = model, len(model.vocabulary.item)
        item = np.arange(1, known + 1, dtype=np.int32)
        if candidates is not None:
            names = list(candidates)
            item = model.vocabulary.items(pa.array(names, pa.string()))
            unknown = np.flatnonzero(item > known)
            if len(unknown):
                raise RequestError(f"candidate {names[unknown[0]]!r} is no item of the run's data")
            item = np.unique(item)
            if not len(item):
                raise RequestError("candidates is empty; give ids, or None for the catalogue")
        self._pool = Pool(item)
        rows = model.encoder.log.rows
        count = np.bincount(rows.item[rows.event], minlength=known + 1)[self._pool.item]
        self._frequent = self._pool.item[np.argsort(-count, kind="stable")]

    def recommend(
        self, requests: Numbered, k: int, exclude_seen: bool, shortlist: int
    ) -> list[Recommended]:
        """The k best items of each of some requests; see Model.recommend."""
        if k < 1:
            raise RequestError(f"k is {k}; give 1 or more")
        found: list[Recommended] = []
        for begin in range(0, len(requests.row), REQUESTS):
            part = take(requests, begin, begin + REQUESTS)
            found += self._of(part, k, exclude_seen, max(k, shortlist))
        return found

    def _of(
        self, requests: Numbered, k: int, exclude_seen: bool, shortlist: int
    ) -> list[Recommended]:
        """The k best items of numbered requests."""
        model = self._model
        lines = lay_out(model.encoder.log, requests)
        group, seen = _seen(lines) if exclude_seen else (np.zeros(0, np.int64),) * 2
        lists = self._shortlists(requests, lines, group, seen, shortlist)
        sizes = [len(items) for items in lists]
        owner = np.repeat(np.arange(len(lists)), sizes)
        item = np.concatenate(lists).astype(np.int32)
        asked = requests._replace(owner=owner, item=item)
        logit = model.logits(model.encoder.encode(asked, lines))
        names, found = model.vocabulary.item, []
        for items, own in zip(lists, np.split(logit, np.cumsum(sizes)[:-1]), strict=True):
            best = np.argsort(-own, kind="stable")[:k]
            found.append(Recommended(list(names[items[best] - 1]), own[best]))
        return found

    def _shortlists(
        self, requests: Numbered, lines: Lines, group: np.ndarray, seen: np.ndarray, count: int
    ) -> list[np.ndarray]:
        """Items of each request: `count` of them, or all where nothing retrieves."""
        left_out = [seen[group == g] for g in range(len(lines.row))]
        model = self._model
        if model.programs.flows is not None:
            rows = self._by_flow(lines, group, seen, count)
        elif model.programs.generate is not None:
            rows = self._by_beams(requests, lines, count)
        else:
            pool = self._pool.item
            return [pool[~np.isin(pool, out)] for out in left_out]
        known = lines.end > lines.begin
        found = []
        for row, has_history, out in zip(rows, known, left_out, strict=True):
            chosen = row if has_history else row[:0]
            chosen = chosen[self._pool.places(chosen) >= 0]
            chosen = chosen[~np.isin(chosen, out)]
            if len(chosen) < count:
                rest = np.concatenate([chosen, out])
                more = self._frequent[: count + len(rest)]
                more = more[~np.isin(more, rest)][: count - len(chosen)]
                chosen = np.concatenate([chosen, more])
            found.append(chosen)
        return found

    def _by_flow(self, lines: Lines, group, seen, count: int) -> list[np.ndarray]:
        """The items nearest to the first state of each flow."""
        model = self._model
        flow = model.flows_of(lines)[:, 0]
        groups, pairs = size_of(len(flow)), seen_size(len(seen))
        place = np.pad(self._pool.places(seen), (0, pairs - len(seen)), constant_values=-1)
        owner = np.pad(group, (0, pairs - len(group))).astype(np.int32)
        most = min(count, len(self._pool.item))
        best = self._pool.best(model.item_vectors, padded(flow, groups), most, owner, place)
        return [items[there] for items, there in zip(*best, strict=True)][: len(flow)]

    def _by_beams(self, requests: Numbered, lines: Lines, count: int) -> list[np.ndarray]:
        """The likeliest items by beam search."""
        model = self._model
        encoded: Encoded = model.encoder.encode(requests, lines, with_windows=False)
        most = min(count, len(model.vocabulary.item))
        history = padded(encoded.batch.history, size_of(len(lines.row)))
        assert model.programs.generate is not None
        found = np.asarray(model.programs.generate(model.arrays, history, most))
        return [row[row > 0] for row in found][: len(lines.row)]


def _seen(lines: Lines) -> tuple[np.ndarray, np.ndarray]:
    """Request and item of each event that a request sees."""
    sizes = lines.row - lines.first
    group = np.repeat(np.arange(len(sizes)), sizes)
    row = np.arange(len(group)) - np.repeat(np.cumsum(sizes) - sizes - lines.first, sizes)
    real = lines.rows.event[row]
    return group[real], lines.rows.item[row[real]]
