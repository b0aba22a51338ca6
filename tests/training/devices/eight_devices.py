"""Checks of a mesh on up to 8 devices; test_mesh.py runs them in a process that has as many."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nif_jax.data.schema import ConfigError
from nif_jax.data.table_rows import Lookup
from nif_jax.experiment import start
from nif_jax.stages import base, generator
from nif_jax.training import train_state
from nif_jax.training.checkpoint import Checkpointer
from nif_jax.training.devices.base import AXIS
from nif_jax.training.devices.mesh import Mesh
from nif_jax.training.devices.pmap import Pmap
from nif_jax.training.optim import make_optimizer
from nif_jax.training.stage import Aux, Stage
from nif_jax.training.step import make_train_step
from tests.end_to_end.runs import TINY_NIF, make_run

RULES = ((r"(^|/)(items|user)/[^/]+$", (None, "model")),)
DENSE, SPARSE = ((1, 1), (1, 2), (2, 2), (2, 4), (8, 1)), ((2, 1), (1, 4), (4, 2), (1, 8))
N, D, B, STEPS = 40, 8, 16, 8  # B rows of all devices


def toy(large: bool, flat: bool = False) -> Stage:
    """A linear model of the sum of two embeddings, and of a bias of the first item."""

    def loss(params, variables, constants, batch, rng, step):
        del constants, rng, step
        ids, y = batch
        x = params["items"]["id"][ids].sum(1) @ params["w"]
        error = x + params["bias"][ids[:, 0]] - y
        rows = jnp.float32(len(y))
        return (error**2).sum(), Aux(rows, variables, {"error": (abs(error).sum(), rows)})

    def lookups(constants, batch, rng):
        return {"items/id": Lookup(batch[0], jnp.ones(batch[0].shape, bool))}

    settings = {"learning_rate": 0.1, "total_steps": 9, "warmup_steps": 0, "decay": "constant"}
    optimizer = make_optimizer(**settings, weight_decay=0.01, clip_norm=0.05, flatten=flat)
    functions = {"init": None, "gather": lambda arrays, batch: batch, "loss_fn": loss}
    return Stage(
        name="toy",
        plan=None,
        evaluate=None,
        optimizer=optimizer,
        metric="",
        config={},
        settings=None,
        data=None,
        lookups=lookups if large else None,
        **functions,
    )


def toy_parameters():
    rng = np.random.default_rng(5)
    sizes = {"items": {"id": (N, D)}, "w": (D,), "bias": (N,)}

    def draw(size):
        return rng.normal(size=size).astype(np.float32)

    return jax.tree.map(draw, sizes, is_leaf=lambda x: isinstance(x, tuple))


def toy_batches(shards: int):
    """[shards, STEPS, B / shards, ...]; the steps' rows are the same for any number of shards."""
    rng = np.random.default_rng(2)
    ids = rng.integers(0, N, (STEPS, shards, B // shards, 2)).astype(np.int32)
    y = rng.normal(size=ids.shape[:-1]).astype(np.float32)
    return ids.swapaxes(0, 1), y.swapaxes(0, 1)


def on_one_device(stage: Stage, shards: int):
    """State and measurements of `stage` by one device, which computes all shards."""
    state = train_state.create(toy_parameters(), {}, stage.optimizer, 0)
    step = jax.vmap(make_train_step(stage, 0, True), (None, None, None, 0), axis_name=AXIS)
    found = jax.jit(step)(state, {}, {}, toy_batches(shards))
    return jax.tree.map(lambda x: x[0], found)


@functools.cache
def reference(large: bool):
    return on_one_device(toy(large), 1)


@pytest.mark.parametrize(
    ("large", "data", "model"),
    [(shapes is SPARSE, *s) for shapes in (DENSE, SPARSE) for s in shapes],
)
def test_a_mesh_computes_what_one_device_does(large, data, model):
    devices = Mesh(data, model, RULES, jax.devices()[: data * model])
    stage = toy(large)
    state = train_state.create_on_devices(toy_parameters(), {}, stage.optimizer, 0, devices)
    step = devices.map(make_train_step(stage, 0, True), donate=(0,))
    found = step(state, {}, {}, devices.shard(toy_batches(data)))
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
        devices.unreplicate(found),
        reference(large),
    )
    for tree in (found[0].params, found[0].opt_state[1][0].mu, found[0].opt_state[1][0].nu):
        held = [part.data.nbytes for part in tree["items"]["id"].addressable_shards]
        assert held == [N * D * 4 // model] * (data * model)


TEXT = ",".join(
    [
        TINY_NIF,
        "source.num_items=1501,pretrain.init=scratch,flow_loss.velocity_starts=0",
        "flow_loss.diversity_items=64,flow_loss.uniform=8,generator.layers=1,flow_loss.label_head=0",
    ]
)
FEWEST_ROWS = 450  # of a table; a device has fewer items in a batch


LARGE = ",train.sparse_rows=100,pretrain.sparse_rows=100"
STAGES = {
    "base": (base.make, LARGE, (2, 4)),
    "exact": (generator.make, "", (1, 8)),
    "sampled": (generator.make, f"{LARGE},flow_loss.negatives=in_batch", (4, 2)),
}


@pytest.mark.parametrize("name", STAGES)
def test_no_device_has_a_table_in_the_compiled_step(name, tmp_path):
    make, more, (data, model) = STAGES[name]
    devices = Mesh(data, model, RULES)
    run = make_run(tmp_path, TEXT + more, devices)
    stage = make(run)
    initial = start.initial_state(run, stage)
    state = train_state.create_on_devices(*initial, stage.optimizer, 0, devices)
    index = [stage.plan.indices(0, shard) for shard in devices.local_shards]
    batch = devices.shard(jax.tree.map(lambda *x: np.stack(x)[:, :1], *index))
    step = devices.map(make_train_step(stage, 0, True))
    text = step.lower(state, *stage.data.step_arguments, batch).compile().as_text()
    rows, width = state.params["items"]["id"].shape
    assert rows > FEWEST_ROWS
    shapes = {tuple(map(int, s.split(","))) for s in re.findall(r"\bf32\[([\d,]+)\]", text)}
    assert (rows, width // model) in shapes
    # Neither a table nor the vectors of the catalogue, which has more items than train shows.
    assert not [shape for shape in shapes if width in shape and max(shape) >= FEWEST_ROWS]
    gathered = re.findall(r"= \w+\[([\d,]*)\]\S* all-gather(?:-start)?\(", text)
    assert gathered, "what is read of a table is gathered"
    assert max(np.prod([int(n) for n in s.split(",")]) for s in gathered) < rows * width
    if name == "exact":  # logits of a share of the catalogue, and the reduction over all shares
        share = -(-len(run.items["id"][1:]) // model)
        assert any(shape[-1:] == (share,) for shape in shapes)
        assert not [shape for shape in shapes if shape[-1] >= rows and len(shape) == 2]


def written(folder, devices, state, step: int):
    checkpoints = Checkpointer(folder, {}, {"data": {}, "stages": {}}, devices, ("beams",))
    with checkpoints:
        saved = devices.to_checkpoint(devices.from_checkpoint(state))
        record = {"best_step": step, "done": False}
        checkpoints.save_best(step, saved.params, saved.variables, record)
        checkpoints.save_last(step, saved, record)


def read(folder, devices, flat: bool):
    create = functools.partial(train_state.create, optimizer=toy(False, flat).optimizer, seed=0)
    beams = {"beams": np.zeros((devices.num_shards, 3), np.int32)}
    like = jax.eval_shape(create, toy_parameters(), beams)
    checkpoints = Checkpointer(folder, {}, {"data": {}, "stages": {}}, devices, ("beams",))
    with checkpoints:
        state, _ = checkpoints.resume(like)
        return devices.unreplicate(devices.from_checkpoint(state))


def test_a_checkpoint_goes_from_8_devices_to_2_to_4_and_between_mesh_and_pmap(tmp_path):
    def layouts():
        devices = jax.devices()
        yield Mesh(4, 2, RULES), False
        yield Mesh(1, 2, RULES, devices[:2]), False
        yield Pmap(devices[:4]), True
        yield Mesh(2, 2, RULES, devices[:4]), False
        yield Pmap(devices[:1]), False

    rng = np.random.default_rng(3)
    beams = {"beams": rng.integers(1, 9, (4, 3)).astype(np.int32)}
    state = train_state.create(toy_parameters(), beams, toy(False).optimizer, 0)
    state = jax.tree.map(lambda x: x + np.asarray(1, x.dtype), state)
    first = state = jax.tree.map(np.asarray, state)
    for number, (devices, flat) in enumerate(layouts()):
        if number:
            found = read(tmp_path, devices, flat)
            kept = found.variables["beams"].shape == state.variables["beams"].shape
            wanted = state.variables["beams"] if kept else 0
            np.testing.assert_array_equal(found.variables["beams"], wanted)
            state = found
        written(tmp_path, devices, state, number + 1)
    jax.tree.map(np.testing.assert_array_equal, state.params, first.params)
    jax.tree.map(np.testing.assert_array_equal, state.opt_state, first.opt_state)


def test_a_table_that_devices_do_not_divide_is_refused_and_the_rule_helps():
    parameters = {"items": {"id": np.zeros((N, 3), np.float32)}}
    with pytest.raises(ConfigError, match="do not divide") as error:
        Mesh(1, 2, RULES, jax.devices()[:2]).replicate(parameters)
    rule = re.search(r"Put the rule (\(.*\)) before", str(error.value))[1]
    rules = (eval(rule), *RULES)  # what the message tells users to write
    devices = Mesh(1, 2, rules, jax.devices()[:2])
    placed = devices.replicate(parameters)
    assert placed["items"]["id"].is_fully_replicated
