"""Large logs laid out in files: equal to the layout in memory, and read shard by shard."""

import functools
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
    return random_movelines(3, users=19, events=(3, 14))


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
        {"split": "dates:2001-09-09+2001-09-10", "label_scenes": "scene2"},
    ],
)
@pytest.mark.parametrize("num_shards", [1, 3])
def test_files_hold_what_the_layout_in_memory_has(lines, large, tmp_path, num_shards, options):
    shards = {"num_shards": num_shards, "local_shards": tuple(range(num_shards))}
    try:
        memory = build_dataset(lines, **OPTIONS | options, **shards)
    except (ConfigError, DataError) as error:
        with pytest.raises(type(error), match=str(error)[:30]):
            laid_out(lines, tmp_path, num_shards, **options)
        return
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
    padded = jax.tree.map(np.shape, jax.tree.map(np.asarray, mapped.stores._replace(user_features={})))
    assert padded == jax.tree.map(np.shape, memory.stores._replace(user_features={}))
