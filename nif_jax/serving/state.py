"""The state of a user that grows by one event at a time; see Model.new_state.

Letters: E rows that there is space for.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from nif_jax.data.schema import NO_LABEL
from nif_jax.requests.encode import Encoder, generator_windows
from nif_jax.requests.events import number_event
from nif_jax.requests.log import Lines, Log, Rows, store_of
from nif_jax.requests.numbered import Numbered
from nif_jax.requests.objects import Event, RequestError
from nif_jax.requests.vocabulary import Vocabulary
from nif_jax.serving.batching import pieces
from nif_jax.serving.programs import Programs

SPACE = 64
"""Rows that a state begins with; where they are full, there is space for twice as many."""


class UserState(NamedTuple):
    """A user as plain arrays and numbers.

    Attributes:
      user_features: feature -> [1] int32.
      rows: [E] the events so far, of which the first `size` are real.
      size: events so far.
      entries: those of them that stand in a history; last: second of the last one.
      generator: arrays of the flow generator (keys and values), or None for a variant that has
        none, or whose windows are no chunks (config.flow.cache=False).
    """

    user_features: Mapping[str, np.ndarray]
    rows: Rows
    size: int
    entries: int
    last: int
    generator: Any


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
    """The functions of a variant for states."""

    def __init__(self, programs: Programs, arrays: Any, encoder: Encoder):
        """See Model."""
        self._programs, self._arrays, self._encoder = programs, arrays, encoder

    def new(self, user_features: Mapping[str, np.ndarray]) -> UserState:
        """The state before the first event."""
        state = self._programs.state
        generator = None if state is None else state.empty()
        return UserState(user_features, empty_rows(), 0, 0, 0, generator)

    def update(self, state: UserState, event: Event, vocabulary: Vocabulary) -> UserState:
        """See Model.update."""
        state, entry = append(state, event, vocabulary, self._encoder.log)
        if entry is None or self._programs.state is None:
            return state
        generator = self._programs.state.update(self._arrays, state.generator, entry)
        return state._replace(generator=generator)

    def _given(self, state: UserState) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Flow, past and its mask, [1, ...], of a state whose generator is kept."""
        assert self._programs.state is not None
        entries = np.int32(max(state.entries, 1))
        return self._programs.state.flow(self._arrays, state.generator, entries)

    def flow(self, state: UserState) -> np.ndarray:
        """[T, D]; raises RequestError for a state without events in its history."""
        if not state.entries:
            raise RequestError("the state has no events: nothing follows from it")
        if self._programs.state is not None:
            return np.asarray(self._given(state)[0][0])
        assert self._programs.flows is not None
        lines, context = lines_of(state, self._encoder.log, 1), self._encoder.context
        windows = generator_windows(lines, context, False, False)
        return np.asarray(self._programs.flows(self._arrays, windows, lines.end)[0][0])

    def logits(self, state: UserState, requests: Numbered) -> np.ndarray:
        """[R] logits before calibration of requests that all see the state's moveline."""
        groups = len(requests.row)
        lines = lines_of(state, self._encoder.log, groups)
        users = {name: np.repeat(ids, groups) for name, ids in state.user_features.items()}
        kept = self._programs.state
        encoded = self._encoder.encode(requests, lines, with_windows=kept is None)
        encoded = encoded._replace(batch=encoded.batch._replace(user_features=users))
        flow = None if kept is None else self._given(state)
        found = []
        for piece, size in pieces(encoded):
            if kept is None or flow is None:
                logit = self._programs.score(self._arrays, *piece)
            else:
                rest = (piece.batch, piece.owner, piece.item, piece.statistics)
                logit = kept.score(self._arrays, *flow, *rest)
            found.append(np.asarray(logit)[:size])
        return np.concatenate(found)
