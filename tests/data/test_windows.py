"""Histories: what a row may see, against a row-by-row reference; sharding; NumPy and jit alike."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from nif_jax.data import splits
from nif_jax.data.buckets import NUM_GAPS, gap_bucket, log2_bucket
from nif_jax.data.dataset import build_dataset
from nif_jax.data.schema import DataError
from nif_jax.data.windows import gather_history, gather_impressions, gather_past, gather_windows

LENGTH = 5
HALVES = {"train_share": 0.5, "validation_share": 0.25}


def dataset_of(movelines, **choices):
    """A Dataset; random stores whose periods come out empty are no example."""
    shards = choices.setdefault("num_shards", 1)
    defaults = HALVES | {"split": "temporal_user", "history": "all", "ties": "order", "seed": 0}
    try:
        return build_dataset(movelines, local_shards=range(shards), **(defaults | choices))
    except DataError as error:
        assume("without impressions" not in str(error))
        raise


def shard_store(dataset, shard):
    return jax.tree.map(lambda x: x[shard], dataset.stores)


def every_row(dataset, shard, frozen):
    """The index of a batch of all rows of a shard."""
    count = len(dataset.shard_rows[shard])
    return {"row": np.arange(count, dtype=np.int32), "frozen": np.full(count, frozen)}


def visible_rows(movelines, split, row, history, ties, frozen):
    """The reference: rows of the store that may stand in the history of `row`, oldest first."""
    user = movelines.user
    same_user = [q for q in range(len(user)) if user[q] == user[row]]
    period_begins = min(q for q in same_user if split[q] == split[row])
    found = []
    for q in same_user:
        if q >= row:
            break
        if frozen and split[row] != splits.TRAIN and q >= period_begins:
            break
        if ties == "exclude" and movelines.time[q] == movelines.time[row]:
            continue
        if history == "positive" and movelines.label[q] == 0:
            continue
        found.append(q)
    return found


def padded(values, length):
    values = [int(v) for v in values][-length:]
    return [0] * (length - len(values)) + values


def test_log2_bucket_is_exact_around_powers_of_two():
    powers = 2 ** np.arange(24)
    values = np.concatenate([[-5, 0], powers - 1, powers, powers + 1]).astype(np.int32)
    expected = [int(max(v, 0)).bit_length() for v in values]
    assert log2_bucket(values).tolist() == expected
    assert jax.jit(log2_bucket)(jnp.asarray(values)).tolist() == expected
    assert log2_bucket(values).dtype == np.int32


def test_log2_bucket_is_exact_where_float32_rounds():
    # A year is 2^24.9 seconds: float32 rounds 2^25 - 1 up to 2^25.
    values = np.array([2**24 - 1, 2**25 - 1, 2**26 - 1, 2**31 - 1], np.int32)
    expected = [24, 25, 26, 31]
    assert log2_bucket(values).tolist() == expected
    assert jax.jit(log2_bucket)(jnp.asarray(values)).tolist() == expected


def test_gap_bucket_stays_inside_its_table():
    values = np.array([0, 1, 2, 3, 4, 59, 2**31 - 1], np.int32)
    assert gap_bucket(values).tolist() == [1, 2, 3, 3, 4, 7, NUM_GAPS - 1]


@given(
    seed=st.integers(0, 10**6),
    users=st.integers(4, 9),
    most_events=st.integers(1, 14),
    split=st.sampled_from(["temporal_user", "temporal_global", "random"]),
    history=st.sampled_from(["all", "positive"]),
    ties=st.sampled_from(["order", "exclude"]),
    frozen=st.booleans(),
    shards=st.integers(1, 4),
)
def test_a_window_holds_exactly_what_its_row_may_see(
    random_movelines, seed, users, most_events, split, history, ties, frozen, shards
):
    movelines = random_movelines(seed, users=users, events=(1, most_events), distinct_items=True)
    dataset = dataset_of(movelines, split=split, history=history, ties=ties, num_shards=shards)
    seen = []
    for shard, rows in enumerate(dataset.shard_rows):
        index = every_row(dataset, shard, frozen)
        store = shard_store(dataset, shard)
        window = gather_windows(store, index, LENGTH)
        # What is kept for every entry is gathered as the entry is.
        kept, mask = gather_past(store, index, store.item[store.history_row], LENGTH)
        np.testing.assert_array_equal(mask, window.mask)
        np.testing.assert_array_equal(kept * mask, window.item)
        for i, row in enumerate(rows):
            entries = window.item[i][window.mask[i]] - 1  # item r + 1 stands in row r
            assert (entries < row).all()
            assert (movelines.user[entries] == movelines.user[row]).all()
            expected = visible_rows(movelines, dataset.split, row, history, ties, frozen)
            age = [1 + int(movelines.time[row] - movelines.time[q]).bit_length() for q in expected]
            items = padded(movelines.item[expected], LENGTH)
            assert window.item[i].tolist() == items
            assert window.mask[i].tolist() == [item > 0 for item in items]
            assert window.scene[i].tolist() == padded(movelines.scene[expected], LENGTH)
            assert window.action[i].tolist() == padded(movelines.action[expected], LENGTH)
            assert window.gap[i].tolist() == padded(age, LENGTH)
        seen.extend(rows)
    assert sorted(seen) == list(range(movelines.num_events))


def test_four_shards_hold_the_windows_of_one(random_movelines):
    movelines = random_movelines(1, users=11, distinct_items=True)
    whole, parts = (
        dataset_of(movelines, ties="exclude", history="positive", num_shards=n) for n in (1, 4)
    )
    one = gather_windows(shard_store(whole, 0), every_row(whole, 0, False), LENGTH)
    assert one.mask.any(axis=1).sum() > 10
    rows = np.concatenate(parts.shard_rows)
    assert sorted(rows) == list(range(movelines.num_events))
    # Users are dealt out whole, and evenly.
    owners = [set(movelines.user[rows]) for rows in parts.shard_rows]
    assert sum(map(len, owners)) == 11 and len(set.union(*owners)) == 11
    assert sorted(map(len, owners)) == [2, 3, 3, 3]
    for shard, rows in enumerate(parts.shard_rows):
        store = shard_store(parts, shard)
        found = gather_windows(store, every_row(parts, shard, False), LENGTH)
        jax.tree.map(lambda a, b, r=rows: np.testing.assert_array_equal(a, b[r]), found, one)
        local = store.user[: len(rows)]
        ages = movelines.user_features["age"][movelines.user[rows]]
        np.testing.assert_array_equal(store.user_features["age"][local], ages)


def test_some_shards_are_laid_out_as_in_the_whole_run(random_movelines):
    movelines = random_movelines(1, users=11)
    choices = {"split": "temporal_user", "history": "all", "ties": "order", "seed": 0} | HALVES
    parts = build_dataset(movelines, num_shards=4, local_shards=(2, 3), **choices)
    whole = build_dataset(movelines, num_shards=4, local_shards=range(4), **choices)
    for local, shard in enumerate((2, 3)):
        rows = len(whole.shard_rows[shard])
        for name in ("item", "time", "history_begin", "history_end", "user"):
            part, full = getattr(parts.stores, name)[local], getattr(whole.stores, name)[shard]
            np.testing.assert_array_equal(part[:rows], full[:rows])


def test_every_process_has_arrays_of_the_same_shapes(random_movelines):
    # Processes map one program; of shards of 11 users and uneven lines none is like another.
    movelines = random_movelines(1, users=11)
    choices = {"split": "temporal_user", "history": "positive", "ties": "order", "seed": 0} | HALVES
    alone = [
        build_dataset(movelines, num_shards=4, local_shards=(shard,), **choices)
        for shard in range(4)
    ]
    assert len({len(rows) for rows in alone[0].shard_rows}) > 1
    shapes = [jax.tree.map(np.shape, dataset.stores) for dataset in alone]
    assert shapes == [shapes[0]] * 4


@pytest.fixture(scope="module")
def hand_made(random_movelines):
    """Two users; the second has a tie, a row without a label, and a negative."""
    movelines = random_movelines(0, users=2, events=(5, 5), distinct_items=True)
    start = 1_000_000_000
    return dataclasses.replace(
        movelines,
        time=start + np.array([0, 1, 5, 5, 9, 0, 100, 104, 104, 200]),
        label=np.array([1, 0, 1, 0, 1, 1, -1, 0, 1, 1], np.int8),
        scene=np.arange(1, 11, dtype=np.int32),
        action=np.arange(11, 21, dtype=np.int32),
    )


def test_history_gap_is_time_since_the_entry_before(hand_made):
    store = shard_store(dataset_of(hand_made), 0)
    begin, end = np.array([5, 5, 5], np.int32), np.array([10, 7, 5], np.int32)
    window, time = gather_history(store, begin, end, 4)
    assert window.item.tolist() == [[7, 8, 9, 10], [0, 0, 6, 7], [0, 0, 0, 0]]
    # The first of a window has no neighbour: 0, even where the user has an earlier event.
    assert window.gap.tolist() == [[0, 4, 1, 8], [0, 0, 0, 8], [0, 0, 0, 0]]
    assert time[0].tolist() == [100, 104, 104, 200] and time[1, 2:].tolist() == [0, 100]
    assert window.mask.tolist() == [[True] * 4, [False, False, True, True], [False] * 4]


def test_impressions_of_a_hand_made_store(hand_made):
    store = shard_store(dataset_of(hand_made, history="positive"), 0)
    # Entries of history_row: items 1, 3, 5 and 6, 7, 9, 10.
    assert store.history_row.tolist() == [0, 2, 4, 5, 6, 8, 9]
    index = {
        "row": np.array([9, 5, 3, 8], np.int32),
        "weight": np.array([1, 1, 1, 0], np.float32),
        "pair": np.array([0, 1], np.float32),
        "frozen": np.array([False, False, False, False]),
    }
    flow = np.arange(7 * 2 * 3, dtype=np.float32).reshape(7, 2, 3)
    batch = gather_impressions(store, index, 3, flow, context=2)
    assert batch.item.tolist() == [10, 6, 4, 9]
    assert batch.label.tolist() == [1, 1, 0, 1]
    assert batch.history.item.tolist() == [[6, 7, 9], [0, 0, 0], [0, 1, 3], [0, 6, 7]]
    assert batch.history.gap.tolist() == [[9, 8, 8], [0, 0, 0], [0, 4, 1], [0, 8, 4]]
    assert batch.recency.tolist() == [8, 0, 1, 4]
    assert batch.history_length.tolist() == [2, 0, 2, 2]  # 3, 0, 2, 2 entries
    assert batch.flow_mask.tolist() == [True, False, True, True]
    # The flow after the last entry that the row sees.
    np.testing.assert_array_equal(batch.flow[[0, 2, 3]], flow[[5, 1, 4]])
    assert batch.events.item.tolist() == [[7, 9], [0, 0], [1, 3], [6, 7]]
    assert batch.events.gap.tolist() == [[0, 4], [0, 0], [0, 4], [0, 8]]
    assert batch.weight.tolist() == [1, 1, 1, 0] and batch.pair.tolist() == [0, 1]


def test_frozen_is_a_choice_of_each_row(hand_made):
    dataset = dataset_of(hand_made, train_share=0.25)
    store = shard_store(dataset, 0)
    assert dataset.split[5:].tolist() == [0, 1, 1, 2, 2]
    rows = np.array([9, 9], np.int32)
    index = {"row": rows, "frozen": np.array([True, False])}
    window = gather_windows(store, index, 8)
    assert window.item[0].tolist() == padded([6, 7, 8], 8)  # test begins with item 9
    assert window.item[1].tolist() == padded([6, 7, 8, 9], 8)
    online = gather_windows(store, {"row": rows}, 8)
    np.testing.assert_array_equal(online.item, window.item[[1, 1]])


def test_jit_gathers_what_numpy_gathers(random_movelines):
    movelines = random_movelines(3, users=7, scenes=4, actions=5)
    dataset = dataset_of(movelines, history="positive", num_shards=2)
    gather = functools.partial(gather_impressions, length=LENGTH, context=3)
    compiled = jax.jit(gather)
    rng = np.random.default_rng(0)
    for shard in range(2):
        store = shard_store(dataset, shard)
        flow = rng.normal(size=(len(store.history_row), 2, 4)).astype(np.float32)
        index = every_row(dataset, shard, False)
        index = jax.tree.map(lambda x: np.resize(x, 40), index)  # one shape, one compilation
        index["frozen"] = rng.random(40) < 0.5
        index |= {"weight": np.ones(40, np.float32), "pair": np.zeros(20, np.float32)}
        host, device = gather(store, index, flow=flow), compiled(store, index, flow=flow)
        assert host.history.mask.any() and not host.history.mask.all()

        def same(a, b):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)

        jax.tree.map(same, host, device)
