"""Sample requests of a model, for its artefact and for parity checks."""

from typing import Any

import numpy as np

from nif_jax.requests.encode import Encoder
from nif_jax.requests.log import Rows
from nif_jax.requests.vocabulary import Vocabulary

SAMPLES, EVENTS = 4, 20
"""Users of the sample requests, and events of their movelines at most."""
ITEMS = 7
"""Known items of a request, about."""


def sample_requests(names: Vocabulary, encoder: Encoder) -> list[dict[str, Any]]:
    """Known users, the same with given movelines, and an unknown user; known and unknown items."""
    log = encoder.log
    items = [str(x) for x in names.item[:: max(1, len(names.item) // ITEMS)]] + ["an unknown item"]
    found = []
    for user in np.unique(np.linspace(0, len(names.user) - 1, SAMPLES).astype(int)):
        rows = np.arange(*log.offsets[user : user + 2])
        rows = rows[log.rows.event[rows]]
        if not len(rows):
            continue
        moment = {
            "timestamp": int(log.rows.time[rows[-1]]) + 60,
            "scene": str(names.scene[log.rows.scene[rows[-1]] - 1]),
            "items": items,
            "user_id": str(names.user[user]),
        }
        events = [event_of(names, log.rows, row) for row in rows[-EVENTS:]]
        found += [moment, moment | {"moveline": events}]
    profile = {name: str(values[0]) for name, values in names.profile.items() if len(values)}
    return [*found, found[0] | {"user_id": None, "moveline": [], "profile": profile}]


def event_of(names: Vocabulary, rows: Rows, row: int) -> dict[str, Any]:
    """A row of the run's data as an event of a request."""
    return {
        "item_id": str(names.item[rows.item[row] - 1]),
        "timestamp": int(rows.time[row]),
        "scene": str(names.scene[rows.scene[row] - 1]),
        "action": str(names.action[rows.action[row] - 1]),
        "label": int(rows.label[row]),
    }
