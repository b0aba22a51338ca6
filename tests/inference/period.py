"""The test period of a run as requests."""

import numpy as np

from nif_jax.experiment import evaluation
from nif_jax.requests.objects import Event, Request


def event(lines, label, row):
    """An event of a store."""
    names = lines.vocabulary
    return Event(
        item_id=names["item"][lines.item[row] - 1],
        timestamp=int(lines.time[row]),
        scene=names["scene"][lines.scene[row] - 1],
        action=names["action"][lines.action[row] - 1],
        label=int(label[row]),
    )


def rows_of(run):
    """[R] test impressions in the order of scores.npz."""
    return np.sort(evaluation.test_plan(run, "online").rows)


def given(run, history):
    """A request with its moveline for each test impression."""
    data, lines = run.dataset, run.dataset.movelines
    rows = rows_of(run)
    end = {"online": data.visible, "frozen": data.cut}[history][rows]
    begin = lines.user_offsets[lines.user[rows]]
    return [
        Request(
            timestamp=int(lines.time[row]),
            scene=lines.vocabulary["scene"][lines.scene[row] - 1],
            items=[lines.vocabulary["item"][lines.item[row] - 1]],
            user_id=lines.vocabulary["user"][lines.user[row]],
            moveline=[event(lines, data.event_label, r) for r in range(first, last)],
        )
        for row, first, last in zip(rows, begin, end, strict=True)
    ]


def by_name(run):
    """Of each test impression, columns of a table of requests without movelines, and [R] bool, the
    moment alone tells what the impression may see: no other event of the user is at its second."""
    lines, rows = run.dataset.movelines, rows_of(run)
    names = lines.vocabulary
    moment = lines.user.astype(np.int64) * 2**40 + lines.time
    _, place, count = np.unique(moment, return_inverse=True, return_counts=True)
    columns = {
        "user_id": names["user"][lines.user[rows]],
        "item_id": names["item"][lines.item[rows] - 1],
        "timestamp": lines.time[rows],
        "scene": names["scene"][lines.scene[rows] - 1],
    }
    return columns, count[place[rows]] == 1
