"""What evaluation computes besides metrics, against values worked out by hand."""

import dataclasses

import numpy as np

from nif_jax import evaluation


def test_an_item_ages_from_its_first_event_of_any_user(random_movelines):
    lines = random_movelines(0, users=2, events=(3, 3), items=3)
    day = 86_400
    lines = dataclasses.replace(
        lines,
        item=np.array([1, 2, 1, 1, 2, 3], np.int32),
        time=day * np.array([10, 20, 30, 5, 26, 40]),
    )
    ages = evaluation.item_ages(lines, np.array([0, 2, 3, 4, 5]))
    np.testing.assert_array_equal(ages, [5.0, 25.0, 0.0, 6.0, 0.0])
