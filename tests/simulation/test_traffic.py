"""Simulated traffic: drawn by the law, and laid behind stores without touching a history."""

import jax
import numpy as np
import pytest

from nif_jax.data import sources
from nif_jax.data.counters import Queries
from nif_jax.data.dataset import build_dataset, with_statistics
from nif_jax.data.movelines import prepare
from nif_jax.data.windows import gather_impressions
from nif_jax.simulation.traffic import draw_traffic, lay_behind

KNOBS = {"num_users": 15, "num_items": 20, "events_per_user": 8.0, "turnover": 0.5}


@pytest.fixture(scope="module")
def lines():
    return prepare(sources.load("synthetic", seed=1, **KNOBS), seed=1)


@pytest.fixture(scope="module")
def traffic(lines):
    world = sources.world("synthetic", lines, seed=1, **KNOBS)
    return draw_traffic(lines, world, impressions=4, slate=5, seed=2)


def make_dataset(lines, shards, history="all"):
    return build_dataset(
        lines,
        split="temporal_user",
        train_share=0.6,
        validation_share=0.2,
        history=history,
        ties="order",
        seed=0,
        num_shards=shards,
        local_shards=tuple(range(shards)),
    )


class TestDraw:
    def test_impressions_follow_all_events_of_their_user(self, lines, traffic):
        assert np.bincount(traffic.user).tolist() == [4] * 15
        last = lines.time[lines.user_offsets[1:] - 1]
        assert (traffic.time > last[traffic.user]).all()

    def test_probabilities_are_the_worlds_and_candidates_alive(self, lines, traffic):
        world = sources.world("synthetic", lines, seed=1, **KNOBS)
        for v in (0, 17, 59):
            at = [np.array([x]) for x in (traffic.user[v], traffic.scene[v] - 1, traffic.time[v])]
            for c in range(5):
                item = traffic.slate[v, c] - 1
                logit = world.log_odds(*at, np.array([item]))[0]
                assert traffic.probability[v, c] == pytest.approx(1 / (1 + np.exp(-logit)))
                assert world.enter[item] <= traffic.time[v] < world.leave[item]

    def test_the_seed_decides(self, lines, traffic):
        world = sources.world("synthetic", lines, seed=1, **KNOBS)
        same, other = (draw_traffic(lines, world, impressions=4, slate=5, seed=s) for s in (2, 3))
        jax.tree.map(np.testing.assert_array_equal, vars(same), vars(traffic))
        assert not np.array_equal(other.slate, traffic.slate)


class TestLayBehind:
    @pytest.mark.parametrize("history", ["all", "positive"])
    @pytest.mark.parametrize("shards", [1, 3])
    def test_each_candidate_sees_its_users_whole_moveline(self, lines, traffic, shards, history):
        dataset = make_dataset(lines, shards, history)
        laid, shard_rows, place = lay_behind(dataset, traffic)
        assert sorted(place) == list(range(traffic.slate.size))
        begin = 0
        for shard, rows in enumerate(shard_rows):
            chosen = place[begin : begin + len(rows)]
            begin += len(rows)
            store = jax.tree.map(lambda x, s=shard: x[s], laid.stores)
            index = {"row": rows, "weight": np.ones(len(rows)), "pair": np.zeros(len(rows) // 2)}
            batch = gather_impressions(store, index, 30)
            v, c = np.divmod(chosen, 5)
            np.testing.assert_array_equal(batch.item, traffic.slate[v, c])
            np.testing.assert_array_equal(batch.scene, traffic.scene[v])
            for i in range(0, len(rows), 7):
                user = traffic.user[v[i]]
                past = slice(*lines.user_offsets[user : user + 2])
                kept = np.ones(past.stop - past.start, bool)
                if history == "positive":
                    kept = lines.label[past] == 1
                window = batch.history.item[i][batch.history.mask[i]]
                np.testing.assert_array_equal(window, lines.item[past][kept])
                np.testing.assert_array_equal(
                    batch.user_features["leaning"][i], lines.user_features["leaning"][user]
                )
                seconds = store.time[rows[i]] + lines.time.min()
                assert seconds == traffic.time[v[i]]

    def test_the_rows_before_are_what_they_were(self, lines, traffic):
        dataset = make_dataset(lines, 2)
        laid, _, _ = lay_behind(dataset, traffic)
        events = dataset.stores.item.shape[1]
        for name, old in dataset.stores._asdict().items():
            new = getattr(laid.stores, name)
            if name == "user_features":
                old, new = old["leaning"], new["leaning"]
            else:
                new = new[:, :events] if name != "history_row" else new
            assert old.dtype == new.dtype, name
            np.testing.assert_array_equal(old, new, err_msg=name)

    @pytest.mark.parametrize("shards", [1, 3])
    def test_count_features_of_candidates_read_the_whole_moveline(self, lines, traffic, shards):
        dataset = with_statistics(make_dataset(lines, shards), ["all"])
        laid, shard_rows, place = lay_behind(dataset, traffic)
        old, new = dataset.statistics["all"], laid.statistics["all"]
        before = old.arrays["values"]
        np.testing.assert_array_equal(new.arrays["values"][:, : before.shape[1]], before)
        v, c = np.divmod(place, 5)
        user = traffic.user[v]
        queries = Queries(
            user,
            lines.user_offsets[user + 1],
            traffic.time[v],
            traffic.slate[v, c],
            traffic.scene[v],
            np.ones(len(v), bool),
        )
        expected, begin = old.fitted.values(queries), 0
        for shard, rows in enumerate(shard_rows):
            store, arrays = (
                jax.tree.map(lambda x, s=shard: x[s], tree) for tree in (laid.stores, new.arrays)
            )
            for frozen in (False, True):
                index = {"row": rows, "weight": np.ones(len(rows)), "pair": np.zeros(1)}
                index["frozen"] = np.full(len(rows), frozen)
                batch = gather_impressions(store, index, 30, statistics=arrays)
                part = expected[begin : begin + len(rows)].astype(np.float32)
                np.testing.assert_array_equal(batch.statistics, part)
            begin += len(rows)
