"""From the JSON of a request to what the model thread works on; types and limits are checked here.

Whether names and times are those of the artefact's data is checked where they become numbers.
"""

import dataclasses
import re
import uuid
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from nif_jax.requests.objects import Event, Request, RequestError, as_events, as_row
from nif_jax.serve.errors import ServiceError
from nif_jax.serve.limits import MOST_RECOMMENDED, USER_ID, Limits

REQUEST = tuple(field.name for field in dataclasses.fields(Request))
SCORE = (*REQUEST, "state")
RECOMMEND = (*(name for name in REQUEST if name != "items"), "state", "k", "exclude_seen")
EVENTS = ("user_id", "events", "profile", "id", "after", "reset")
FIELDS = tuple(dict.fromkeys((*SCORE, *RECOMMEND, *EVENTS)))
_FIELD = re.compile(rf"\b({'|'.join(FIELDS)})\b")


@dataclasses.dataclass(frozen=True)
class ScoreInput:
    """A request as a row of a table, and whether it reads the state of its user."""

    row: dict[str, Any]
    state: bool


@dataclasses.dataclass(frozen=True)
class RecommendInput(ScoreInput):
    """The same, the number of items, and whether those of the moveline are left out."""

    k: int
    exclude_seen: bool


@dataclasses.dataclass(frozen=True)
class EventsInput:
    """Events of a user.

    Attributes:
      user_id: of the state.
      events: in order of time.
      profile: user feature -> value; None = as before.
      id: of the call: one that is done again is not applied again.
      after: events that the state has to have before; None = any number.
      reset: whether the state begins anew.
    """

    user_id: str
    events: Sequence[Event]
    profile: Mapping[str, str] | None
    id: str
    after: int | None
    reset: bool


class Inputs:
    """Reads the JSON of each endpoint; every method raises ServiceError."""

    def __init__(self, limits: Limits, features: Collection[str]):
        """Takes the names of the user features."""
        self._limits, self._features = limits, sorted(features)

    def score(self, body: Mapping[str, Any]) -> ScoreInput:
        """Of POST /score."""
        _require_fields(body, SCORE)
        state = _flag(body, "state")
        _require_at_most(body, "items", self._limits.items)
        return ScoreInput(self._row(body, state, REQUEST), state)

    def recommend(self, body: Mapping[str, Any]) -> RecommendInput:
        """Of POST /recommend."""
        _require_fields(body, RECOMMEND)
        state, k = _flag(body, "state"), _whole(body, "k", 10)
        if k is None or not 1 <= k <= MOST_RECOMMENDED:
            raise ServiceError(422, f"k is {k}; give 1 to {MOST_RECOMMENDED}", "k")
        row = self._row(body, state, REQUEST)
        return RecommendInput(row, state, k, _flag(body, "exclude_seen", True))

    def events(self, body: Mapping[str, Any]) -> EventsInput:
        """Of POST /events."""
        _require_fields(body, EVENTS)
        events = body.get("events")
        _require_at_most(body, "events", self._limits.events)
        if not events:
            raise ServiceError(422, f"events is {events!r}; give a list of events", "events")
        after = _whole(body, "after", None)
        if after is not None and after < 0:
            raise ServiceError(422, f"after is {after}; give a number of events", "after")
        user, profile = _text(body, "user_id"), body.get("profile")
        if user is None:
            raise ServiceError(422, "user_id is missing; give the user of the events", "user_id")
        if profile is not None:
            profile = self._profile(profile)
        try:
            rows = as_events("events", events)
        except RequestError as error:
            raise unusable(str(error)) from error
        found = [Event(**row) for row in rows]
        number = _text(body, "id") or uuid.uuid4().hex
        return EventsInput(user, found, profile, number, after, _flag(body, "reset"))

    def _row(self, body: Mapping[str, Any], state: bool, fields: Collection[str]) -> dict[str, Any]:
        """The row of a request, whose moveline is empty where the state has it."""
        _require_at_most(body, "moveline", self._limits.moveline)
        given = {name: body[name] for name in fields if name in body}
        if state:
            for name in ("moveline", "until", "profile"):
                if given.get(name) is not None:
                    raise ServiceError(
                        422, f"{name} is given, but the state has it; leave out either", name
                    )
            if _text(body, "user_id") is None:
                raise ServiceError(422, "user_id is missing; give the user of the state", "user_id")
            given["moveline"] = []
        if given.get("profile") is not None:
            given["profile"] = self._profile(given["profile"])
        try:
            return as_row("request", given)
        except RequestError as error:
            raise unusable(str(error).removeprefix("request: ")) from error

    def _profile(self, profile: Any) -> dict[str, str]:
        """Features that there are, with values that are text."""
        if not isinstance(profile, Mapping):
            raise ServiceError(422, f"profile is {profile!r}; give {{feature: value}}", "profile")
        try:
            row = as_row("request", {"profile": profile})
        except RequestError as error:
            raise unusable(str(error).removeprefix("request: ")) from error
        for name in profile:
            if name not in self._features:
                choices = ", ".join(self._features) or "none"
                raise ServiceError(
                    422,
                    f"profile: there is no user feature {name!r}; choose from {choices}",
                    "profile",
                )
        return {name: row[name] for name in profile if row[name] is not None}


def unusable(reason: str) -> ServiceError:
    """Of a request whose fields cannot be used; the reason names the field first."""
    found = _FIELD.search(reason)
    return ServiceError(422, reason, found[0] if found else None)


def _require_fields(body: Mapping[str, Any], fields: Sequence[str]) -> None:
    for name in body:
        if name not in fields:
            choices = ", ".join(fields)
            raise ServiceError(422, f"there is no field {name!r}; choose from {choices}", name)


def _require_at_most(body: Mapping[str, Any], name: str, most: int) -> None:
    value = body.get(name)
    if isinstance(value, list) and len(value) > most:
        raise ServiceError(422, f"{name} has {len(value)} entries; give at most {most}", name)


def _flag(body: Mapping[str, Any], name: str, default: bool = False) -> bool:
    value = body.get(name, default)
    if not isinstance(value, bool):
        raise ServiceError(422, f"{name} is {value!r}; give true or false", name)
    return value


def _whole(body: Mapping[str, Any], name: str, default: int | None) -> int | None:
    value = body.get(name, default)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise ServiceError(422, f"{name} is {value!r}; give a whole number", name)
    return value


def _text(body: Mapping[str, Any], name: str) -> str | None:
    """Text of 1 to USER_ID characters, or a whole number written out."""
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not 1 <= len(value) <= USER_ID:
        raise ServiceError(
            422, f"{name} is {value!r}; give text of 1 to {USER_ID} characters", name
        )
    return value
