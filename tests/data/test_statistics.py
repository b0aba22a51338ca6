"""Count features against loops over events, and what they may not depend on."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nif_jax.data import own_events, past_events, splits
from nif_jax.data.counters import Counters, Queries
from nif_jax.data.dataset import build_dataset, with_statistics
from nif_jax.data.histories import visible_rows
from nif_jax.data.schema import NO_LABEL
from nif_jax.data.statistics import fit


def counters_of(lines, train, sampled=None):
    sampled = np.zeros(lines.num_events, bool) if sampled is None else sampled
    columns = (lines.user, lines.item, lines.scene, lines.time)
    return Counters(*columns, lines.label, ~sampled, train, lines.item_features)


def every_row(lines, train, row):
    return Queries(lines.user, row, lines.time, lines.item, lines.scene, ~train)


def columns_of(lines, split, ties="order", cut=False):
    train = split == splits.TRAIN
    visible = visible_rows(lines, split, ties)[int(cut)]
    return dict(counters_of(lines, train).columns(every_row(lines, train, visible)))


def log_odds(p):
    return np.log(p) - np.log1p(-p)


def naive(lines, split, ties, cut):
    """The statistics of each row, by loops over the events before it."""
    train, rows = split == splits.TRAIN, range(lines.num_events)
    found = []
    for r in rows:
        user, item, time = lines.user[r], lines.item[r], lines.time[r]
        own = [q for q in rows if lines.user[q] == user and q < r]
        if ties == "exclude":
            own = [q for q in own if lines.time[q] < time]
        if cut and not train[r]:
            own = [q for q in own if split[q] < split[r]]
            first = min(q for q in rows if lines.user[q] == user and split[q] == split[r])
            own = [q for q in own if q < first]
        past = [q for q in rows if train[q] and (not train[r] or lines.time[q] < time)]

        def rate(events, expected, prior):
            known = [q for q in events if lines.label[q] != NO_LABEL]
            positive = sum(lines.label[q] == 1 for q in known)
            return (positive + prior * expected) / (len(known) + prior)

        expected = rate(past, 0.5, 2.0)
        user_rate = rate(own, expected, 3.0)
        labelled = [q for q in own if lines.label[q] != NO_LABEL]
        row = {
            "user events": np.log1p(len(own)),
            "user rate": log_odds(user_rate),
            "user rate of last 5": log_odds(rate(labelled[-5:], user_rate, 1.0)),
            "user seconds since": np.log1p(time - lines.time[own[-1]]) if own else np.nan,
        }
        for name in ("item", "genre", "scene"):

            def values(q, name=name):
                if name == "genre":
                    return [v for v in lines.item_features["genre"][lines.item[q]] if v]
                return [getattr(lines, name)[q]]

            mine = values(r)
            same = [q for q in past for v in values(q) for w in mine if v == w]
            row[f"{name} events"] = np.log1p(len(same))
            row[f"{name} rate"] = log_odds(rate(same, expected, 5.0))
            same = [q for q in own for v in values(q) for w in mine if v == w]
            row[f"user and {name} events"] = np.log1p(len(same))
            row[f"user and {name} rate"] = log_odds(rate(same, user_rate, 2.0))
            since = np.log1p(time - lines.time[same[-1]]) if same else np.nan
            row[f"user and {name} seconds since"] = since
        items = [lines.time[q] for q in past if lines.item[q] == item]
        row["item age"] = np.log1p(time - min(items)) if items and min(items) < time else np.nan
        found.append(row)
    return {name: np.array([row[name] for row in found]) for name in found[0]}


@pytest.mark.parametrize("ties", ["order", "exclude"])
@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("kind", ["temporal_user", "temporal_global"])
def test_equals_loops_over_events(random_movelines, ties, cut, kind):
    for seed in range(3):
        lines = random_movelines(seed, users=5, items=4, events=(4, 16))
        split = splits.assign_splits(lines, kind, 0.6, 0.2, 0)
        found, expected = columns_of(lines, split, ties, cut), naive(lines, split, ties, cut)
        for name, column in expected.items():
            np.testing.assert_allclose(found[name], column, rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("block", [1, 5, 16])
def test_blocks_change_nothing(random_movelines, monkeypatch, block):
    lines = random_movelines(5, users=9, events=(1, 12), seconds=60)
    split = splits.assign_splits(lines, "temporal_global", 0.6, 0.2, 0)
    expected = columns_of(lines, split, "exclude", cut=True)
    for module in (own_events, past_events):
        monkeypatch.setattr(module, "BLOCK", block)
    found = columns_of(lines, split, "exclude", cut=True)
    for name, column in expected.items():
        np.testing.assert_array_equal(found[name], column, err_msg=name)


def test_totals_give_later_queries_what_the_events_give(random_movelines):
    lines = random_movelines(3, users=8, events=(4, 12))
    split = splits.assign_splits(lines, "temporal_global", 0.6, 0.2, 0)
    train = split == splits.TRAIN
    whole = counters_of(lines, train)
    columns = (lines.user, lines.item, lines.scene, lines.time, lines.label)
    totals = Counters.of_past(past_events.Past.of_arrays(whole.past.arrays()))
    totals = totals.with_movelines(*columns, np.ones(lines.num_events, bool))
    queries = every_row(lines, train, np.arange(lines.num_events))
    with pytest.raises(ValueError, match="every query has to be after the train period"):
        dict(totals.columns(queries))
    later = queries._replace(later=np.ones(lines.num_events, bool))
    expected, found = (dict(counters.columns(later)) for counters in (whole, totals))
    assert list(found) == list(expected)
    for name, column in expected.items():
        np.testing.assert_array_equal(found[name], column)


def test_candidates_equal_a_row_that_has_them(random_movelines):
    """A candidate after the last event of its user has the statistics of such a row."""
    lines = random_movelines(6, users=8, events=(4, 12))
    split = splits.assign_splits(lines, "temporal_user", 0.6, 0.2, 0)
    train = split == splits.TRAIN
    last = lines.user_offsets[1:] - 1
    known = counters_of(lines, train, sampled=np.isin(np.arange(lines.num_events), last))
    rows = dict(known.columns(every_row(lines, train, np.arange(lines.num_events))))
    order = np.random.default_rng(0).permutation(last)
    user, item, scene, time = (c[order] for c in (lines.user, lines.item, lines.scene, lines.time))
    behind = lines.user_offsets[user + 1]  # all rows of the user
    candidates = Queries(user, behind, time, item, scene, ~train[order])
    for name, column in known.columns(candidates):
        if not name.endswith("events since"):
            np.testing.assert_array_equal(column, rows[name][order], err_msg=name)


@given(st.integers(0, 50), st.data())
def test_own_and_later_labels_change_nothing(random_movelines, seed, data):
    lines = random_movelines(seed, events=(3, 12), seconds=60, unlabelled=0.1)
    split = splits.assign_splits(lines, "temporal_global", 0.6, 0.2, 0)
    changed = data.draw(st.integers(0, lines.num_events - 1))
    label = lines.label.copy()
    label[changed] = data.draw(
        st.sampled_from([v for v in (0, 1, NO_LABEL) if v != label[changed]])
    )
    other = dataclasses.replace(lines, label=label)
    cut = data.draw(st.booleans())
    ties = data.draw(st.sampled_from(["order", "exclude"]))
    before, after = (columns_of(store, split, ties, cut) for store in (lines, other))
    same_user = lines.user == lines.user[changed]
    # Rows of the user up to the changed one, and rows of others at its second or earlier. Labels
    # after train are seen by the user's own later rows only.
    rows = np.arange(lines.num_events)
    safe = np.where(same_user, rows <= changed, lines.time <= lines.time[changed])
    if split[changed] != splits.TRAIN:
        safe |= ~same_user
    for name in before:
        np.testing.assert_array_equal(before[name][safe], after[name][safe], err_msg=name)


def test_a_changed_label_changes_later_rows(random_movelines):
    lines = random_movelines(0, events=(6, 12), unlabelled=0.0, label_free_users=0.0)
    split = splits.assign_splits(lines, "temporal_user", 0.6, 0.2, 0)
    label = lines.label.copy()
    label[0] = 1 - label[0]
    before = columns_of(lines, split)
    after = columns_of(dataclasses.replace(lines, label=label), split)
    for name in ("user rate", "user and item last label", "item rate"):
        assert not np.array_equal(before[name], after[name]), name


def test_sampled_negatives_are_no_events(random_movelines):
    lines = random_movelines(1, events=(6, 12))
    sampled = np.zeros(lines.num_events, bool)
    sampled[3] = True
    train = np.ones(lines.num_events, bool)
    queries = every_row(lines, train, np.arange(lines.num_events))
    found = dict(counters_of(lines, train, sampled).columns(queries))
    row = np.arange(lines.num_events)
    expected = row - lines.user_offsets[lines.user] - ((row > 3) & (lines.user == lines.user[3]))
    np.testing.assert_allclose(found["user events"], np.log1p(expected), rtol=1e-6)


def test_standardised_on_the_fitted_queries(random_movelines):
    lines = random_movelines(2, users=30, events=(6, 12))
    train = splits.assign_splits(lines, "temporal_user", 0.6, 0.2, 0) == splits.TRAIN
    queries = every_row(lines, train, np.arange(lines.num_events))
    statistics, columns = fit(counters_of(lines, train), queries, np.flatnonzero(train))
    values = np.stack(columns, axis=1)
    fitted = values[train].astype(float)
    np.testing.assert_allclose(fitted.mean(0), 0, atol=0.02)
    assert values.dtype == np.float16 and np.isfinite(values).all()
    np.testing.assert_array_equal(statistics.values(queries), values)
    some = np.array([8, 3, 120, 5])
    part = Queries(*(column[some] for column in queries[:-1]))
    np.testing.assert_array_equal(statistics.values(part), values[some])
    none = Queries(*(column[:0] for column in queries[:-1]))
    assert statistics.values(none).shape == (0, len(statistics.names))


@pytest.mark.parametrize("shards", [1, 2])
def test_rows_of_a_shard_are_those_of_the_store(random_movelines, shards):
    lines = random_movelines(3, users=8, events=(6, 12))
    build = {"split": "temporal_user", "train_share": 0.6, "validation_share": 0.2}
    build |= {"history": "all", "ties": "order", "seed": 0}
    whole = with_statistics(build_dataset(lines, **build), ["all"])
    dataset = build_dataset(lines, **build, num_shards=shards, local_shards=range(shards))
    dataset = with_statistics(dataset, ["all"])
    one, found = whole.statistics["all"], dataset.statistics["all"]
    order = np.argsort(whole.shard_rows[0])
    for shard, rows in enumerate(dataset.shard_rows):
        values, cut_values, cut = (found.arrays[k][shard] for k in ("values", "cut_values", "cut"))
        np.testing.assert_array_equal(values[: len(rows)], one.arrays["values"][0][order][rows])
        train = dataset.split[rows] == splits.TRAIN
        np.testing.assert_array_equal(cut[: len(rows)] < 0, train)
        place = one.arrays["cut"][0][order][rows][~train]
        np.testing.assert_array_equal(
            cut_values[cut[: len(rows)][~train]], one.arrays["cut_values"][0][place]
        )


def test_statistics_of_labelled_rows_read_no_other_label(random_movelines):
    lines = random_movelines(4, users=12, events=(8, 16), unlabelled=0.0, label_free_users=0.0)
    build = {"split": "temporal_user", "train_share": 0.6, "validation_share": 0.2, "seed": 0}
    build |= {"history": "all", "ties": "order", "label_share": 0.3}
    dataset = build_dataset(lines, **build)
    hidden = (dataset.movelines.label == NO_LABEL) & (lines.label != NO_LABEL)
    assert hidden.any()
    label = np.where(hidden, 1 - lines.label, lines.label).astype(np.int8)
    other = build_dataset(dataclasses.replace(lines, label=label), **build)
    dataset, other = (with_statistics(d, ["all", "labelled"]) for d in (dataset, other))
    for name, same in (("labelled", True), ("all", False)):
        values = (d.statistics[name].arrays["values"] for d in (dataset, other))
        assert np.array_equal(*values) == same
