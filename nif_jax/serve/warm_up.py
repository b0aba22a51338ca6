"""Compiles what requests will call, in all sizes, before the service answers any."""

import dataclasses
from typing import Any

import numpy as np

from nif_jax.serve.inputs import Inputs
from nif_jax.serve.limits import Limits
from nif_jax.serve.work import OfUser, Work
from nif_jax.serving.batching import MOST_REQUESTS, SIZES, size_of
from nif_jax.serving.recommend import seen_sizes


def warm_up(work: Work, limits: Limits) -> None:
    """Scores, updates and recommends in every size that requests within the limits may have."""
    names, log = work.model.vocabulary, work.model.encoder.log
    any_size = dataclasses.replace(limits, items=SIZES[-1], moveline=2**31)
    inputs = Inputs(any_size, names.profile)
    moment: dict[str, Any] = {"timestamp": work.model.base, "scene": str(names.scene[0])}
    item = str(names.item[0])
    given = moment | {"user_id": "", "moveline": []}
    most = size_of(min(limits.batch, MOST_REQUESTS))
    for rows in SIZES:
        for requests in SIZES:
            if requests <= min(rows, most):
                sizes = [1] * (requests - 1) + [rows - requests + 1]
                work.score([inputs.score(given | {"items": [item] * size}) for size in sizes])
    event = moment | {"item_id": item, "action": str(names.action[0]), "label": 0}
    of_user = {"user_id": "a user"}
    record = None
    for _ in range(2):
        (found,) = work.update([OfUser(inputs.events(of_user | {"events": [event] * 2}), record)])
        record = found[0]
    with_state = moment | of_user | {"state": True}
    for rows in SIZES:
        asked = inputs.score(with_state | {"items": [item] * rows})
        work.score_states([OfUser(asked, record)])
    longest = int(np.diff(log.offsets).max(initial=0))
    for seen in seen_sizes(max(longest, limits.moveline, limits.state_events)):
        asked = inputs.recommend(given | {"moveline": [event] * seen})
        work.recommend([OfUser(asked, None)])
