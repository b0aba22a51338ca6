"""The service without HTTP: JSON objects in, JSON objects out."""

import math
from collections.abc import Mapping
from typing import Any

from nif_jax.serve.batcher import FEW, Batcher, Kind
from nif_jax.serve.errors import ServiceError
from nif_jax.serve.inputs import Inputs, ScoreInput
from nif_jax.serve.limits import Limits
from nif_jax.serve.metrics import Metrics
from nif_jax.serve.states import MemoryStates, Record, States
from nif_jax.serve.work import OfUser, Work
from nif_jax.serving.model import Model


class Service:
    """Endpoints of a model. Its methods raise ServiceError.

    Attributes:
      limits, metrics, states: see their classes.
      in_progress: requests that have been accepted and not answered.
    """

    def __init__(self, model: Model, states: States, limits: Limits, about: Mapping[str, str]):
        """Takes a model that is warm (see warm_up.py), and what GET /health shows of it."""
        self.limits, self.states, self.metrics = limits, states, Metrics()
        self._inputs = Inputs(limits, model.vocabulary.profile)
        self._about, self.in_progress = dict(about), 0
        work = Work(model, limits.state_events)
        kinds = {
            "score": Kind(work.score, limits.batch),
            "score_state": Kind(work.score_states, FEW),
            "recommend": Kind(work.recommend, FEW),
            "events": Kind(work.update, FEW),
        }
        self._batcher = Batcher(kinds, self.metrics)
        self._add_gauges()

    def _add_gauges(self) -> None:
        gauge, batcher, states = self.metrics.gauge, self._batcher, self.states
        gauge("nif_jax_requests_in_progress", "Requests.", lambda: self.in_progress)
        gauge("nif_jax_requests_waiting", "Requests in no batch yet.", lambda: batcher.waiting)
        if isinstance(states, MemoryStates):
            gauge("nif_jax_state_users", "Users with a state in memory.", lambda: len(states))
            gauge("nif_jax_state_bytes", "Bytes of these states.", lambda: states.nbytes)

    def start(self) -> None:
        """Begins to answer; called on the event loop."""
        self._batcher.start()

    async def stop(self) -> None:
        """Ends."""
        await self._batcher.stop()
        await self.states.close()

    def require_place(self) -> None:
        """Raises ServiceError (429) if as many requests as may be are in progress, or more than are
        likely to be answered in half of the time that each has."""
        limits, wait = self.limits, self.in_progress * self._batcher.request_seconds
        if self.in_progress >= limits.requests or wait > limits.seconds / 2:
            seconds = max(1, math.ceil(wait))
            raise ServiceError(
                429, "too many requests are in progress; send it again later", None, seconds
            )

    async def score(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """POST /score."""
        given = self._inputs.score(body)
        rows = len(given.row["items"])
        if given.state:
            answer = await self._batcher.submit("score_state", await self._of_user(given), rows)
        else:
            answer = await self._batcher.submit("score", given, rows)
        self.metrics.candidates.inc(rows)
        return answer

    async def recommend(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """POST /recommend."""
        given = self._inputs.recommend(body)
        one = await self._of_user(given) if given.state else OfUser(given, None)
        return await self._batcher.submit("recommend", one)

    async def events(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """POST /events."""
        given, new = self._inputs.events(body), 0

        async def change(record: Record | None) -> tuple[Record | None, int]:
            nonlocal new
            changed, count = await self._batcher.submit("events", OfUser(given, record))
            # A store that does it again may find that the first time has succeeded.
            new = max(new, count)
            return (changed if count else None), changed.state.size

        size = await self.states.update(given.user_id, change)
        self.metrics.events.inc(new)
        return {"applied": new, "events": size}

    async def health(self) -> dict[str, str]:
        """GET /health."""
        return {"status": "ok", **self._about, "states": await self.states.status()}

    async def _of_user(self, given: ScoreInput) -> OfUser:
        return OfUser(given, await self.states.read(given.row["user_id"]))
