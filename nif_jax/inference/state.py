"""The state of a user that grows by one event at a time; see Model.new_state.

Letters: E rows that there is space for.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from nif_jax.data.buckets import gap_bucket
from nif_jax.data.schema import NO_LABEL
from nif_jax.inference.batching import pieces
from nif_jax.inference.functions import Arrays, Functions
from nif_jax.models.flow_step import FlowState, add_event, empty_state, flow_of
from nif_jax.requests.encode import Encoder, generator_windows
from nif_jax.requests.events import number_event
from nif_jax.requests.log import Lines, Log, Rows, store_of
from nif_jax.requests.numbered import Numbered
from nif_jax.requests.objects import Event, RequestError
from nif_jax.requests.vocabulary import Vocabulary

SPACE = 64
"""Rows that a state begins with; where they are full, there is space for twice as many."""


class UserState(NamedTuple):
    """A user as plain arrays and numbers.

    Attributes:
      user_features: feature -> [1] int32.
      rows: [E] the events so far, of which the first `size` are real.
      size: events so far.
      entries: those of them that stand in a history; last: second of the last one.
      generator: keys and values of the flow generator, or None for a variant that has none, or
        whose windows are no chunks (config.flow.cache=False).
    """

    user_features: Mapping[str, np.ndarray]
    rows: Rows
    size: int
    entries: int
    last: int
    generator: FlowState | None


def empty_rows() -> Rows:
    """SPACE rows."""
    kinds = [np.int32, np.int32, np.int32, np.int64, np.int8, np.int8, bool, bool, bool]
    return Rows(*(np.zeros(SPACE, kind) for kind in kinds))


def append(
    state: UserState, event: Event, vocabulary: Vocabulary, log: Log
) -> tuple[UserState, np.ndarray | None]:
    """The state with one more event, but its generator's.

    Args:
      state: before it. Its rows are written to, so that the event costs the same whenever it comes:
        use the returned state from here on.
      event: at the second of the last one or later.
      vocabulary: of the run.
      log: of the run.

    Returns:
      The state, and [6] int32 for the generator: number of earlier entries, item, scene, action,
      seconds since the entry before and 1, or 0 and 0 for the first one. None for an event that
      stands in no history.

    Raises:
      RequestError: an event that cannot be read.
    """
    rows, size = state.rows, state.size
    last = int(rows.time[size - 1]) if size else 0
    item, scene, action, label = number_event(event, vocabulary, log.base, last)
    if size == len(rows.item):
        rows = Rows(*(np.concatenate([column, np.zeros_like(column)]) for column in rows))
    ranked = label if log.ranked_scene[scene] else NO_LABEL
    eligible = log.history == "all" or label != 0
    values = (item, scene, action, event.timestamp, label, ranked, True, eligible, False)
    for column, value in zip(rows, values, strict=True):
        column[size] = value
    found = state._replace(rows=rows, size=size + 1)
    if not eligible:
        return found, None
    gap = (event.timestamp - state.last, 1) if state.entries else (0, 0)
    found = found._replace(entries=state.entries + 1, last=event.timestamp)
    return found, np.array([state.entries, item, scene, action, *gap], np.int32)


def lines_of(state: UserState, log: Log, requests: int) -> Lines:
    """The moveline of a state, which each of some requests sees whole."""
    rows = state.rows.take(np.arange(max(state.size, 1)))  # the first is no event yet
    every = np.zeros(requests, np.int32)
    return Lines(
        rows=rows,
        user=np.zeros(len(rows.item), np.int32),
        store=store_of(log, rows),
        line=every,
        first=every.astype(np.int64),
        row=every.astype(np.int64) + state.size,
        begin=every,
        end=every + np.int32(state.entries),
    )


class StateFunctions:
    """The functions of a variant for states, compiled."""

    def __init__(self, functions: Functions, arrays: Arrays, encoder: Encoder):
        """See Model."""
        self._arrays, self._encoder, self._functions = arrays, encoder, functions
        self._steps = functions.generator is not None and encoder.chunked
        if functions.generator is not None:
            weights, vectors = functions.current_generator(arrays)
            self._generator = {"params": weights}, vectors
        self._add = jax.jit(self._add_event, donate_argnums=0)
        self._flow = jax.jit(self._flow_of)
        self._score = jax.jit(functions.score)
        self._flows = jax.jit(functions.flows)

    def new(self, user_features: Mapping[str, np.ndarray]) -> UserState:
        """The state before the first event."""
        decoder, context = self._functions.generator, self._encoder.context
        generator = empty_state(decoder, context) if self._steps and decoder else None
        return UserState(user_features, empty_rows(), 0, 0, 0, generator)

    def update(self, state: UserState, event: Event, vocabulary: Vocabulary) -> UserState:
        """See Model.update."""
        state, entry = append(state, event, vocabulary, self._encoder.log)
        if entry is None or state.generator is None:
            return state
        return state._replace(generator=self._add(state.generator, entry, *self._generator))

    def _add_event(self, state: FlowState, entry: jax.Array, weights, vectors) -> FlowState:
        assert self._functions.generator is not None
        number, item, scene, action, seconds, known = entry
        bound = self._functions.generator.bind(weights)
        gap = gap_bucket(seconds, known)
        return add_event(bound, state, number, vectors[item], scene, action, gap)

    def _flow_of(self, state: FlowState, entries: jax.Array, weights):
        assert self._functions.generator is not None
        bound = self._functions.generator.bind(weights)
        found = flow_of(bound, state, entries, self._functions.flow.horizon)
        return self._functions.rounded(*found)

    def _given(self, state: UserState) -> tuple[Any, Any, Any]:
        """Flow, past and its mask of a state whose generator is kept."""
        return self._flow(state.generator, np.int32(max(state.entries, 1)), self._generator[0])

    def flow(self, state: UserState) -> np.ndarray:
        """[T, D]; raises RequestError for a state without events in its history."""
        if not state.entries:
            raise RequestError("the state has no events: nothing follows from it")
        if state.generator is not None:
            return np.asarray(self._given(state)[0])
        lines, context = lines_of(state, self._encoder.log, 1), self._encoder.context
        windows = generator_windows(lines, context, False, False)
        return np.asarray(self._flows(self._arrays, windows, lines.end)[0][0])

    def logits(self, state: UserState, requests: Numbered) -> np.ndarray:
        """[R] logits before calibration of requests that all see the state's moveline."""
        groups = len(requests.row)
        lines = lines_of(state, self._encoder.log, groups)
        users = {name: np.repeat(ids, groups) for name, ids in state.user_features.items()}
        kept = state.generator is not None
        encoded = self._encoder.encode(requests, lines, with_windows=not kept)
        encoded = encoded._replace(batch=encoded.batch._replace(user_features=users))
        flow = [x[None] for x in self._given(state)] if kept else None
        found = []
        for piece, size in pieces(encoded):
            batch = piece.batch
            if flow is not None:
                batch = self._functions.with_flow(batch, *flow)
            logit = self._score(self._arrays, *piece._replace(batch=batch))
            found.append(np.asarray(logit)[:size])
        return np.concatenate(found)
