"""Periods of events, and the data set made of them: vocabulary, labels, errors."""

import dataclasses
import math

import jax
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from nif_jax.data.dataset import build_dataset
from nif_jax.data.schema import NO_LABEL, ConfigError, DataError
from nif_jax.data.splits import TEST, TRAIN, VALIDATION, assign_splits
from nif_jax.data.vocabulary import OOV
from nif_jax.data.windows import gather_windows

CHOICES = {
    "split": "temporal_user",
    "train_share": 0.5,
    "validation_share": 0.25,
    "history": "all",
    "ties": "order",
    "seed": 0,
}


def lines_of(random_movelines, labels, times=None):
    """A store whose users have these labels (lists) and, unless given, distinct rising times."""
    lengths = [len(user) for user in labels]
    movelines = random_movelines(0, users=len(labels), events=(1, 1))
    count = sum(lengths)
    times = [range(n) for n in lengths] if times is None else times
    ids = np.arange(1, count + 1, dtype=np.int32)
    genre = np.append(0, 1 + np.arange(count) % 3).astype(np.int32)[:, None]
    return dataclasses.replace(
        movelines,
        user_offsets=np.append(0, np.cumsum(lengths)).astype(np.int64),
        item=ids,
        scene=np.ones(count, np.int32),
        action=np.ones(count, np.int32),
        time=np.concatenate([np.asarray(t, np.int64) for t in times]),
        label=np.concatenate([np.asarray(user, np.int8) for user in labels]),
        item_features={"genre": genre},
        titles=np.array([""] * count),
    )


def test_temporal_user_counts_floors_of_each_users_impressions(random_movelines):
    sizes = [1, 2, 3, 5, 9, 10, 11, 19, 20, 25, 30, 100]
    movelines = lines_of(random_movelines, [[1] * n for n in sizes])
    split = assign_splits(movelines, "temporal_user", 0.8, 0.1, seed=0)
    for user, n in enumerate(sizes):
        rows = split[movelines.user == user]
        train, validation = math.floor(n * 8 / 10), math.floor(n / 10)
        counts = np.bincount(rows, minlength=3).tolist()
        assert counts == [train, validation, n - train - validation], n
        assert (np.diff(rows) >= 0).all()


def test_temporal_user_places_events_without_label_among_the_impressions(random_movelines):
    x = NO_LABEL
    labels = [[x, 1, x, 0, 1, x, 1, x], [x, x, x, x]]
    movelines = lines_of(random_movelines, labels)
    split = assign_splits(movelines, "temporal_user", 0.5, 0.25, seed=0)
    # Four impressions: two train, one validation, one test. What comes after the last impression of
    # a period, and before the next, counts to the later period: it is not known in the earlier one.
    assert split[:8].tolist() == [0, 0, 0, 0, 1, 2, 2, 2]
    # A user without impressions is cut by events.
    assert split[8:].tolist() == [0, 0, 1, 2]
    assert split.dtype == np.int8


def test_temporal_global_sends_ties_at_a_cut_to_the_later_period(random_movelines):
    x = NO_LABEL
    movelines = lines_of(
        random_movelines,
        labels=[[1, 1, 0, 0, x], [1, 1, 0, 0, 1, x]],
        times=[[1, 2, 4, 6, 7], [3, 4, 4, 8, 9, 5]],
    )
    # Impression times sorted: 1 2 3 4 4 4 6 8 9; cuts at places 4 and 6: times 4 and 6.
    split = assign_splits(movelines, "temporal_global", 0.5, 0.25, seed=0)
    assert split.tolist() == [0, 0, 1, 2, 2, 0, 1, 1, 2, 2, 1]


def test_random_split_deals_out_impressions_alone(random_movelines):
    movelines = random_movelines(0, users=20, events=(10, 10), unlabelled=0.3)
    impression = movelines.label != NO_LABEL
    splits = [assign_splits(movelines, "random", 0.8, 0.1, seed) for seed in (0, 0, 1)]
    count = impression.sum()
    sizes = np.bincount(splits[0][impression], minlength=3)
    assert sizes.tolist() == pytest.approx([0.8 * count, 0.1 * count, 0.1 * count], abs=1)
    assert (splits[0][~impression] == TRAIN).all()
    np.testing.assert_array_equal(splits[0], splits[1])
    assert (splits[0] != splits[2]).any()
    # Not by time: some test rows stand before train rows of the same user.
    same_user = np.diff(movelines.user) == 0
    assert (np.diff(splits[0])[same_user] < 0).any()


@given(
    seed=st.integers(0, 10**6),
    kind=st.sampled_from(["temporal_user", "temporal_global"]),
    train=st.sampled_from([0.3, 0.5, 0.8]),
    validation=st.sampled_from([0.1, 0.15]),
)
def test_periods_never_go_back_in_time(random_movelines, seed, kind, train, validation):
    movelines = random_movelines(seed, users=9, events=(1, 30))
    try:
        split = assign_splits(movelines, kind, train, validation, seed)
    except DataError as error:
        assume("without impressions" not in str(error))
        raise
    for user in range(movelines.num_users):
        assert (np.diff(split[movelines.user == user]) >= 0).all()
    if kind == "temporal_global":
        for earlier, later in ((TRAIN, VALIDATION), (VALIDATION, TEST)):
            assert movelines.time[split == earlier].max() < movelines.time[split == later].min()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "by_user"}, "'by_user' is none of temporal_user, temporal_global, random"),
        ({"train": 0.0}, "train_share=0.0"),
        ({"train": 1.0}, "train_share=1.0"),
        ({"validation": 0.0}, "validation_share=0.0"),
        ({"train": 0.9}, "leave a share for test"),
    ],
)
def test_impossible_splits_are_refused(random_movelines, change, message):
    movelines = random_movelines(0)
    arguments = {"kind": "temporal_user", "train": 0.8, "validation": 0.1, "seed": 0} | change
    with pytest.raises(ConfigError, match=message):
        assign_splits(movelines, **arguments)


def test_a_store_without_labels_is_refused(random_movelines):
    movelines = random_movelines(0, unlabelled=1.0)
    with pytest.raises(DataError, match="no event has a label"):
        assign_splits(movelines, "temporal_user", 0.8, 0.1, 0)


def test_a_period_that_rounds_to_nothing_is_refused_by_name(random_movelines):
    with pytest.raises(DataError, match=r"leaves validation without .*\[.*, 0, .*\]"):
        assign_splits(random_movelines(0), "temporal_user", 0.5, 0.01, 0)


def test_a_period_that_ties_leave_empty_is_refused_by_name(random_movelines):
    movelines = lines_of(random_movelines, [[1, 0, 1, 0]], [[7, 7, 7, 7]])
    with pytest.raises(DataError, match=r"leaves train without impressions .*\[0, 0, 4\]"):
        assign_splits(movelines, "temporal_global", 0.5, 0.25, 0)


def test_items_and_users_that_train_has_not_seen_are_oov(random_movelines):
    x = NO_LABEL
    movelines = lines_of(
        random_movelines,
        labels=[[1, 0, 1, 0], [x, 1, 1, 0, 1, 1], [1]],  # the third user has a test row only
    )
    # Item 4 is also shown in train, by the second user; items 7 and 8 stand nowhere.
    item = np.array([1, 2, 3, 4, 4, 5, 3, 6, 7, 8, 1], np.int32)
    movelines = dataclasses.replace(movelines, item=item)
    dataset = build_dataset(movelines, **CHOICES)
    assert dataset.split.tolist() == [0, 0, 1, 2, 0, 0, 0, 1, 2, 2, 2]
    ids = dataset.items["id"]
    # Train shows items 1 2 4 5 3: all known, numbered from 2 in order.
    assert ids.shape == (12, 1)
    assert ids[:, 0].tolist() == [0, 2, 3, 4, 5, 6] + [OOV] * 6
    assert dataset.item_sizes == {"id": 7, "genre": 4}
    np.testing.assert_array_equal(dataset.items["genre"], movelines.item_features["genre"])
    users = dataset.stores.user_features
    assert users["id"][0].tolist() == [2, 3, OOV]
    assert dataset.user_sizes["id"] == 4
    assert dataset.seen_item[item].tolist() == [True] * 7 + [False] * 3 + [True]
    assert dataset.seen_user.tolist() == [True, True, False]
    assert dataset.stores.train[0].tolist() == (dataset.split == TRAIN).tolist()
    assert dataset.stores.label[0].tolist() == [1, 0, 1, 0, NO_LABEL, 1, 1, 0, 1, 1, 1]


def test_impressions_of_a_shard_are_its_labelled_rows_of_a_period(random_movelines):
    movelines = random_movelines(5, users=8, events=(6, 12))
    dataset = build_dataset(movelines, num_shards=3, local_shards=range(3), **CHOICES)
    for period in (TRAIN, VALIDATION, TEST):
        rows = [dataset.shard_rows[s][dataset.impressions(s, period)] for s in range(3)]
        expected = np.flatnonzero((dataset.split == period) & (movelines.label != NO_LABEL))
        assert sorted(np.concatenate(rows)) == expected.tolist()


def test_train_entries_end_with_train(random_movelines):
    movelines = random_movelines(6, users=8, events=(1, 12))
    choices = CHOICES | {"history": "positive"}
    dataset = build_dataset(movelines, num_shards=2, local_shards=range(2), **choices)
    found = {}
    for shard in range(2):
        rows = dataset.shard_rows[shard][dataset.stores.history_row[shard]]
        for begin, end in zip(*dataset.train_entries(shard), strict=True):
            found[movelines.user[rows[begin]]] = rows[begin:end].tolist()
    eligible = movelines.label != 0
    for user in range(8):
        mine = (movelines.user == user) & eligible
        expected = np.flatnonzero(mine & (dataset.split == TRAIN)).tolist()
        assert found.get(user, []) == expected
    assert sum(map(len, found.values())) > 10


@pytest.mark.parametrize("history", ["all", "positive"])
def test_label_share_drops_train_labels_and_nothing_else(random_movelines, history):
    movelines = random_movelines(7, users=30, events=(10, 14))
    choices = CHOICES | {"history": history}
    full, half = (build_dataset(movelines, label_share=share, **choices) for share in (1.0, 0.5))
    np.testing.assert_array_equal(full.split, half.split)
    for period in (VALIDATION, TEST):
        np.testing.assert_array_equal(full.impressions(0, period), half.impressions(0, period))
    kept, before = half.impressions(0, TRAIN), full.impressions(0, TRAIN)
    assert set(kept) < set(before)
    assert 0.35 < len(kept) / len(before) < 0.65
    assert 0.3 < full.stores.label[0, kept].mean() < 0.7
    # Movelines stay complete: what a row sees of the past does not depend on who may be scored.
    index = {"row": np.arange(movelines.num_events, dtype=np.int32)}
    stores = [jax.tree.map(lambda x: x[0], d.stores) for d in (full, half)]
    seen = [gather_windows(store, index, 6).item for store in stores]
    np.testing.assert_array_equal(*seen)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"history": "clicks"}, ConfigError, "history='clicks' is none of all, positive"),
        ({"ties": "drop"}, ConfigError, "ties='drop' is none of order, exclude"),
        ({"label_share": 0.0}, ConfigError, r"label_share=0.0 is not in \(0, 1\]"),
        ({"label_share": 1.5}, ConfigError, "label_share=1.5"),
        ({"num_shards": 7}, DataError, "6 users for 7 devices"),
    ],
)
def test_impossible_data_sets_are_refused(random_movelines, change, error, message):
    movelines = random_movelines(0, events=(8, 12), users=6)
    with pytest.raises(error, match=message):
        build_dataset(movelines, **(CHOICES | change))


def test_a_span_that_int32_cannot_hold_is_refused(random_movelines):
    movelines = random_movelines(0, events=(8, 12))
    time = movelines.time.copy()
    time[movelines.user_offsets[1] - 1] = time.min() + 2**31 - 1
    held = build_dataset(dataclasses.replace(movelines, time=time), **CHOICES)
    assert held.stores.time.max() == 2**31 - 1
    time[movelines.user_offsets[1] - 1] += 1
    with pytest.raises(DataError, match="are they seconds"):
        build_dataset(dataclasses.replace(movelines, time=time), **CHOICES)
