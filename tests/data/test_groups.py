"""Counts of events before a place, by hand."""

import numpy as np

from nif_jax.data.groups import Groups
from nif_jax.data.schema import NO_LABEL


def test_by_hand():
    # key 7: ranks 0, 2, 5 with labels 1, 0, none; key 3: rank 1 with label 1.
    groups = Groups(
        np.array([7, 3, 7, 7]),
        np.array([0, 1, 2, 5]),
        np.array([10, 11, 12, 13]),
        np.array([1, 1, 0, NO_LABEL]),
    )
    found = groups.before(np.array([7, 7, 7, 7, 3, 3, 4]), np.array([0, 1, 3, 99, 1, 2, 99]))
    assert found.events.tolist() == [0, 1, 2, 3, 0, 1, 0]
    assert found.labelled.tolist() == [0, 1, 2, 2, 0, 1, 0]
    assert found.positive.tolist() == [0, 1, 1, 1, 0, 1, 0]
    assert found.last_label.tolist() == [0, 1, -1, -1, 0, 1, 0]
    assert found.last_row.tolist() == [-1, 10, 12, 13, -1, 11, -1]
    labelled, positive = groups.recent(np.array([7, 7]), np.array([99, 1]), 1)
    assert labelled.tolist() == [1, 1] and positive.tolist() == [0, 1]


def test_without_events():
    empty = np.zeros(0, np.int64)
    found = Groups(empty, empty, empty, empty).before(np.array([0, 5]), np.array([0, 9]))
    assert found.events.tolist() == [0, 0] and found.last_row.tolist() == [-1, -1]
