"""The moveline store: order, ties, duplicates, identifiers and features."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nif_jax.data import movelines
from nif_jax.data.movelines import prepare
from nif_jax.data.schema import NO_LABEL, PAD, DataError, RawTables

COLUMNS = ["user_id", "item_id", "timestamp", "scene", "action", "label"]


def raw_tables(rows, items=None, users=None, columns=COLUMNS):
    """RawTables of events given as tuples; the items and users tables default to ids alone."""
    events = pd.DataFrame(rows, columns=columns)
    items = pd.DataFrame({"item_id": []} if items is None else items)
    users = pd.DataFrame({"user_id": []} if users is None else users)
    return RawTables("toy", events, items, users, "made up")


def row(user="u", item="a", time=1, scene="s", action="x", label=1):
    return (user, item, time, scene, action, label)


def decoded(store):
    """Events of a store as tuples with their names."""
    v = store.vocabulary
    return list(
        zip(
            v["user"][store.user].tolist(),
            v["item"][store.item - 1].tolist(),
            store.time.tolist(),
            v["scene"][store.scene - 1].tolist(),
            v["action"][store.action - 1].tolist(),
            store.label.tolist(),
            strict=True,
        )
    )


EVENT = st.tuples(
    st.sampled_from(["u", "v", "w10"]),
    st.sampled_from(["a", "b", "c12"]),
    st.integers(0, 3),
    st.sampled_from(["s", "t"]),
    st.sampled_from(["x", "y"]),
    st.sampled_from([0, 1, NO_LABEL]),
)


@settings(deadline=None, max_examples=50)
@given(st.lists(EVENT, min_size=1, max_size=40), st.randoms(use_true_random=False))
def test_any_order_of_rows_gives_the_same_complete_sorted_store(rows, random):
    store = prepare(raw_tables(rows), seed=3)
    assert sorted(decoded(store)) == sorted(set(rows))
    assert store.counts["duplicates_dropped"] == len(rows) - len(set(rows))
    assert store.user_offsets[0] == 0 and store.user_offsets[-1] == store.num_events
    for start, end in zip(store.user_offsets[:-1], store.user_offsets[1:], strict=True):
        assert end > start and (np.diff(store.time[start:end]) >= 0).all()
    random.shuffle(rows)
    assert decoded(prepare(raw_tables(rows), seed=3)) == decoded(store)


def test_types_and_identifiers_are_as_the_schema_says():
    rows = [row(user=10, item=5, time=2), row(user=9, item=40, time=1, label=0)]
    store = prepare(raw_tables(rows, items={"item_id": [100, 5]}), seed=0)
    assert store.vocabulary["user"].tolist() == ["9", "10"]  # numbers in numerical order
    assert store.vocabulary["item"].tolist() == ["5", "40", "100"]
    assert store.item.tolist() == [2, 1] and store.user_offsets.tolist() == [0, 1, 2]
    types = {"item": "int32", "scene": "int32", "action": "int32", "time": "int64", "label": "int8"}
    assert {name: getattr(store, name).dtype.name for name in types} == types
    assert store.user_offsets.dtype == np.int64
    assert store.num_items == 3 and store.titles.tolist() == ["", "", ""]


class TestTies:
    ROWS = tuple(row(item=f"i{i}", time=7) for i in range(30))

    def test_same_seed_same_order_other_seed_other_order(self):
        raw = raw_tables(self.ROWS)
        one, same, other = (prepare(raw, seed).item.tolist() for seed in (1, 1, 2))
        assert one == same
        assert one != other and sorted(one) == sorted(other)

    def test_neither_file_order_nor_item_order_shows(self):
        positions = [prepare(raw_tables(self.ROWS), seed).item for seed in range(100)]
        mean = np.mean(positions, axis=0)  # [30], the average item at each place
        # Uniform on 1..30 has sd 8.7, so a mean of 100 has sd 0.87.
        assert np.abs(mean - 15.5).max() < 5 * 0.87

    def test_counted(self):
        rows = [*self.ROWS, row(user="v", time=7), row(user="v", time=8)]
        assert prepare(raw_tables(rows), 0).counts["tied_rows"] == 30


class TestCounts:
    def test_unsorted_rows(self):
        rows = [row(time=5), row(user="v", time=1), row(time=3), row(time=4), row(time=2)]
        store = prepare(raw_tables(rows), seed=0)
        assert store.counts["unsorted_rows"] == 2  # 3 after 5, 2 after 4; v's row is in order
        assert store.time.tolist() == [2, 3, 4, 5, 1]

    def test_duplicates_are_equal_in_every_column(self):
        columns = [*COLUMNS, "price"]
        rows = [(*row(), 1.0), (*row(), 2.0), (*row(), 1.0), (*row(), np.nan), (*row(), np.nan)]
        store = prepare(raw_tables(rows, columns=columns), seed=0)
        assert store.counts["duplicates_dropped"] == 2 and store.num_events == 3

    def test_rows_without_a_partner_in_the_other_table(self):
        items = {"item_id": ["a", "z"], "kind": ["k", "l"]}
        users = {"user_id": ["u", "idle1", "idle2"], "sex": ["f", "m", "m"]}
        rows = [row(), row(item="b"), row(user="v")]
        store = prepare(raw_tables(rows, items, users), seed=0)
        assert store.counts["items_without_features"] == 1
        assert store.counts["items_without_events"] == 1
        assert store.counts["users_without_features"] == 1
        assert store.counts["users_without_events"] == 2
        assert store.vocabulary["item"].tolist() == ["a", "b", "z"]
        assert store.item_features["kind"].tolist() == [[PAD], [1], [PAD], [2]]
        assert store.user_features["sex"].tolist() == [1, PAD]


class TestFeatures:
    def test_sets_hand_computed(self):
        items = {"item_id": ["a", "b", "c"], "genres": ["Drama|War", None, "War| Sci-Fi|War"]}
        store = prepare(raw_tables([row()], items), seed=0)
        assert store.vocabulary["item/genres"].tolist() == ["War", "Drama", "Sci-Fi"]
        assert store.item_features["genres"].tolist() == [[0, 0], [2, 1], [0, 0], [1, 3]]
        assert store.item_features["genres"].dtype == np.int32

    def test_title_words_need_five_titles(self):
        titles = ["The Red-Hat", "the RED the", "red one", "Red_two", "red", "the", "the", "hat"]
        items = {"item_id": [f"i{i}" for i in range(8)], "title": titles}
        store = prepare(raw_tables([row(item="i0")], items), seed=0)
        # "red" is in 5 titles ("Red_two" is two words), "the" in 4.
        assert store.vocabulary["item/title"].tolist() == ["red"]
        assert store.item_features["title"].tolist() == [[0]] + [[1]] * 5 + [[0]] * 3
        assert store.titles.tolist() == titles

    def test_at_most_twelve_title_words(self):
        words = " ".join(f"w{i}" for i in range(20))
        items = {"item_id": [f"i{i}" for i in range(5)], "title": [words] * 5}
        ids = prepare(raw_tables([row(item="i0")], items), seed=0).item_features["title"]
        assert ids.shape == (6, 12)

    def test_continuous_values_are_binned_by_mass(self):
        price = np.random.default_rng(0).exponential(size=1600)
        items = {"item_id": [f"i{i}" for i in range(1600)], "price": price}
        store = prepare(raw_tables([row(item="i0")], items), seed=0)
        ids = store.item_features["price"][1:, 0]
        assert np.bincount(ids)[1:].tolist() == [100] * 16

    def test_whole_floats_are_categories(self):
        items = {"item_id": ["a", "b", "c"], "year": [1995.0, np.nan, 2001.0]}
        store = prepare(raw_tables([row()], items), seed=0)
        assert store.vocabulary["item/year"].tolist() == ["1995", "2001"]
        assert store.item_features["year"].tolist() == [[0], [1], [0], [2]]

    def test_column_without_values_is_left_out(self):
        items = {"item_id": ["a"], "title": [None], "kind": [np.nan]}
        store = prepare(raw_tables([row()], items), seed=0)
        assert dict(store.item_features) == {} and store.titles.tolist() == [""]


class TestErrors:
    @pytest.mark.parametrize(
        ("bad", "message"),
        [
            (row(time=-1), "column 'timestamp', row 1: value .*-1.* is negative"),
            (row(time=10**12), "looks like milliseconds"),
            (row(label=3), "column 'label', row 1: value .*3.* is not a label"),
            (row(user=None), "column 'user_id', row 1"),
        ],
    )
    def test_contract_is_checked(self, bad, message):
        with pytest.raises(DataError, match=message):
            prepare(raw_tables([row(), bad]), seed=0)

    def test_missing_column(self):
        raw = raw_tables([row()[:5]], columns=COLUMNS[:5])
        with pytest.raises(DataError, match="toy events: no column 'label'"):
            prepare(raw, seed=0)

    def test_repeated_item(self):
        with pytest.raises(DataError, match="row 1: value 'a' stands there twice"):
            prepare(raw_tables([row()], items={"item_id": ["a", "a"]}), seed=0)

    def test_too_many_ids_for_int32(self, monkeypatch):
        monkeypatch.setattr(movelines, "MAX_ID", 4)
        three, four = ([row(item=f"i{i}") for i in range(n)] for n in (3, 4))
        assert prepare(raw_tables(three), seed=0).num_items == 3
        with pytest.raises(DataError, match="column 'item_id' has 4 distinct values"):
            prepare(raw_tables(four), seed=0)
