"""Plans of an epoch: every row or transition once, pairs that TSP may use, chance from the seed."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nif_jax.data.dataset import build_dataset
from nif_jax.data.packing import SequencePlan, pack
from nif_jax.data.sampling import ImpressionPlan, pair_rows
from nif_jax.data.schema import NO_LABEL
from nif_jax.data.splits import TRAIN

ANY = {"min_events": 1, "min_seconds": 0, "max_events": 0}
SHARDS = 3


def random_dataset(random_movelines, seed=0, split="temporal_user", history="all", **kwargs):
    kwargs = {"users": 13, "events": (4, 20), "seconds": 30} | kwargs
    return build_dataset(
        random_movelines(seed, **kwargs),
        split=split,
        train_share=0.6,
        validation_share=0.2,
        history=history,
        ties="order",
        seed=0,
        num_shards=SHARDS,
        local_shards=range(SHARDS),
    )


def rng_of(seed):
    return np.random.default_rng(seed)


@given(
    seed=st.integers(0, 10**6),
    users=st.integers(1, 6),
    min_events=st.integers(1, 4),
    min_seconds=st.integers(0, 9),
    max_events=st.sampled_from([0, 3, 6]),
)
def test_pairs_are_opposite_labels_of_one_user_at_the_distance_configured(
    seed, users, min_events, min_seconds, max_events
):
    rng = rng_of(seed)
    user = np.sort(rng.integers(0, users, 40))
    time = rng.integers(0, 40, 40)
    time = time[np.lexsort((time, user))]
    label = rng.integers(0, 2, 40).astype(np.int8)
    bounds = {"min_events": min_events, "min_seconds": min_seconds, "max_events": max_events}
    pairs = pair_rows(user, time, label, rng_of(seed), **bounds)
    positive, negative = pairs.T
    assert (label[positive] == 1).all() and (label[negative] == 0).all()
    np.testing.assert_array_equal(user[positive], user[negative])
    assert len(np.unique(pairs)) == pairs.size  # a row is in one pair at most
    assert (abs(positive - negative) >= min_events).all()
    assert (abs(time[positive] - time[negative]) >= min_seconds).all()
    assert not max_events or (abs(positive - negative) <= max_events).all()
    # Bounds only take pairs apart.
    loose = {tuple(pair) for pair in pair_rows(user, time, label, rng_of(seed), **ANY).tolist()}
    far = [abs(p - n) for p, n in loose]
    ages = [abs(time[p] - time[n]) for p, n in loose]
    fits = [
        f >= min_events and a >= min_seconds and (not max_events or f <= max_events)
        for f, a in zip(far, ages, strict=True)
    ]
    assert len(pairs) == sum(fits) and {tuple(pair) for pair in pairs.tolist()} <= loose


def test_without_bounds_as_many_rows_are_paired_as_can_be():
    user = np.array([0] * 5 + [1] * 3 + [2] * 4 + [3])
    label = np.array([1, 1, 0, 1, 1, 1, 1, 1, 0, 1, 0, 1, 0], np.int8)
    pairs = pair_rows(user, np.arange(13), label, rng_of(0), **ANY)
    assert np.bincount(user[pairs[:, 0]], minlength=4).tolist() == [1, 0, 2, 0]
    assert pair_rows(user[:0], user[:0], label[:0], rng_of(0), **ANY).shape == (0, 2)


def test_users_of_many_rows_are_paired_in_full():
    # 300 positives: more than an int8 label column could count.
    label = np.repeat([1, 0], 300).astype(np.int8)
    pairs = pair_rows(np.zeros(600, int), np.arange(600), label, rng_of(0), **ANY)
    assert len(pairs) == 300


def test_every_positive_can_meet_every_negative():
    label = np.array([1, 0, 1, 0], np.int8)
    user = np.zeros(4, int)
    draws = [pair_rows(user, np.arange(4), label, rng_of(s), **ANY) for s in range(30)]
    found = {frozenset(map(tuple, pairs.tolist())) for pairs in draws}
    assert found == {frozenset({(0, 1), (2, 3)}), frozenset({(0, 3), (2, 1)})}


@pytest.fixture(scope="module")
def dataset(random_movelines):
    return random_dataset(random_movelines)


PLANS = [
    pytest.param({"pairs": False}, id="no pairs"),
    pytest.param({"pairs": True}, id="pairs"),
    pytest.param(
        {"pairs": True, "min_events": 2, "min_seconds": 4, "max_events": 6}, id="bounded pairs"
    ),
]


@pytest.mark.parametrize("choices", PLANS)
def test_an_epoch_shows_every_train_impression_once(dataset, choices):
    plan = ImpressionPlan(dataset, batch_size=8, seed=5, **choices)
    lines = dataset.movelines
    expected = np.flatnonzero((lines.label != NO_LABEL) & (dataset.split == TRAIN))
    assert len(expected) > 40
    for epoch in range(3):
        shown, per_step = [], []
        for shard in range(SHARDS):
            index = plan.indices(epoch, shard)
            assert index["row"].shape == index["weight"].shape == (plan.steps_per_epoch, 8)
            assert index["pair"].shape == (plan.steps_per_epoch, 4)
            assert [index[k].dtype for k in ("row", "weight", "pair")] == [np.int32, "f4", "f4"]
            assert set(np.unique(index["weight"])) <= {0, 1}
            shown.extend(dataset.shard_rows[shard][index["row"][index["weight"] > 0]])
            per_step.append(index["weight"].sum(axis=1))
        assert sorted(shown) == expected.tolist()
        # The last step is no stub: rows are dealt out evenly.
        assert all(np.ptp(weights) <= 2 for weights in per_step)


@pytest.mark.parametrize("choices", PLANS)
def test_pair_flags_stand_on_pairs_only(dataset, choices):
    plan = ImpressionPlan(dataset, batch_size=8, seed=5, **choices)
    lines, count = dataset.movelines, 0
    for shard in range(SHARDS):
        index = plan.indices(1, shard)
        rows = dataset.shard_rows[shard][index["row"]]
        train = dataset.shard_rows[shard][dataset.impressions(shard, TRAIN)]
        place = np.full(lines.num_events, -1)
        place[train] = np.arange(len(train))
        flagged = index["pair"] > 0
        positive, negative = rows[:, 0::2][flagged], rows[:, 1::2][flagged]
        assert (index["weight"][:, 0::2][flagged] == 1).all()
        assert (index["weight"][:, 1::2][flagged] == 1).all()
        assert (lines.label[positive] == 1).all() and (lines.label[negative] == 0).all()
        np.testing.assert_array_equal(lines.user[positive], lines.user[negative])
        distance = abs(place[positive] - place[negative])
        assert (distance >= choices.get("min_events", 1)).all()
        assert (distance <= (choices.get("max_events") or 99)).all()
        seconds = abs(lines.time[positive] - lines.time[negative])
        assert (seconds >= choices.get("min_seconds", 0)).all()
        count += flagged.sum()
    assert (count > 5) == choices["pairs"]
    if choices == {"pairs": True}:
        train = (dataset.split == TRAIN) & (lines.label != NO_LABEL)
        sizes = [np.bincount(lines.user[train & (lines.label == k)], minlength=13) for k in (0, 1)]
        assert count == np.minimum(*sizes).sum()


@pytest.mark.parametrize("kind", ["impressions", "sequences"])
def test_order_is_a_function_of_seed_epoch_and_shard(dataset, kind):
    def indices(seed, epoch, shard):
        if kind == "impressions":
            plan = ImpressionPlan(dataset, batch_size=8, seed=seed, pairs=True)
        else:
            plan = SequencePlan(dataset, batch_size=4, length=4, seed=seed)
        return np.concatenate([v.ravel() for v in plan.indices(epoch, shard).values()]).tolist()

    first = indices(5, 1, 0)
    assert first == indices(5, 1, 0)
    others = [indices(5, 2, 0), indices(6, 1, 0), indices(5, 1, 1)]
    assert first not in others


def windows_of(plan, epoch, shard):
    """Bounds in history_row of every window of an epoch."""
    index = plan.indices(epoch, shard)
    shape = (plan.steps_per_epoch, plan.batch_size, plan.length)
    found = []
    assert index["entry"].shape == index["segment"].shape == shape
    for entry, segment in zip(*(x.reshape(-1, plan.length) for x in index.values()), strict=True):
        assert not entry[segment == 0].any()
        for number in range(1, segment.max() + 1):
            (place,) = np.nonzero(segment == number)
            begin, end = entry[place[0]], entry[place[-1]] + 1
            np.testing.assert_array_equal(entry[place], np.arange(begin, end))
            np.testing.assert_array_equal(place, np.arange(place[0], place[-1] + 1))
            found.append((int(begin), int(end)))
    return found


@pytest.mark.parametrize("history", ["all", "positive"])
@pytest.mark.parametrize("length", [2, 4, 50])
def test_an_epoch_shows_every_train_transition_once(random_movelines, history, length):
    dataset = random_dataset(random_movelines, seed=1, history=history)
    plan = SequencePlan(dataset, batch_size=4, length=length, seed=2)
    lines = dataset.movelines
    eligible = np.ones(lines.num_events, bool) if history == "all" else lines.label != 0
    expected = []
    for user in range(lines.num_users):
        rows = np.flatnonzero((lines.user == user) & eligible & (dataset.split == TRAIN)).tolist()
        expected += itertools.pairwise(rows)
    for epoch in range(2):
        found = []
        for shard in range(SHARDS):
            entries = dataset.shard_rows[shard][dataset.stores.history_row[shard]]
            for begin, end in windows_of(plan, epoch, shard):
                assert end - begin <= length
                found += itertools.pairwise(entries[begin:end].tolist())
        # Windows hold train events alone, and each step from one to the next stands in one window.
        assert sorted(found) == sorted(expected)


def test_random_split_windows_reach_the_last_train_event(random_movelines):
    # Other periods' events stand between; the windows hold them as inputs, and end with train.
    dataset = random_dataset(random_movelines, seed=2, split="random")
    plan = SequencePlan(dataset, batch_size=4, length=4, seed=2)
    for shard in range(SHARDS):
        rows = dataset.shard_rows[shard]
        split, user = dataset.split[rows], dataset.movelines.user[rows]
        predicted = np.zeros(len(rows), int)
        for begin, end in windows_of(plan, 0, shard):
            predicted[begin + 1 : end] += 1
        first = np.append(True, np.diff(user) != 0)
        np.testing.assert_array_equal(predicted[(split == TRAIN) & ~first], 1)
        assert predicted.max() == 1 and not predicted[first].any()
        for u in np.unique(user):
            last = np.flatnonzero((user == u) & (split == TRAIN)).max(initial=-1)
            assert not predicted[(user == u) & (np.arange(len(rows)) > last)].any()


def test_sequence_windows_start_at_another_place_each_epoch(random_movelines):
    dataset = random_dataset(random_movelines, seed=1, users=6, events=(60, 60))
    plan = SequencePlan(dataset, batch_size=4, length=10, seed=2)
    starts = [{begin for begin, end in windows_of(plan, epoch, 0) if end} for epoch in range(8)]
    assert len(set.union(*starts)) > 1.5 * len(starts[0])


@pytest.mark.parametrize("kind", ["impressions", "sequences"])
def test_all_shards_take_the_same_number_of_steps(random_movelines, kind):
    # One user has most of the events, so its shard is by far the longest.
    movelines = random_movelines(4, users=3, events=(6, 6), label_free_users=0, unlabelled=0)
    sizes = np.array([90, 6, 6])
    repeat = np.repeat(np.arange(18), [15] * 6 + [1] * 12)
    columns = ("item", "scene", "action", "label")
    movelines = type(movelines)(
        **(
            vars(movelines)
            | {name: getattr(movelines, name)[repeat] for name in columns}
            | {"time": 10**9 + np.arange(102), "user_offsets": np.append(0, np.cumsum(sizes))}
        )
    )
    dataset = build_dataset(
        movelines,
        split="temporal_user",
        train_share=0.6,
        validation_share=0.2,
        history="all",
        ties="order",
        seed=0,
        num_shards=3,
        local_shards=range(3),
    )
    if kind == "impressions":
        plan = ImpressionPlan(dataset, batch_size=4, seed=0, pairs=True)
        assert plan.steps_per_epoch == -(-54 // 4)
        real = [plan.indices(0, s)["weight"].sum() for s in range(3)]
        assert real == [54, 3, 3]
    else:
        plan = SequencePlan(dataset, batch_size=4, length=6, seed=0)
        real = [sum(max(e - b - 1, 0) for b, e in windows_of(plan, 0, s)) for s in range(3)]
        assert real == [53, 2, 2]
    leading = {len(v) for s in range(3) for v in plan.indices(0, s).values()}
    assert leading == {plan.steps_per_epoch}


def test_a_moveline_that_fits_a_window_is_never_cut(random_movelines):
    plan = SequencePlan(random_dataset(random_movelines, users=30), batch_size=4, length=9, seed=0)
    for shard in range(SHARDS):
        bounds = zip(*plan.dataset.train_entries(shard), strict=True)
        short = {(int(b), int(e)) for b, e in bounds if 2 <= e - b <= 9}
        assert len(short) >= 3
        for epoch in range(3):
            assert short <= set(windows_of(plan, epoch, shard))


def test_windows_begin_so_that_rows_to_train_on_have_their_context(random_movelines):
    dataset = random_dataset(random_movelines, users=30)
    newest = dataset.movelines.time >= np.quantile(dataset.movelines.time, 0.6)
    trained = (dataset.split == TRAIN) & newest
    plan = SequencePlan(dataclasses.replace(dataset, trained=trained), 4, 4, seed=0)
    skipped = 0
    for shard in range(SHARDS):
        own = trained[dataset.shard_rows[shard][dataset.stores.history_row[shard]]]
        wholes = zip(*dataset.train_entries(shard), strict=True)
        bounds = zip(*plan.dataset.train_entries(shard, 3), strict=True)
        for (first, last), (begin, end) in zip(wholes, bounds, strict=True):
            assert end == last
            if own[first:last].any():
                assert begin == max(first, first + int(np.argmax(own[first:last])) - 3)
            else:
                assert begin == end
                skipped += 1
        assert {int(b) for b, _ in windows_of(plan, 0, shard)}
    assert skipped


def test_short_movelines_share_rows(random_movelines):
    # 40 users of 2 to 6 train entries in rows of 20: three to ten fit.
    dataset = random_dataset(random_movelines, users=40, events=(4, 9))
    plan = SequencePlan(dataset, batch_size=2, length=20, seed=0)
    for shard in range(SHARDS):
        begin, end = dataset.train_entries(shard)
        sizes = (end - begin)[end - begin >= 2]
        rows = {tuple(r) for r in plan.indices(0, shard)["entry"].reshape(-1, 20) if r.any()}
        assert len(rows) <= -(-len(sizes) // 3) + 3
        assert len(windows_of(plan, 0, shard)) == len(sizes)
    assert plan.indices(0, 0)["segment"].max() >= 3


def test_packing_keeps_sequences_apart_and_whole():
    rng = np.random.default_rng(0)
    size = rng.integers(1, 11, 200)
    row, slot, before = pack(size, 10 // size, rng)
    used = np.zeros((row.max() + 1, 10), int)
    for r, b, n in zip(row, before, size, strict=True):
        assert b + n <= 10
        used[r, b : b + n] += 1
    assert used.max() == 1 and used.any(1).all()
    for r in np.unique(row):
        assert sorted(slot[row == r]) == list(range((row == r).sum()))
    shares, count = np.unique(10 // size, return_counts=True)
    assert len(used) == sum(-(-count // shares))


def test_a_plan_may_leave_out_a_fold_of_users(random_movelines):
    dataset = random_dataset(random_movelines, users=30)
    whole = SequencePlan(dataset, batch_size=4, length=50, seed=0)
    for shard in range(SHARDS):
        entries = dataset.shard_rows[shard][dataset.stores.history_row[shard]]

        def users(plan, shard=shard, entries=entries):
            return {int(dataset.movelines.user[entries[b]]) for b, _ in windows_of(plan, 0, shard)}

        parts = [users(dataclasses.replace(whole, without=(k, 3))) for k in range(3)]
        assert parts == [{u for u in users(whole) if u % 3 != k} for k in range(3)]
        assert len(users(whole)) > 5
