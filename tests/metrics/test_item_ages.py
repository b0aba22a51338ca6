"""Ages of items, by hand."""

import dataclasses

import numpy as np

from nif_jax.metrics import buckets


def test_an_item_ages_from_its_first_event_of_any_user(random_movelines):
    lines = random_movelines(0, users=2, events=(4, 4), items=3)
    day = 86_400
    lines = dataclasses.replace(
        lines,
        item=np.array([1, 2, 1, 3, 1, 2, 3, 3], np.int32),
        time=day * np.array([10, 20, 30, 30, 5, 26, 40, 41]),
    )
    is_event = np.arange(8) != 3  # row 3 is a sampled negative, before the item's first event
    ages = buckets.item_ages(lines, is_event, np.array([0, 2, 3, 4, 5, 6, 7]))
    np.testing.assert_array_equal(ages, [5.0, 25.0, 0.0, 0.0, 6.0, 0.0, 1.0])
