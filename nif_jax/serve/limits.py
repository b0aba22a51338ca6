"""How much a request, and all of them together, may take."""

import dataclasses

USER_ID = 256
"""Characters of a user_id whose state is kept, and of the id of events."""
MOST_RECOMMENDED = 50
"""k at most: up to there, every shortlist has the same size, so that no request compiles."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """The defaults of the command line.

    Attributes:
      requests: in progress at a time; a further one is answered 429.
      seconds: until a request is answered 504.
      body: bytes.
      items: candidates of a request.
      moveline: events of a given moveline.
      events: of a call of /events.
      state_events: events of a state.
      batch: requests that are scored together.
    """

    requests: int = 256
    seconds: float = 5.0
    body: int = 1 << 20
    items: int = 2000
    moveline: int = 2000
    events: int = 256
    state_events: int = 10_000
    batch: int = 128
