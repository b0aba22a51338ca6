"""Counts of events before a place, by hand."""

import numpy as np
import pytest

from nif_jax.data.groups import Groups
from nif_jax.data.schema import NO_LABEL


def test_by_hand():
    # key 7: numbers 0, 2, 5 with labels 1, 0, none; key 3: number 1 with label 1.
    groups = Groups(
        np.array([7, 3, 7, 7]),
        np.array([0, 1, 2, 5]),
        np.array([1, 1, 0, NO_LABEL]),
    )
    bounds = groups.bounds(np.array([7, 7, 7, 7, 3, 3, 4]), np.array([0, 1, 3, 99, 1, 2, 99]))
    found = groups.counts(bounds)
    assert found.events.tolist() == [0, 1, 2, 3, 0, 1, 0]
    assert found.labelled.tolist() == [0, 1, 2, 2, 0, 1, 0]
    assert found.positive.tolist() == [0, 1, 1, 1, 0, 1, 0]
    assert groups.last_label(bounds).tolist() == [0, 1, -1, -1, 0, 1, 0]
    assert groups.last_number(bounds).tolist() == [-1, 0, 2, 5, -1, 1, -1]
    labelled, positive = groups.recent(groups.bounds(np.array([7, 7]), np.array([99, 1])), 1)
    assert labelled.tolist() == [1, 1] and positive.tolist() == [0, 1]


@pytest.mark.parametrize("keys", [12, 10**12, 2**55])
def test_equals_a_loop(keys):
    random = np.random.default_rng(0)
    key, number = random.integers(0, 12, 200) * (keys // 12), random.integers(0, 30, 200)
    label = random.integers(-1, 2, 200)
    groups = Groups(key, number, label)
    wanted, until = random.integers(-1, 14, 300) * (keys // 12), random.integers(0, 32, 300)
    found = groups.counts(groups.bounds(wanted, until))
    for q in range(300):
        own = label[(key == wanted[q]) & (number < until[q])]
        expected = (len(own), (own != NO_LABEL).sum(), (own == 1).sum())
        assert tuple(int(column[q]) for column in found) == expected


def test_without_events():
    empty = np.zeros(0, np.int64)
    groups = Groups(empty, empty, empty)
    bounds = groups.bounds(np.array([0, 5]), np.array([0, 9]))
    assert groups.counts(bounds).events.tolist() == [0, 0]
    assert groups.last_number(bounds).tolist() == [-1, -1]


def test_keys_that_do_not_fit():
    with pytest.raises(ValueError, match="more than the 63"):
        Groups(np.array([2**40]), np.array([2**40]), np.array([1], np.int8))
