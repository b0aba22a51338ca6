"""Large logs laid out in files: equal to the layout in memory, and read shard by shard."""

import contextlib
import dataclasses
import logging

import jax
import numpy as np
import pytest

from nif_jax.data import ranges, splits
from nif_jax.data.dataset import build_dataset
from nif_jax.data.input import Epochs
from nif_jax.data.preparation import columnar, layout
from nif_jax.data.sampling import ImpressionPlan
from nif_jax.data.schema import ConfigError, DataError
from nif_jax.data.windows import gather_impressions
from nif_jax.training import scoring
from nif_jax.training.scoring import ScoringPlan

OPTIONS = {
    "split": "temporal_global",
    "time_zone": "UTC",
    "train_share": 0.6,
    "validation_share": 0.2,
    "history": "all",
    "ties": "order",
    "label_share": 1.0,
    "label_scenes": "",
    "seed": 0,
}


@pytest.fixture
def large(monkeypatch):
    """Every log is large, and has parts and shards of about 16 rows."""
    monkeypatch.setattr(ranges, "LARGE", 1)
    monkeypatch.setattr(columnar, "SHARD_ROWS", 16)


@pytest.fixture
def lines(random_movelines):
    lines = random_movelines(3, users=19, events=(3, 14))
    rng = np.random.default_rng(0)
    return dataclasses.replace(
        lines,
        vocabulary={"scene": np.array(["a", "b", "c"], object)},
        period=np.sort(rng.integers(0, 3, lines.num_events)).astype(np.int8),
        order_only=rng.random(lines.num_events) < 0.2,
    )


def laid_out(lines, cache_dir, num_shards=1, local_shards=None, **options):
    """What layout.load_dataset makes of a store in memory, and of what it wrote."""
    local = tuple(range(num_shards)) if local_shards is None else local_shards
    shards = {"num_shards": num_shards, "local_shards": local}
    read = lambda own=None: lines  # noqa: E731
    return layout.load_dataset(read, str(cache_dir), **OPTIONS | options, **shards)


def batch_of(dataset, shard, rows):
    store = jax.tree.map(lambda x: x[shard], dataset.stores)
    count = len(rows)
    for frozen in (False, True):
        index = {"row": rows, "frozen": np.full(count, frozen)}
        index |= {"weight": np.ones(count), "pair": np.zeros(count // 2)}
        yield gather_impressions(store, index, 6)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"split": "temporal_user", "history": "positive", "ties": "exclude"},
        {"split": "random", "label_share": 0.5},
        {"split": "column:part", "label_scenes": "a+c"},
    ],
)
@pytest.mark.parametrize("num_shards", [1, 3])
def test_files_hold_what_the_layout_in_memory_has(lines, large, tmp_path, num_shards, options):
    shards = {"num_shards": num_shards, "local_shards": tuple(range(num_shards))}
    memory = build_dataset(lines, **OPTIONS | options, **shards)
    mapped = laid_out(lines, tmp_path, num_shards, **options)
    names = ("split", "sampled", "event_label", "eligible", "visible", "cut", "num_labels")
    for name in (*names, "seen_item", "seen_user", "item_sizes", "user_sizes", "num_scenes"):
        np.testing.assert_array_equal(getattr(mapped, name), getattr(memory, name), name)
    np.testing.assert_array_equal(mapped.movelines.label, memory.movelines.label)
    np.testing.assert_array_equal(mapped.movelines.user, memory.movelines.user)
    assert mapped.movelines.digests == memory.movelines.digests
    for shard, rows in enumerate(memory.shard_rows):
        np.testing.assert_array_equal(np.asarray(mapped.shard_rows[shard]), rows)
        for found in zip(*(d.train_entries(shard) for d in (mapped, memory)), strict=True):
            np.testing.assert_array_equal(*found)
        for period in (splits.TRAIN, splits.VALIDATION, splits.TEST):
            chosen = [d.impressions(shard, period) for d in (mapped, memory)]
            np.testing.assert_array_equal(*chosen)
            batches = (batch_of(d, shard, chosen[1]) for d in (mapped, memory))
            for found, expected in zip(*batches, strict=True):
                jax.tree.map(np.testing.assert_array_equal, found, expected)
                assert found.label.dtype == expected.label.dtype
    padded = jax.tree.map(
        np.shape, jax.tree.map(np.asarray, mapped.stores._replace(user_features={}))
    )
    assert padded == jax.tree.map(np.shape, memory.stores._replace(user_features={}))


def test_errors_are_those_of_the_layout_in_memory(lines, large, tmp_path):
    with pytest.raises(DataError, match="without impressions"):
        laid_out(lines, tmp_path, split="dates:1970-01-01+1970-01-02")
    with pytest.raises(ConfigError, match="leaves none of the"):
        laid_out(lines, tmp_path, label_share=1e-9)
    with pytest.raises(DataError, match="19 users for 20 devices"):
        laid_out(lines, tmp_path, num_shards=20)
    assert not list(tmp_path.glob("layouts/*"))


@pytest.mark.parametrize("events", [(3, 14), (1, 1), (1, 60)])
def test_shards_are_ranges_of_users(random_movelines, events):
    offsets = random_movelines(1, users=11, events=events).user_offsets
    for num_shards in range(1, 12):
        cuts = ranges.cut_users(offsets, num_shards)
        assert len(cuts) == num_shards + 1 and cuts[0] == 0 and cuts[-1] == 11
        assert (np.diff(cuts) > 0).all()
        longest = np.diff(offsets).max()
        assert np.diff(offsets[cuts]).max() <= offsets[-1] / num_shards + longest * num_shards


def test_damage_is_reported_and_repaired(lines, large, tmp_path, caplog):
    first = np.array(laid_out(lines, tmp_path).movelines.user)
    path = next(tmp_path.glob("layouts/*/user.npy"))
    flip(path, -1)
    with caplog.at_level(logging.WARNING):
        again = laid_out(lines, tmp_path)
    assert "user.npy is not what was written" in caplog.text
    np.testing.assert_array_equal(again.movelines.user, first)


def flip(path, byte):
    content = bytearray(path.read_bytes())
    content[byte] ^= 1
    path.write_bytes(content)


class TestShardsOfOthers:
    """A process reads and verifies its own shards of a log and of its layout."""

    @pytest.fixture
    def prepared(self, lines, large, tmp_path):
        (tmp_path / "prepared").mkdir()
        columnar.write(lines, tmp_path / "prepared", {})
        self.load(tmp_path, (0, 1, 2))
        return tmp_path

    def load(self, folder, local_shards):
        read = lambda own=None: columnar.read(folder / "prepared", own)[0]  # noqa: E731
        shards = {"num_shards": 3, "local_shards": local_shards}
        return layout.load_dataset(read, str(folder), **OPTIONS, **shards)

    def test_are_not_read(self, prepared, caplog):
        # The last byte of every column is in the last user's events.
        for path in (*prepared.glob("prepared/*.npy"), *prepared.glob("layouts/*/*.npy")):
            if path.stem not in ("user_offsets", "seen_item", "seen_user"):
                flip(path, -1)
        with caplog.at_level(logging.WARNING):
            found = self.load(prepared, (0,))
        assert not caplog.text
        plan = ImpressionPlan(found, batch_size=4, seed=0)
        assert plan.steps_per_epoch > 1
        for step in range(plan.steps_per_epoch):
            row = Epochs(plan, (0,)).step(step)["row"]
            batch = gather_impressions(
                jax.tree.map(lambda x: x[0], found.stores),
                {"row": row[0], "weight": np.ones(4), "pair": np.zeros(2)},
                6,
            )
            assert np.isfinite(batch.label).all()
        with pytest.raises(ValueError, match="is not what was written"):
            self.load(prepared, (2,))

    def test_are_evaluated_by_their_own_processes(self, prepared, monkeypatch):
        """Metrics are of all rows, and no process reads the labels of other shards."""
        read = []

        class Column(np.ndarray):
            def __getitem__(self, rows):
                read.append(rows)
                return np.asarray(self)[rows]

        plans = [
            ScoringPlan(self.load(prepared, (shard,)), splits.VALIDATION, 4) for shard in range(3)
        ]
        label = plans[0].dataset.movelines.label
        sent = {1: [], 2: []}  # numbers of shards [1] and values [1, n]
        monkeypatch.setattr(scoring, "gather_processes", lambda x: sent[x.ndim].append(x) or x)
        for shard, plan in enumerate(plans):
            with contextlib.suppress(KeyError):  # the other processes have sent nothing
                plan.read(label.view(Column))
            rows = plan.dataset.shard_rows[shard]
            assert len(read) == shard + 1
            assert ((read[-1] >= rows.begin) & (read[-1] < rows.end)).all()
        monkeypatch.setattr(scoring, "gather_processes", lambda x: np.stack(sent[x.ndim]))
        np.testing.assert_array_equal(plans[1].read(label), label[plans[1].rows])


class TestOrder:
    """Epochs of large logs are ordered by a function of the place."""

    def test_each_row_once_in_another_order_for_each_epoch_and_shard(self, lines, large, tmp_path):
        dataset = laid_out(lines, tmp_path, 2)
        plan = ImpressionPlan(dataset, batch_size=4, seed=0)
        orders = []
        for shard, epoch in ((0, 0), (0, 1), (1, 0)):
            parts = plan.indices(epoch, shard)
            steps = [{k: v[s] for k, v in parts.items()} for s in range(plan.steps_per_epoch)]
            row, weight = (np.stack([s[k] for s in steps]) for k in ("row", "weight"))
            expected = dataset.impressions(shard, splits.TRAIN)
            assert sorted(row[weight > 0]) == expected.tolist()
            assert row[weight > 0].tolist() != expected.tolist()
            # Padding is spread over the steps, as it is in smaller logs.
            assert np.ptp(weight.sum(axis=1)) <= 1
            orders.append(row.T[weight.T > 0].tolist())
        assert orders[0] != orders[1]

    def test_a_resumed_run_goes_on_with_the_same_batches(self, lines, large, tmp_path):
        plan = ImpressionPlan(laid_out(lines, tmp_path), batch_size=4, seed=0)
        steps = 2 * plan.steps_per_epoch
        whole = [Epochs(plan, (0,)).step(step)["row"] for step in range(steps)]
        again = Epochs(plan, (0,)).batches(first_step=3, last_step=steps, steps_per_dispatch=1)
        for expected, found in zip(whole[3:], again, strict=True):
            np.testing.assert_array_equal(found["row"][:, 0], expected)
