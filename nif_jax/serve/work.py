"""What the model thread does: batches of inputs to one answer each, an error in its place.

Every function is pure: records of states are not changed, so that a batch may be done again.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.special import expit

from nif_jax.requests.events import Given, number_event
from nif_jax.requests.log import Rows
from nif_jax.requests.numbered import Numbered, number
from nif_jax.requests.objects import RequestError, table_of
from nif_jax.serve.errors import ServiceError
from nif_jax.serve.inputs import EventsInput, RecommendInput, ScoreInput, unusable
from nif_jax.serve.limits import MOST_RECOMMENDED
from nif_jax.serve.states import IDS, Record
from nif_jax.serving.model import Model
from nif_jax.serving.recommend import shortlist_of
from nif_jax.serving.state import UserState

Answer = dict[str, Any] | ServiceError


class OfUser(NamedTuple):
    """An input and the state of its user."""

    given: Any
    record: Record | None


class Work:
    """The functions of a model."""

    def __init__(self, model: Model, state_events: int):
        """Takes a model, and the events that a state may have."""
        self.model, self._state_events = model, state_events

    def score(self, inputs: Sequence[ScoreInput]) -> list[Answer]:
        """Scores without states, all in one call of the model."""
        numbered, bad = self._number([one.row for one in inputs], True)
        logit = self.model.calibration(self.model.uncalibrated(numbered))
        # By the row of each candidate: a request gets its own scores whatever else is in the batch.
        bounds = np.searchsorted(numbered.candidate_row, np.arange(len(inputs) + 1))
        found: list[Answer] = []
        for row, one in enumerate(inputs):
            own = logit[bounds[row] : bounds[row + 1]]
            found.append(bad[row] if row in bad else _scored(own, one))
        return found

    def score_states(self, inputs: Sequence[OfUser]) -> list[Answer]:
        """Scores with the state of a user each."""
        return [self._score_state(*one) for one in inputs]

    def _score_state(self, given: ScoreInput, record: Record | None) -> Answer:
        numbered = self._of_state(given, record, True)
        if isinstance(numbered, ServiceError):
            return numbered
        assert record is not None
        logit = self.model.calibration(self.model.uncalibrated(numbered, record.state))
        return _scored(logit, given) | {"events": record.state.size}

    def recommend(self, inputs: Sequence[OfUser]) -> list[Answer]:
        """The best items for each; the moveline is that of the state where it is read."""
        found: list[Answer] = []
        for given, record in inputs:
            numbered = self._of_state(given, record, False) if given.state else None
            if numbered is None:
                numbered, bad = self._number([given.row], False)
                numbered = bad.get(0, numbered)
            elif isinstance(numbered, Numbered) and record is not None:
                numbered = _with_moveline(numbered, record.state)
            if isinstance(numbered, ServiceError):
                found.append(numbered)
                continue
            found.append(self._recommended(numbered, given))
        return found

    def _recommended(self, numbered: Numbered, given: RecommendInput) -> Answer:
        k = MOST_RECOMMENDED  # the same shortlist whatever k is
        best = self.model.recommender.recommend(numbered, k, given.exclude_seen, shortlist_of(k))[0]
        return {
            "items": best.item_id[: given.k],
            "probability": best.probability[: given.k].tolist(),
            "logit": best.logit[: given.k].tolist(),
        }

    def update(self, inputs: Sequence[OfUser]) -> list[Any]:
        """The record of each user after its events, and how many were new."""
        return [self._update(*one) for one in inputs]

    def _update(
        self, given: EventsInput, record: Record | None
    ) -> tuple[Record, int] | ServiceError:
        if record is not None and given.id in record.ids:
            return record, 0
        model, ids = self.model, record.ids if record else ()
        if record is None or given.reset:
            state = model.new_state(given.user_id, given.profile)
        else:
            state = record.state
            if given.profile is not None:
                features = model.new_state(given.user_id, given.profile).user_features
                state = state._replace(user_features=features)
        error = self._event_error(state, given)
        if error is not None:
            return error
        # Model.update writes to the rows that it is given, which others may read.
        state = state._replace(rows=Rows(*(column.copy() for column in state.rows)))
        for event in given.events:
            state = model.update(state, event)
        state = state._replace(generator=jax.tree.map(np.asarray, state.generator))
        return Record(state, (*ids, given.id)[-IDS:]), len(given.events)

    def _event_error(self, state: UserState, given: EventsInput) -> ServiceError | None:
        """Why the events cannot follow; none of them is applied then."""
        if given.after is not None and given.after != state.size:
            return ServiceError(
                409,
                f"after is {given.after}, but the state has {state.size} events; send what is "
                "missing, or all events with reset",
                "after",
            )
        if state.size + len(given.events) > self._state_events:
            return ServiceError(
                422,
                f"events: the state has {state.size} events, and holds {self._state_events} at "
                "most; send the latest ones with reset",
                "events",
            )
        model = self.model
        last = int(state.rows.time[state.size - 1]) if state.size else 0
        for place, event in enumerate(given.events):
            try:
                number_event(event, model.vocabulary, model.base, last)
            except RequestError as error:
                return unusable(f"events, event {place}: {error}")
            last = event.timestamp
        return None

    def _of_state(
        self, given: ScoreInput, record: Record | None, candidates: bool
    ) -> Numbered | ServiceError:
        """A request without moveline as numbers, for the state that it reads."""
        if record is None:
            user = given.row["user_id"]
            return ServiceError(404, f"user_id {user!r} has no state; send its events", "user_id")
        numbered, bad = self._number([given.row], candidates)
        if bad:
            return bad[0]
        state = record.state
        last = int(state.rows.time[state.size - 1])
        if given.row["timestamp"] < last:
            return ServiceError(
                422,
                f"timestamp {given.row['timestamp']} is earlier than the last event of the state, "
                f"at {last}",
                "timestamp",
            )
        return numbered

    def _number(
        self, rows: Sequence[dict[str, Any]], candidates: bool
    ) -> tuple[Numbered, dict[int, ServiceError]]:
        """The good rows as numbers, and the errors of the others."""
        model = self.model
        numbered, bad = number(table_of(rows), model.vocabulary, model.base, candidates)
        return numbered, {row: unusable(reason) for row, reason in bad}


def _scored(logit: np.ndarray, given: ScoreInput) -> dict[str, Any]:
    """The answer of one request; raises RuntimeError if it has not one score for each item."""
    if len(logit) != len(given.row["items"]):
        raise RuntimeError(f"{len(logit)} scores of {len(given.row['items'])} items")
    return {"probability": expit(logit).tolist(), "logit": logit.tolist()}


def _with_moveline(numbered: Numbered, state: UserState) -> Numbered:
    """A request whose given moveline, and whose user features, are those of a state."""
    rows = state.rows.take(np.arange(state.size))
    return numbered._replace(
        profile=state.user_features,
        sizes=np.array([state.size]),
        events=Given(rows.item, rows.scene, rows.action, rows.time, rows.label),
    )
