"""Streams of batches: gathered here or on the device, unbroken or resumed, across epochs."""

import functools
import itertools

import jax
import numpy as np
import pytest

from nif_jax.data.dataset import build_dataset
from nif_jax.data.input import Epochs
from nif_jax.data.packing import SequencePlan
from nif_jax.data.sampling import ImpressionPlan
from nif_jax.data.windows import gather_impressions

SHARDS = (0, 1)


@pytest.fixture(scope="module")
def dataset(random_movelines):
    return build_dataset(
        random_movelines(0, users=8, events=(12, 14), label_free_users=0),
        split="temporal_user",
        train_share=0.6,
        validation_share=0.2,
        history="all",
        ties="order",
        seed=0,
        num_shards=2,
        local_shards=SHARDS,
    )


@pytest.fixture(scope="module")
def plan(dataset):
    plan = ImpressionPlan(dataset, batch_size=4, seed=3, pairs=True)
    assert plan.steps_per_epoch == 6
    return plan


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def steps_of(stream):
    """Dispatches [D, K, ...] taken apart into steps [D, ...]."""
    found = []
    for batch in stream:
        count = jax.tree.leaves(batch)[0].shape[1]
        found += [jax.tree.map(lambda x, k=k: x[:, k], batch) for k in range(count)]
    return found


def test_a_dispatch_stacks_the_steps_of_the_local_shards(plan):
    dispatches = list(Epochs(plan, SHARDS).batches(first_step=0, last_step=8, steps_per_dispatch=3))
    # Steps 0..7 of epochs of 6: the second dispatch ends the first epoch, the third is shorter.
    assert [d["row"].shape for d in dispatches] == [(2, 3, 4), (2, 3, 4), (2, 2, 4)]
    steps = steps_of(dispatches)
    for step, (epoch, place) in enumerate([(0, k) for k in range(6)] + [(1, 0), (1, 1)]):
        for local, shard in enumerate(SHARDS):
            expected = {k: v[place] for k, v in plan.indices(epoch, shard).items()}
            assert_equal(jax.tree.map(lambda x, d=local: x[d], steps[step]), expected)
        assert_equal(Epochs(plan, SHARDS).step(step), steps[step])


def test_an_epoch_is_laid_out_once_for_all_its_streams(plan, monkeypatch):
    calls, indices = [], ImpressionPlan.indices
    monkeypatch.setattr(
        ImpressionPlan,
        "indices",
        lambda self, epoch, shard: calls.append((epoch, shard)) or indices(self, epoch, shard),
    )
    epochs = Epochs(plan, SHARDS)
    for first in (0, 3, 6):  # an evaluation in the middle of the first epoch
        list(epochs.batches(first_step=first, last_step=first + 3, steps_per_dispatch=1))
    assert sorted(calls) == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_one_dispatch_may_cross_epochs(plan):
    (batch,) = Epochs(plan, (1,)).batches(first_step=4, last_step=20, steps_per_dispatch=16)
    first, second, third, fourth = (plan.indices(epoch, 1)["row"] for epoch in range(4))
    expected = np.concatenate([first[4:], second, third, fourth[:2]])
    np.testing.assert_array_equal(batch["row"][0], expected)


@pytest.mark.parametrize("kind", ["impressions", "sequences"])
@pytest.mark.parametrize("resumed_at", [1, 5, 6, 9])
def test_a_resumed_stream_goes_on_where_the_unbroken_one_would(dataset, plan, kind, resumed_at):
    if kind == "sequences":
        plan = SequencePlan(dataset, batch_size=4, length=5, seed=3)
    stream = functools.partial(Epochs(plan, SHARDS).batches, last_step=14)
    unbroken = steps_of(stream(first_step=0, steps_per_dispatch=2))
    resumed = steps_of(stream(first_step=resumed_at, steps_per_dispatch=3))
    assert len(unbroken) == 14
    for a, b in itertools.zip_longest(resumed, unbroken[resumed_at:]):
        assert_equal(a, b)


def test_batches_gathered_on_the_host_equal_those_gathered_on_the_device(dataset, plan):
    gather = functools.partial(gather_impressions, length=5, context=3)
    stores = dataset.stores

    def on_host(local, index):
        return gather(jax.tree.map(lambda x: x[local], stores), index)

    stream = functools.partial(
        Epochs(plan, SHARDS).batches, first_step=2, last_step=10, steps_per_dispatch=4
    )
    on_device = jax.jit(jax.vmap(jax.vmap(gather, in_axes=(None, 0))))
    host, indices = list(stream(gather=on_host)), list(stream())
    assert len(host) == len(indices) == 2
    assert host[0].history.item.shape == (2, 4, 4, 5) and host[0].pair.shape == (2, 4, 2)
    assert host[0].history.mask.any() and host[0].pair.any()
    for gathered, index in zip(host, indices, strict=True):
        assert_equal(gathered, on_device(stores, index))
