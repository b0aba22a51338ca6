"""Order of events: against sorting by all columns, and permutations that do not depend on types."""

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from nif_jax.data import ordering

ROW = st.tuples(*(st.integers(0, high) for high in (3, 4, 2, 2)))


@settings(deadline=None, max_examples=100)
@given(st.lists(ROW, min_size=1, max_size=60), st.sampled_from([1, 10**9, 2**61]))
def test_order_ties_and_repeats_are_those_of_sorting_all_columns(rows, scale):
    user, time, one, two = np.array(rows).T
    time = time * scale
    keys = ordering.sort_keys(user, time)
    order = ordering.by_content(keys, [one, two])
    np.testing.assert_array_equal(order, np.lexsort((one, two, time, user)))
    columns = {"user": user, "time": time, "one": one, "two": two}
    frame = pd.DataFrame(columns)
    kept = ordering.without_repeats(order, keys, columns)
    found = frame.iloc[kept]
    expected = frame.drop_duplicates().sort_values(["user", "time", "two", "one"])
    pd.testing.assert_frame_equal(found.reset_index(drop=True), expected.reset_index(drop=True))
    shuffle = np.random.default_rng(0).permutation(len(kept))
    places, sources = ordering.shuffled_ties(keys[kept], shuffle)
    assert len(places) == frame.drop_duplicates().duplicated(["user", "time"], keep=False).sum()
    shuffled = kept.copy()
    shuffled[places] = kept[sources]
    by_time = np.lexsort((shuffle, time[kept], user[kept]))
    np.testing.assert_array_equal(shuffled, kept[by_time])


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), min_size=1, max_size=30))
def test_unsorted_rows_are_counted_within_users(rows):
    last, expected = {}, 0
    for user, time in rows:
        expected += time < last.get(user, time)
        last[user] = time
    assert ordering.count_unsorted(*np.array(rows).T) == expected


def test_permutation_is_numpys():
    for length in (0, 1, 1000):
        expected = np.random.default_rng(7).permutation(length)
        np.testing.assert_array_equal(ordering.permutation(length, 7), expected)
