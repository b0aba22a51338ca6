"""Fine-tuning: what TSP adds to the loss, which modules learn, and what stays frozen."""

import dataclasses

import jax
import numpy as np
import pytest

from nif_jax.losses.ctr import cross_entropy
from nif_jax.models.flow import FlowDecoder
from nif_jax.models.ranker import Ranker
from nif_jax.stages import base, finetune, flow_input, pairs
from nif_jax.stages.cohort_input import CohortInput
from nif_jax.training.devices.base import AXIS

DIM, HORIZON, ITEMS = 4, 3, 9
MODEL = Ranker(
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
)
WITH_FLOW = flow_input.FlowInput(True, True, HORIZON, context=5, cache=True)
NO_COHORTS = CohortInput()
WITHOUT = flow_input.FlowInput()


def tsp(**changes):
    values = {"weight": 0.5, "margin": 0.3, "score": "calibration", "moveline": "own"}
    return pairs.PairwiseLoss(**values | changes)


@pytest.fixture(scope="module")
def world(random_impressions, random_params):
    batch = random_impressions(0, [5, 3, 5, 0, 2, 5, 4, 1], 5, flow=(HORIZON, 6))
    labels = np.array([1, 0, 1, 0, 1, 1, 0, 0], np.float32)
    # The history of pair 1's positive holds its negative's item.
    batch.history.item[2, -1] = batch.item[3] = 7
    batch.history.item[0][batch.history.item[0] == batch.item[1]] = 8
    batch = batch._replace(label=labels, pair=np.array([1, 1, 0, 0], np.float32))
    rng = np.random.default_rng(1)
    past = rng.normal(size=(8, 5, 2, 1, 6)).astype(np.float32)
    batch = batch._replace(past=past, past_mask=batch.history.mask)
    frozen = {
        "items": {"id": np.arange(ITEMS + 1, dtype=np.int32)[:, None]},
        "generator_item_emb": rng.normal(size=(ITEMS + 1, 6)).astype(np.float32),
    }
    params = random_params(0, MODEL.init, batch, frozen["items"], frozen["generator_item_emb"])
    return params, frozen, batch


@pytest.fixture(scope="module")
def world_without_flow(world, random_params):
    _, frozen, batch = world
    batch = batch._replace(flow=None)
    return random_params(0, MODEL.init, batch, frozen["items"]), frozen, batch


def evaluate(world, pairwise, source=WITH_FLOW):
    params, frozen, batch = world
    return finetune.loss(
        MODEL,
        None,
        source,
        NO_COHORTS,
        pairwise,
        AXIS,
        params,
        {},
        frozen,
        batch,
        jax.random.key(0),
        None,
    )


def scores(world, source=WITH_FLOW):
    params, frozen, batch = world
    return finetune.predict(MODEL, None, source, NO_COHORTS, params, {}, frozen, batch)


@pytest.mark.parametrize("score", ["calibration", "logit"])
def test_pairs_add_their_loss_to_the_cross_entropy(world, score):
    _, _, batch = world
    found = scores(world)
    compared = found["calibration" if score == "calibration" else "logit"]
    plain = cross_entropy(found["logit"], batch.label).sum()
    pairs = sum(np.log1p(np.exp(0.3 - (compared[2 * j] - compared[2 * j + 1]))) for j in (0, 1))
    total, aux = evaluate(world, tsp(score=score))
    np.testing.assert_allclose(total, plain + 0.5 * pairs, rtol=1e-5)
    assert aux.weight == 8
    np.testing.assert_allclose(aux.measurements["tsp"][1], 2)


def test_with_one_moveline_a_negative_seen_in_it_is_left_out(world):
    params, frozen, batch = world
    _, aux = evaluate(world, tsp(moveline="positive"))
    value, pairs = aux.measurements["tsp"]
    assert pairs == 1
    # The pair that stays: both candidates against the positive's flow.
    swapped = batch._replace(
        item=batch.item[[0, 1]],
        flow=batch.flow[[0, 0]],
        flow_mask=batch.flow_mask[[0, 0]],
        history=jax.tree.map(lambda x: x[[0, 0]], batch.history),
        scene=batch.scene[[0, 0]],
        label=batch.label[[0, 1]],
        weight=batch.weight[:2],
        recency=batch.recency[[0, 0]],
        user_features=jax.tree.map(lambda x: x[[0, 0]], batch.user_features),
        history_length=batch.history_length[[0, 0]],
        pair=batch.pair[:1],
    )
    parts = (MODEL, None, WITH_FLOW, NO_COHORTS)
    c = finetune.predict(*parts, params, {}, frozen, swapped)["calibration"]
    np.testing.assert_allclose(value, np.log1p(np.exp(0.3 - (c[0] - c[1]))), rtol=1e-4)


def test_tsp_without_flow_compares_the_base_interest(world_without_flow):
    for moveline in ("own", "positive"):
        total, aux = evaluate(world_without_flow, tsp(moveline=moveline), WITHOUT)
        assert np.isfinite(total)
        assert aux.measurements["tsp"][0] > 0


def test_weight_zero_is_the_base_loss(world_without_flow):
    params, frozen, batch = world_without_flow
    total, aux = evaluate(world_without_flow, tsp(weight=0.0), WITHOUT)
    expected, _ = base.loss(MODEL, params, {}, frozen, batch, jax.random.key(0), None)
    np.testing.assert_allclose(total, expected, rtol=1e-6)
    assert "tsp" not in aux.measurements


def test_every_module_learns_and_nothing_frozen_does(world):
    params, frozen, batch = world

    def objective(params, frozen, flow):
        given = batch._replace(flow=flow)
        parts = (MODEL, None, WITH_FLOW, NO_COHORTS, tsp(moveline="positive"), AXIS)
        return finetune.loss(*parts, params, {}, frozen, given, jax.random.key(0), None)[0]

    grads = jax.grad(objective)(params, frozen, batch.flow)
    flat = jax.tree_util.tree_leaves_with_path(grads)
    for path, grad in flat:
        assert np.isfinite(grad).all()
        # The two biases that shift all keys alike cannot matter to a softmax.
        if "key" in jax.tree_util.keystr(path) and "bias" in jax.tree_util.keystr(path):
            continue
        assert np.abs(grad).max() > 0, jax.tree_util.keystr(path)


def test_padded_rows_and_pairs_weigh_nothing(world):
    params, frozen, batch = world
    weight = np.array([1, 1, 1, 1, 0, 0, 0, 0], np.float32)
    broken = batch._replace(
        weight=weight,
        label=np.where(weight > 0, batch.label, np.nan).astype(np.float32),
        flow=np.where(weight[:, None, None] > 0, batch.flow, np.nan).astype(np.float32),
    )
    parts = (MODEL, None, WITH_FLOW, NO_COHORTS, tsp(), AXIS)
    total, aux = finetune.loss(*parts, params, {}, frozen, broken, jax.random.key(0), None)
    assert np.isfinite(total)
    assert aux.weight == 4


GENERATOR = FlowDecoder(
    item_sizes={"id": ITEMS + 1},
    num_scenes=3,
    num_actions=3,
    dim=6,
    heads=1,
    layers=1,
    mlp_ratio=1,
    dropout=0.0,
    id_dropout=0.0,
    context_dropout=0.0,
    flow="heads",
    label_head=3,
)


@pytest.fixture(scope="module")
def label_head(world, random_params):
    """The generator's parameters, and its log odds [B] of each row's label."""
    _, frozen, batch = world
    told = random_params(2, GENERATOR.init, batch.history, frozen["items"])
    expected = GENERATOR.apply(
        {"params": told},
        batch.flow[:, 0],
        frozen["generator_item_emb"],
        batch,
        batch.past,
        batch.past_mask,
        method="next_label_logits",
    )
    return told, expected


def as_candidates(source, told, params, variables, frozen, batch):
    """Scores of items 1 to 3 for the user of the first row, at once and one by one."""
    one = jax.tree.map(lambda x: x[:1], batch._replace(pair=None))
    parts = (MODEL, GENERATOR, source, NO_COHORTS)
    state = (params, variables, frozen | {"generator": told})
    many = finetune.predict_candidates(*parts, *state, one, np.array([1, 2, 3]))
    alone = [finetune.predict(*parts, *state, one._replace(item=np.array([k]))) for k in (1, 2, 3)]
    return many["logit"], [found["logit"][0] for found in alone]


def test_the_final_logit_is_the_mean_of_rankers_and_generators(world, label_head):
    params, frozen, batch = world
    told, expected = label_head
    source = dataclasses.replace(WITH_FLOW, label_head="blend")
    parts = (MODEL, GENERATOR, source, NO_COHORTS)
    frozen = frozen | {"generator": told}
    alone = scores(world)["logit"]
    for weight in (0.0, 0.3, 1.0):
        found = finetune.predict(*parts, params, {"blend_weight": weight}, frozen, batch)
        wanted = (1 - weight) * alone + weight * expected
        wanted = np.where(batch.flow_mask, wanted, alone)  # no history, no opinion
        assert not batch.flow_mask[3]
        np.testing.assert_allclose(found["logit"], wanted, rtol=1e-4)
        np.testing.assert_allclose(found["ranker"], alone, rtol=1e-5)
    variables = {"blend_weight": 0.4}
    many, one_by_one = as_candidates(source, told, params, variables, frozen, batch)
    np.testing.assert_allclose(many, one_by_one, rtol=1e-5)
    # In training the ranker is alone: the head was trained on these labels.
    total, _ = finetune.loss(
        *parts,
        tsp(weight=0.0),
        AXIS,
        params,
        {"blend_weight": 0.7},
        frozen,
        batch,
        jax.random.key(0),
        None,
    )
    np.testing.assert_allclose(total, cross_entropy(alone, batch.label).sum(), rtol=1e-5)


def test_a_label_logit_that_is_read_reaches_the_logit_and_needs_a_history(
    world, label_head, random_params
):
    _, frozen, batch = world
    told, expected = label_head
    source = dataclasses.replace(WITH_FLOW, label_head="input")
    with_logit = flow_input.with_label_logit(
        GENERATOR, source, told, frozen["generator_item_emb"], batch
    )
    np.testing.assert_allclose(
        with_logit.label_logit, np.where(batch.flow_mask, expected, 0), rtol=1e-6
    )
    assert with_logit.label_logit[3] == 0 and not batch.flow_mask[3]
    params = random_params(3, MODEL.init, with_logit, frozen["items"], frozen["generator_item_emb"])
    weight = params["believe"]["kernel"]
    first = dict(params["head"]["Dense_0"])
    first["kernel"] = first["kernel"].copy()
    first["kernel"][-1] = 0  # the tower's last input is the label logit
    deaf = params["head"] | {"Dense_0": first}
    silent = params | {"believe": {"kernel": 0 * weight}, "head": deaf}

    def logits(params, batch):
        return MODEL.apply(
            {"params": params}, batch, frozen["items"], frozen["generator_item_emb"]
        )[0]

    twice = with_logit._replace(label_logit=2 * with_logit.label_logit)
    np.testing.assert_array_equal(logits(silent, with_logit), logits(silent, twice))
    linear = silent | {"believe": {"kernel": weight}}
    np.testing.assert_allclose(
        logits(linear, twice) - logits(linear, with_logit),
        weight[0, 0] * with_logit.label_logit,
        rtol=1e-3,
        atol=1e-5,
    )
    # Candidates of one user: each has a label logit of its own.
    many, one_by_one = as_candidates(source, told, params, {}, frozen, batch)
    np.testing.assert_allclose(many, one_by_one, rtol=1e-5)
