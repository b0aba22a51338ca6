"""GenCI as a stage: what the loss adds up, which modules learn, quirks, one user's candidates."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nif_jax.losses.ctr import cross_entropy
from nif_jax.losses.distill import self_supervised
from nif_jax.models.cohorts import CohortNetwork, DeepFm
from nif_jax.models.intent import Intent
from nif_jax.models.ranker import Ranker
from nif_jax.models.semantic_ids import build_semantic_ids
from nif_jax.stages import cohort_input, finetune, flow_input
from nif_jax.stages.pairs import PairwiseLoss
from nif_jax.training.devices.base import AXIS

ITEMS, DIM, V = 9, 4, 3
CODES = np.array([[i // 3, i % 3] for i in range(ITEMS)])
INTENT = Intent(
    num_codes=V,
    num_digits=2,
    num_scenes=3,
    num_actions=3,
    dim=4,
    heads=2,
    head_dim=0,
    hidden=6,
    encoder_layers=1,
    decoder_layers=1,
    dropout=0.0,
    history="item",
)
SOURCE = cohort_input.CohortInput(INTENT, beams=2, gamma=0.7, delta=0.4)
NO_FLOW = flow_input.FlowInput()
NO_TSP = PairwiseLoss(0.0, 0.0, "calibration", "own")


def ranker(**changes):
    network = CohortNetwork(
        **{
            "dim": DIM,
            "heads": 2,
            "levels": 2,
            "form": "prefix",
            "mean": "members",
            "attention": "separate",
            "residual": True,
            "dropout": 0.0,
        }
        | changes
    )
    return Ranker(
        item_sizes={"id": ITEMS + 1},
        user_sizes={"id": 6, "age": 3},
        num_scenes=3,
        num_actions=3,
        dim=DIM,
        attention=(4,),
        tower=(8,),
        dropout=0.0,
        id_dropout=0.0,
        align_heads=2,
        align_dropout=0.0,
        calibration=4,
        cohorts=network,
        side=DeepFm((4,), 0.0),
    )


MODEL = ranker()


@pytest.fixture(scope="module")
def world(random_impressions):
    batch = random_impressions(0, [5, 3, 0, 1, 5, 2, 4, 5], 5)
    batch = batch._replace(label=np.array([1, 0, 1, 0, 1, 1, 0, 0], np.float32))
    frozen = {
        "items": {"id": jnp.arange(ITEMS + 1)[:, None]},
        "ids": jax.tree.map(jnp.asarray, build_semantic_ids(CODES, V)),
    }
    params, _ = finetune.init(MODEL, None, NO_FLOW, SOURCE, jax.random.key(0), batch, frozen)
    rng = np.random.default_rng(1)
    params = jax.tree.map(
        lambda x: jnp.asarray(x + 0.3 * rng.normal(size=x.shape), jnp.float32), params
    )
    return params, frozen, batch


def evaluate(world, source=SOURCE, params=None, step=0):
    original, frozen, batch = world
    return _evaluate(source, params or original, frozen, batch, step)


@functools.partial(jax.jit, static_argnums=0)
def _evaluate(source, params, frozen, batch, step):
    return finetune.loss(
        MODEL,
        None,
        NO_FLOW,
        source,
        NO_TSP,
        AXIS,
        params,
        {},
        frozen,
        batch,
        jax.random.key(0),
        step,
    )


def test_the_loss_is_cross_entropy_plus_next_item_plus_self_supervision(world):
    params, frozen, batch = world
    generated = cohort_input.generate(SOURCE, params, frozen, batch)
    logits, named = MODEL.apply(
        {"params": params}, batch, frozen["items"], None, True, False, generated, frozen["ids"]
    )
    ctr = cross_entropy(logits, batch.label).sum()
    side = self_supervised(logits, named["side"], batch.label).sum()
    likelihood = INTENT.apply(
        {"params": params["intent"]},
        generated.states,
        generated.mask,
        frozen["ids"].code[batch.item],
        method="log_likelihood",
    )
    # Positive rows with a history: 0, 4 and 5.
    following = -likelihood[np.array([0, 4, 5])].mean(-1).sum()
    total, aux = evaluate(world)
    np.testing.assert_allclose(total, ctr + 0.7 * following + 0.4 * side, rtol=1e-5)
    assert aux.weight == 8
    np.testing.assert_allclose(aux.measurements["next_item"], (following, 3), rtol=1e-5)


def test_self_supervision_fades_linearly_until_the_last_step(world):
    fading = dataclasses.replace(SOURCE, fade=8)
    none = dataclasses.replace(SOURCE, delta=0.0)
    whole = evaluate(world)[0] - evaluate(world, none)[0]
    assert whole > 0
    for step, left in ((0, 1.0), (2, 0.75), (8, 0.0), (9, 0.0)):
        found = evaluate(world, fading, step=step)[0] - evaluate(world, none)[0]
        np.testing.assert_allclose(found, left * whole, rtol=1e-4, atol=1e-5)


def test_quirk_rows_without_a_click_pay_for_their_item_too(world):
    everything = dataclasses.replace(SOURCE, targets="all")
    _, aux = evaluate(world, everything)
    assert aux.measurements["next_item"][1] == 7  # all but the one without a history


def test_gradients_reach_every_module_that_learns(world):
    params, *_ = world
    grads = jax.jit(jax.grad(lambda p: evaluate(world, params=p)[0]))(params)
    silent = {"project_returned", "align"} & set(grads)
    assert not silent  # modules of the flow are not even made
    for name, part in grads.items():
        assert any(np.any(leaf) for leaf in jax.tree.leaves(part)), name
    for name in ("digits", "encoder_0", "decoder_0", "out"):
        assert any(np.any(leaf) for leaf in jax.tree.leaves(grads["intent"][name])), name
    # What makes a head's opinion learns from labels; the network over cohorts from the click.
    for name in ("over_history", "over_cohorts", "states"):
        assert any(np.any(leaf) for leaf in jax.tree.leaves(grads["cohorts"][name])), name


def test_without_next_item_loss_the_click_still_trains_the_encoder(world):
    params, *_ = world
    source = dataclasses.replace(SOURCE, gamma=0.0, delta=0.0)
    grads = jax.jit(jax.grad(lambda p: evaluate(world, source, p)[0]))(params)
    assert any(np.any(leaf) for leaf in jax.tree.leaves(grads["intent"]["encoder_0"]))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(grads["intent"]["decoder_0"]))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(grads["side"]))


def test_cohort_members_learn_from_the_click(world):
    """Items that only stand in a generated cohort get a gradient through its mean."""
    params, frozen, batch = world
    source = dataclasses.replace(SOURCE, gamma=0.0, delta=0.0, beams=2)
    one = jax.tree.map(lambda x: jnp.asarray(x[:1]), batch._replace(pair=None))
    generated = jax.jit(cohort_input.generate, static_argnums=0)(source, params, frozen, one)
    shown = set(np.asarray(one.item)) | set(np.asarray(one.history.item).ravel())
    prefixes = set(np.asarray(generated.beams.node[0, :, 0]))
    members = {i for i in range(1, ITEMS + 1) if int(frozen["ids"].node[i, 0]) in prefixes}
    only = sorted(members - shown)
    assert only

    def total(p):
        batch = one._replace(pair=np.zeros(0))
        return finetune.loss(
            MODEL,
            None,
            NO_FLOW,
            source,
            NO_TSP,
            AXIS,
            p,
            {},
            frozen,
            batch,
            jax.random.key(0),
            None,
        )[0]

    grads = np.asarray(jax.jit(jax.grad(total))(params)["items"]["id"])
    assert np.abs(grads[only]).max(1).min() > 0
    assert not np.any(grads[sorted(set(range(1, ITEMS + 1)) - members - shown)])


def test_without_beams_there_are_no_cohorts(world):
    _, frozen, batch = world
    source = dataclasses.replace(SOURCE, beams=0)
    params, _ = finetune.init(MODEL, None, NO_FLOW, source, jax.random.key(0), batch, frozen)
    assert set(params["cohorts"]) == {"level", "states"}


def test_candidates_of_one_user_score_as_rows_of_their_own(world):
    params, frozen, batch = world
    one = jax.tree.map(lambda x: x[:1], batch._replace(pair=None))
    candidates = jnp.arange(1, ITEMS + 1)
    parts = (MODEL, None, NO_FLOW, SOURCE, params, {}, frozen)
    found = jax.jit(functools.partial(finetune.predict_candidates, *parts))(one, candidates)
    many = jax.tree.map(lambda x: np.repeat(x, ITEMS, 0), one)
    predict = jax.jit(functools.partial(finetune.predict, *parts))
    expected = predict(many._replace(item=np.arange(1, ITEMS + 1)))
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], atol=1e-5)


def test_generated_ranks_leave_out_what_the_history_holds(world):
    params, frozen, batch = world
    found = cohort_input.rank_generated(INTENT, ITEMS, True, params, {}, frozen, batch)["rank"]
    every = dataclasses.replace(SOURCE, beams=ITEMS)
    generated = cohort_input.generate(every, params, frozen, batch)
    items = np.asarray(frozen["ids"].item[generated.beams.node[..., -1]])
    for row, rank in enumerate(np.asarray(found)):
        target, seen = batch.item[row], set(batch.history.item[row]) - {batch.item[row]}
        unseen = [i for i in items[row] if i not in seen]
        assert rank == 1 + unseen.index(target)
    # A beam that does not hold the target ranks it behind the catalogue.
    narrow = cohort_input.rank_generated(INTENT, 1, True, params, {}, frozen, batch)["rank"]
    missed = items[:, 0] != batch.item
    assert (np.asarray(narrow)[missed] == ITEMS + 1).all()


def test_beams_are_remembered_until_they_are_generated_anew(world):
    params, frozen, batch = world
    ids, shards, slots = frozen["ids"], 2, 40
    source = dataclasses.replace(SOURCE, refresh=10**6, slots=(shards, slots))
    other = jax.tree.map(lambda x: -x, params)
    # Devices differ in their rows: the second has those of the first in reverse.
    rows = [batch, jax.tree.map(lambda x: x[::-1], batch)]
    both = jax.tree.map(lambda *x: jnp.stack(x), *rows)
    _, variables = finetune.init(MODEL, None, NO_FLOW, source, jax.random.key(0), batch, frozen)
    assert variables["beams"].shape == (shards, slots, source.beams)

    @functools.partial(jax.jit, static_argnums=0)
    def train(source, params, variables, rng):
        def device(batch):
            return cohort_input.generate_in_training(
                source, params, variables, frozen, batch, rng, True, AXIS
            )

        return jax.vmap(device, axis_name=AXIS)(both)

    first, after = train(source, params, variables, jax.random.key(1))
    jax.tree.map(lambda x: np.testing.assert_array_equal(x[0], x[1]), after)  # replicated
    expected = cohort_input.generate(SOURCE, params, frozen, batch).beams
    items = np.asarray(cohort_input.items_of(expected, ids))
    with_history = np.asarray(batch.flow_mask)
    np.testing.assert_array_equal(
        cohort_input.items_of(jax.tree.map(lambda x: x[0], first.beams), ids), items
    )
    memory = np.asarray(after["beams"][0])
    for shard, given in enumerate(rows):
        turned = items[:: 1 - 2 * shard][given.flow_mask]
        np.testing.assert_array_equal(memory[shard, given.entry[given.flow_mask]], turned)
    assert (memory > 0).any(2).sum() == shards * with_history.sum()

    # Another model would generate other items, but its pass reads what is remembered ...
    after = jax.tree.map(lambda x: x[0], after)
    beams = cohort_input.generate(SOURCE, other, frozen, batch).beams
    changed = np.asarray(cohort_input.items_of(beams, ids))
    assert (changed != items)[with_history].any()
    kept, _ = train(source, other, after, jax.random.key(1))
    for name in ("code", "node", "mask"):
        np.testing.assert_array_equal(
            getattr(kept.beams, name)[0][with_history], getattr(expected, name)[with_history]
        )
    # ... until chance has it generate.
    often = dataclasses.replace(source, refresh=2)
    seen = [train(often, other, after, jax.random.key(i))[1]["beams"][0] for i in range(20)]
    anew = [bool((np.asarray(x)[0, batch.entry] == changed)[with_history].all()) for x in seen]
    assert 4 <= sum(anew) <= 16
