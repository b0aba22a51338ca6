"""Sampled negatives: which items are drawn for whom, and that no history ever holds them."""

import dataclasses

import jax
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from nif_jax.data.dataset import build_dataset
from nif_jax.data.negatives import DAY, LONGEST, TOLERANCE, _Pool, sample_negatives, window_seconds
from nif_jax.data.packing import SequencePlan
from nif_jax.data.schema import NO_LABEL, ConfigError, DataError
from nif_jax.data.splits import TEST, TRAIN, VALIDATION
from nif_jax.data.windows import gather_windows
from nif_jax.metrics import ctr

CHOICES = {
    "split": "temporal_user",
    "train_share": 0.5,
    "validation_share": 0.25,
    "history": "all",
    "ties": "order",
    "seed": 0,
}


def built(movelines, **choices):
    """A Dataset of one shard; random stores whose periods come out empty are no example."""
    try:
        return build_dataset(movelines, **(CHOICES | choices))
    except DataError as error:
        assume("without impressions" not in str(error))
        raise


def log_of(random_movelines, *users):
    """A store of (time, item, label) events of each user."""
    lines = random_movelines(0, users=len(users), items=9, events=(1, 1))
    events = [event for user in users for event in user]
    time, item, label = (np.array(column) for column in zip(*events, strict=True))
    return dataclasses.replace(
        lines,
        user_offsets=np.append(0, np.cumsum([len(user) for user in users])),
        item=item.astype(np.int32),
        time=time.astype(np.int64),
        label=label.astype(np.int8),
        scene=np.ones(len(events), np.int32),
        action=np.ones(len(events), np.int32),
    )


@given(
    seed=st.integers(0, 10**6),
    seconds=st.sampled_from([12, 56 * DAY]),
    count=st.integers(1, 3),
    exclude=st.sampled_from(["user", "basket"]),
)
def test_each_positive_gets_negatives_of_its_window(
    random_movelines, seed, seconds, count, exclude
):
    lines = random_movelines(seed, items=12, seconds=seconds)
    store, source = sample_negatives(lines, count, exclude, seed, days=7.0)
    sampled = np.append(np.diff(source) == 0, False)
    # Without the new rows, the store is what it was, row by row.
    for name in ("item", "scene", "action", "time", "label", "user"):
        np.testing.assert_array_equal(getattr(store, name)[~sampled], getattr(lines, name))
    np.testing.assert_array_equal(source[~sampled], np.arange(lines.num_events))
    assert (np.diff(store.user_offsets) >= np.diff(lines.user_offsets)).all()
    without = 0
    for row in range(lines.num_events):
        mine = np.flatnonzero(sampled & (source == row))
        window = abs(lines.time - lines.time[row]) <= 7 * DAY
        offered = set(lines.item[window & (lines.label == 1)])
        bought = (lines.label == 1) & (lines.user == lines.user[row])
        if exclude == "basket":
            bought &= lines.time == lines.time[row]
        offered -= set(lines.item[bought])
        expected = count if lines.label[row] == 1 and offered else 0
        without += lines.label[row] == 1 and not offered
        assert len(mine) == expected
        assert set(store.item[mine]) <= offered
        assert (store.label[mine] == 0).all()
        for name in ("scene", "time", "user"):
            assert (getattr(store, name)[mine] == getattr(lines, name)[row]).all()
    assert store.counts == {"sampled_negatives": sampled.sum(), "without_negatives": without}


@given(
    seed=st.integers(0, 10**6),
    split=st.sampled_from(["temporal_user", "temporal_global", "random"]),
    history=st.sampled_from(["all", "positive"]),
    ties=st.sampled_from(["order", "exclude"]),
    frozen=st.booleans(),
)
def test_no_history_holds_them_and_theirs_is_their_positives(
    random_movelines, seed, split, history, ties, frozen
):
    # Every event shows an item of its own, so that a window names the events that it holds.
    lines = random_movelines(seed, users=8, seconds=9, distinct_items=True)
    choices = {"split": split, "history": history, "ties": ties}
    plain, dataset = built(lines, **choices), built(lines, negatives=2, **choices)
    sampled, store = dataset.sampled, jax.tree.map(lambda x: x[0], dataset.stores)
    assert sampled.sum() > 0 and not dataset.eligible[sampled].any()
    assert not sampled[store.history_row].any()
    index = {"row": np.arange(len(sampled)), "frozen": np.full(len(sampled), frozen)}
    windows = gather_windows(store, index, 20)
    # A row that was drawn stands before its event: the next row that was not.
    event = np.flatnonzero(~sampled)[np.cumsum(~sampled) - ~sampled]
    assert (store.label[event[sampled]] == 1).all()
    np.testing.assert_array_equal(dataset.split, dataset.split[event])
    before = gather_windows(
        jax.tree.map(lambda x: x[0], plain.stores),
        {k: v[: lines.num_events] for k, v in index.items()},
        20,
    )
    for column, without in zip(windows, before, strict=True):
        np.testing.assert_array_equal(column, column[event])
        # And what events see is what they saw without negatives.
        np.testing.assert_array_equal(column[~sampled], without)


def test_they_are_no_events_of_train(random_movelines):
    lines = random_movelines(3, users=12, events=(6, 14))
    plain, dataset = built(lines), built(lines, negatives=2)
    events = ~dataset.sampled
    np.testing.assert_array_equal(dataset.train_events, events & (dataset.split == TRAIN))
    np.testing.assert_array_equal(*(np.array(d.train_entries(0)) for d in (plain, dataset)))
    targets = [
        SequencePlan(d, batch_size=4, length=4, seed=0).indices(0, 0) for d in (plain, dataset)
    ]
    np.testing.assert_array_equal(*(t["entry"] for t in targets))
    for period in (TRAIN, VALIDATION, TEST):
        assert dataset.sampled[dataset.impressions(0, period)].any()
        rows = dataset.impressions(0, period, sampled=False)
        assert not dataset.sampled[rows].any()
        assert len(rows) == len(plain.impressions(0, period))
    assert dataset.items["id"].tolist() == plain.items["id"].tolist()


def test_an_item_that_train_only_drew_stays_unknown(random_movelines):
    day = 86_400
    # The second user buys item 9 in the validation period, in the window of the first's rows.
    lines = log_of(
        random_movelines,
        [(day, 1, 1), (2 * day, 1, 1), (3 * day, 1, 1), (4 * day, 1, 1)],
        [(day, 1, 1), (2 * day, 1, 1), (3 * day, 9, 1), (4 * day, 9, 1)],
    )
    dataset = built(lines, negatives=1, negatives_exclude="user", negatives_days=7.0)
    drawn = dataset.sampled & (dataset.split == TRAIN)
    assert dataset.movelines.item[drawn].tolist() == [9, 9]
    assert not dataset.seen_item[9] and dataset.items["id"][9] == 1
    assert dataset.movelines.counts["without_negatives"] == 4  # of the second: nothing is left


def test_items_are_drawn_by_popularity_in_the_window(random_movelines):
    # Season 0: item 1 bought 81 times, item 2 16 times, item 3 once: 27 : 8 : 1. Season 1: item 4.
    buyers = [(10 + n, 1, 1) for n in range(81)] + [(10 + n, 2, 1) for n in range(16)] + [(9, 3, 1)]
    shown = [(20 + n, 5, 1) for n in range(600)]
    lines = log_of(
        random_movelines,
        sorted(buyers),
        shown + [(14 * DAY + n, 5, 1) for n in range(50)],
        [(14 * DAY + 7, 4, 1)],
    )
    store, source = sample_negatives(lines, 10, "user", 0, days=7.0)
    sampled = np.append(np.diff(source) == 0, False)
    season = store.time // (14 * DAY)
    counts = np.bincount(store.item[sampled & (store.user == 1) & (season == 0)], minlength=6)
    assert counts.sum() == 6000 and counts[[4, 5]].sum() == 0
    expected = np.array([27, 8, 1]) / 36
    error = np.sqrt(expected * (1 - expected) / 6000)
    assert (abs(counts[1:4] / 6000 - expected) < 4 * error).all()
    late = store.item[sampled & (store.user == 1) & (season == 1)]
    assert late.tolist() == [4] * 500


def test_a_user_who_has_bought_nearly_everything_gets_the_rest(random_movelines):
    # Drawing again and again would hardly ever hit item 9: 1 in 1,000 to the power 3/4.
    mine = [(10 + n, 1, 1) for n in range(1000)]
    lines = log_of(random_movelines, mine, [(5, 9, 1)])
    store, source = sample_negatives(lines, 1, "user", 0, days=7.0)
    sampled = np.append(np.diff(source) == 0, False)
    assert store.item[sampled & (store.user == 0)].tolist() == [9] * 1000


def short_log(random_movelines, life, days=17.0, items=600, users=400):
    """Purchases of `days` days; an item is bought `life` days long, some more often than others."""
    rng = np.random.default_rng(0)
    born = rng.uniform(-life, days, items)
    number = rng.poisson(30 * rng.lognormal(0, 0.7, items))
    item = np.repeat(np.arange(1, items + 1), number)
    time = np.repeat(born, number) + rng.uniform(0, life, len(item))
    item, time = item[(time > 0) & (time < days)], time[(time > 0) & (time < days)]
    user = np.sort(rng.integers(0, users, len(item)))
    order = np.lexsort((time, user))
    lines = random_movelines(0, users=users, items=items, events=(1, 1))
    return dataclasses.replace(
        lines,
        user_offsets=np.searchsorted(user, np.arange(users + 1)),
        item=item[order].astype(np.int32),
        time=(time[order] * DAY).astype(np.int64),
        label=np.ones(len(item), np.int8),
        scene=np.ones(len(item), np.int32),
        action=np.ones(len(item), np.int32),
    )


@pytest.mark.parametrize("life", [0.5, 1.5, 5.0])
def test_where_all_items_turn_over_drawn_items_are_as_new_as_bought_ones(random_movelines, life):
    lines = short_log(random_movelines, life)
    choices = {"split": "temporal_global", "train_share": 0.8, "validation_share": 0.1}
    dataset = built(lines, negatives=1, **choices)
    rows = dataset.impressions(0, TEST)
    label, item, time = (getattr(dataset.movelines, n)[rows] for n in ("label", "item", "time"))
    unseen = ~dataset.seen_item[item]
    assert unseen[label == 1].mean() > (0.9 if life < 2 else 0.3)
    assert abs(unseen[label == 1].mean() - unseen[label == 0].mean()) < 0.05
    # Nor does an item without an earlier event give a label away.
    pool = _Pool(lines)
    new = pool.first[item] >= time - lines.time.min()
    assert abs(new[label == 1].mean() - new[label == 0].mean()) < 0.05
    reach = window_seconds(pool, 0)
    assert reach < life * DAY / 2
    # Purchases of an item so far predict labels, as far as drawing by count^.75 leaves it.
    earlier = pool.count(item, time - lines.time.min(), 20 * DAY)
    assert ctr.auc(label, earlier.astype(np.float64)) > 0.5


def test_a_catalogue_that_stays_has_the_longest_window(random_movelines):
    lines = short_log(random_movelines, life=300.0, days=100.0)
    assert window_seconds(_Pool(lines), 0) == LONGEST
    assert TOLERANCE < 0.05  # what the shares above may differ by


def test_the_seed_decides_and_label_share_only_takes_away(random_movelines):
    lines = random_movelines(4, users=30, items=30, events=(10, 14))
    one, same, other = (sample_negatives(lines, 1, "user", s)[0].item for s in (1, 1, 2))
    assert one.tolist() == same.tolist() != other.tolist()
    full, half = (built(lines, negatives=2, label_share=share) for share in (1.0, 0.5))
    np.testing.assert_array_equal(full.movelines.item, half.movelines.item)
    kept = half.impressions(0, TRAIN)
    assert set(kept) < set(full.impressions(0, TRAIN))
    # A positive keeps its label together with its negatives.
    group = np.cumsum(~half.sampled) - ~half.sampled
    positive = kept[half.movelines.label[kept] == 1]
    assert set(group[kept[half.sampled[kept]]]) == set(group[positive])
    assert set(np.bincount(group[kept[half.sampled[kept]]])) == {0, 2}


def test_labels_of_some_scenes_leave_movelines_whole(random_movelines):
    lines = random_movelines(5, users=20, events=(10, 14))
    lines = dataclasses.replace(lines, vocabulary={"scene": np.array(["home", "feed", "deep"])})
    for history in ("all", "positive"):
        full, some = (built(lines, history=history, label_scenes=s) for s in ("", "feed+deep"))
        chosen = np.isin(lines.scene, (2, 3))
        for period in (TRAIN, VALIDATION, TEST):
            expected = chosen & (lines.label != NO_LABEL) & (some.split == period)
            assert some.impressions(0, period).tolist() == np.flatnonzero(expected).tolist()
        index = {"row": np.arange(lines.num_events)}
        seen = [
            gather_windows(jax.tree.map(lambda x: x[0], d.stores), index, 6).item
            for d in (full, some)
        ]
        np.testing.assert_array_equal(*seen)
        np.testing.assert_array_equal(full.stores.label, some.stores.label)
    # The cut is by the impressions of the scenes: half of a user's are train.
    user = np.flatnonzero(np.bincount(lines.user[chosen & (lines.label != NO_LABEL)]) >= 4)[0]
    mine = chosen & (lines.label != NO_LABEL) & (lines.user == user)
    assert (some.split[mine] == TRAIN).sum() == mine.sum() // 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"negatives": -1}, "negatives=-1 is negative"),
        ({"negatives": 1, "negatives_days": -1.0}, "negatives_days=-1.0 is negative"),
        ({"negatives": 1, "negatives_exclude": "users"}, "did you mean 'user'"),
        ({"label_scenes": "feed+hom"}, "label_scenes='hom' is none of .*did you mean 'home'"),
    ],
)
def test_a_bad_choice_is_named(random_movelines, change, message):
    lines = random_movelines(6, users=20)
    lines = dataclasses.replace(lines, vocabulary={"scene": np.array(["home", "feed", "deep"])})
    with pytest.raises(ConfigError, match=message):
        build_dataset(lines, **(CHOICES | change))
