"""Steps of stages whose tables are large: every model reads the rows that its lookups list."""

import jax
import numpy as np
import pytest

from nif_jax.experiment import start
from nif_jax.stages import base, finetune, generator, large_tables
from nif_jax.stages.outputs import GeneratorOutputs
from nif_jax.training import train_state
from nif_jax.training.step import make_train_step
from tests.end_to_end.runs import TINY_NIF, make_run

# A row that is missing reads as NaN. Dropout of ids is off: it differs where the whole catalogue is
# embedded. Without decay a step from zero moments changes no row that it does not read.
TEXT = ",".join(
    [
        TINY_NIF,
        "source.num_items=1500,ranker.id_dropout=0.0,train.weight_decay=0.0,train.warmup_steps=0",
        "generator.id_dropout=0.0,pretrain.weight_decay=0.0,pretrain.warmup_steps=0",
        "pretrain.init=scratch,pretrain.batch_size=4,flow_loss.negatives=in_batch",
        "flow_loss.uniform=32,flow_loss.diversity_items=64,flow_loss.rollout_steps=1",
    ]
)


def steps_of(folder, name: str, sparse_rows: int, devices=1, microbatch=0, steps=1):
    """Initial state, state and losses after some steps of a stage, and the names of its tables."""
    rows = f",train.sparse_rows={sparse_rows},pretrain.sparse_rows={sparse_rows}"
    run = make_run(folder, TEXT + rows, devices)
    if name == "base":
        stage = base.make(run)
    elif name == "generator":
        stage = generator.make(run)
    else:
        stage = finetune.make(run, name, GeneratorOutputs())
    assert (stage.lookups is None) == (sparse_rows == 0)
    parallel = run.parallel
    state = train_state.create(*start.initial_state(run, stage), stage.optimizer, 0)
    state = jax.tree.map(np.asarray, state)
    step = parallel.map(make_train_step(stage, microbatch, True))
    index = [stage.plan.indices(0, shard) for shard in range(devices)]
    index = jax.tree.map(lambda *x: np.stack(x)[:, :steps], *index)
    after, measured = step(parallel.replicate(state), *stage.data.step_arguments, index)
    return state, *parallel.unreplicate((after, measured["loss"]))


@pytest.mark.parametrize("name", ["base", "fm", "sasrec_tsp", "generator"])
def test_a_step_is_the_one_of_whole_tables(tmp_path, name):
    before, dense, there = steps_of(tmp_path, name, 0)
    _, sparse, here = steps_of(tmp_path, name, 1)
    np.testing.assert_allclose(here, there, rtol=1e-5)
    changed = 0
    for old, one, other in zip(
        *(jax.tree.leaves(state.params) for state in (before, dense, sparse)), strict=True
    ):
        # Adam divides a gradient near 0 by its own size.
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=2e-5)
        changed += np.abs(other - old).max() > 1e-4
    assert changed > 5


@pytest.mark.parametrize("name", ["base", "generator"])
def test_passes_of_several_steps_read_what_is_listed(tmp_path, name):
    before, after, (total, weight) = steps_of(tmp_path, name, 1, microbatch=2, steps=3)
    assert np.isfinite(total).all() and (weight > 0).all()
    table, old = after.params["items"]["id"], before.params["items"]["id"]
    kept = (table == old).all(-1)
    assert 0.2 < kept.mean() < 0.95
    assert np.isfinite(table).all()


def test_two_devices_agree(tmp_path):
    _, after, (total, _) = steps_of(tmp_path, "generator", 1, devices=2, steps=2)
    assert np.isfinite(total).all()
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(after.params))


def test_which_tables_are_large():
    sizes = {"id": 100, "brand": 99, "genre": 5}
    assert large_tables.large_features(sizes, 100) == ("id",)
    assert large_tables.large_features(sizes, 5) == ("id", "brand", "genre")
    assert large_tables.large_features(sizes, 0) == ()
    assert large_tables.ranker_lookups(sizes, {"id": 99}, 100, 0.1, True) is None
    assert large_tables.ranker_lookups(sizes, {"id": 100}, 100, 0.1, True) is not None


def test_lookups_of_an_item_are_its_values_and_the_unknown_one():
    items = {
        "id": np.array([[0], [2], [1], [3]]),
        "brand": np.array([[0, 0], [4, 0], [4, 5], [6, 0]]),
    }
    shown, real = np.array([[3, 0], [1, 2]]), np.array([[True, True], [False, True]])
    found = large_tables.item_lookups(("id", "brand"), items, shown, real, 0.1)
    assert found["items/id"].ids.tolist() == [3, 0, 2, 1, 1]
    assert found["items/id"].real.tolist() == [True, False, False, True, True]
    assert found["items/brand"].ids.tolist() == [6, 0, 0, 0, 4, 0, 4, 5]
    expected = [True, False, False, False, False, False, True, True]
    assert found["items/brand"].real.tolist() == expected
    without = large_tables.item_lookups(("id",), items, shown, real, 0.0)
    assert without["items/id"].real.tolist() == [True, False, False, True, False]
