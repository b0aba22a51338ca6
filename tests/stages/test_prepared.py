"""What is computed once for a set of parameters: the same scores, and no work for the catalogue."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nif_jax.models.cohorts import CohortNetwork
from nif_jax.models.flow import FlowDecoder
from nif_jax.models.intent import Intent
from nif_jax.models.ranker import Ranker
from nif_jax.models.semantic_ids import build_semantic_ids
from nif_jax.stages import finetune, next_item
from nif_jax.stages.cohort_input import CohortInput
from nif_jax.stages.flow_input import FlowInput
from nif_jax.stages.prepared import prepare

ITEMS, DIM, LENGTH, ROWS, CODES = 2003, 8, 5, 4, 64
CONTEXT = {"num_scenes": 3, "num_actions": 3}
NETWORK = CohortNetwork(
    dim=DIM,
    heads=2,
    levels=2,
    form="prefix",
    mean="members",
    attention="separate",
    residual=True,
    dropout=0.0,
)
MODEL = Ranker(
    item_sizes={"id": ITEMS + 1},
    user_sizes={"id": 6, "age": 3},
    **CONTEXT,
    dim=DIM,
    attention=(4,),
    tower=(8,),
    dropout=0.0,
    id_dropout=0.0,
    align_heads=2,
    align_dropout=0.0,
    calibration=4,
    cohorts=NETWORK,
)
GENERATOR = FlowDecoder(
    item_sizes={"id": ITEMS + 1},
    **CONTEXT,
    dim=DIM,
    heads=2,
    layers=2,
    mlp_ratio=2,
    dropout=0.0,
    id_dropout=0.0,
    context_dropout=0.0,
    flow="heads",
    label_head=4,
)
INTENT = Intent(
    num_codes=CODES,
    num_digits=2,
    **CONTEXT,
    dim=8,
    heads=2,
    head_dim=0,
    hidden=8,
    encoder_layers=1,
    decoder_layers=1,
    dropout=0.0,
    history="item",
)
FLOW = FlowInput(True, False, 3, LENGTH, cache=False, label_head="input")
COHORTS = CohortInput(INTENT, beams=3)
SOURCES = {
    "frozen": (FLOW, CohortInput()),
    "blended": (dataclasses.replace(FLOW, label_head="blend"), CohortInput()),
    "tuned": (dataclasses.replace(FLOW, tune=True, add_item_emb=True), CohortInput()),
    "cohorts": (FlowInput(), COHORTS),
    "hybrid": (dataclasses.replace(FLOW, add_item_emb=True), COHORTS),
}


@pytest.fixture(scope="module")
def items():
    return {"id": np.arange(ITEMS + 1, dtype=np.int32)[:, None]}


@pytest.fixture(scope="module")
def generator(items, random_window, random_params):
    window = random_window(2, [3], LENGTH, items=ITEMS)
    params = random_params(1, GENERATOR.init, window, items)
    return jax.tree.map(jnp.asarray, params)


@pytest.fixture(scope="module", params=SOURCES)
def world(request, items, generator, random_impressions, random_window):
    """(model, generator, flow, cohorts), parameters, variables, constants, a batch."""
    real = [5, 0, 2, 4]
    flow, cohorts = SOURCES[request.param]
    batch = random_impressions(0, real, LENGTH, items=ITEMS)
    if flow.use:
        batch = batch._replace(events=random_window(3, real, LENGTH, items=ITEMS))
    rng = np.random.default_rng(4)
    codes = rng.permutation(CODES**2)[:ITEMS]
    ids = build_semantic_ids(np.stack([codes // CODES, codes % CODES], 1), CODES)
    constants = {"items": items, "ids": jax.tree.map(jnp.asarray, ids), "generator": generator}
    vectors = GENERATOR.apply({"params": generator}, items, method="vectors")
    constants["generator_item_emb"] = vectors
    model = MODEL if cohorts.beams else MODEL.clone(cohorts=None)
    parts = (model, GENERATOR, flow, cohorts)
    params, variables = finetune.init(*parts, jax.random.key(0), batch, constants)
    params = jax.tree.map(lambda x: (x + 0.3 * rng.normal(size=x.shape)).astype(x.dtype), params)
    if variables:
        variables = {"blend_weight": jnp.float32(0.4)}
    return parts, params, variables, constants, batch


def one_user(batch):
    return jax.tree.map(lambda x: jnp.asarray(x[:1]), batch._replace(pair=None))


def test_scores_do_not_depend_on_what_is_prepared(world):
    parts, params, variables, constants, batch = world
    given = constants | prepare(*parts, params, variables, constants)
    scored = jax.jit(functools.partial(finetune.predict, *parts))
    expected = scored(params, variables, constants, batch)
    found = scored(params, variables, given, batch)
    assert np.ptp(expected["logit"]) > 1e-3
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], atol=1e-5)


def of_the_catalogue(jaxpr):
    """Names of the primitives whose results have an axis of the catalogue's length."""
    found = set()
    for equation in jaxpr.eqns:
        shapes = [getattr(out.aval, "shape", ()) for out in equation.outvars]
        inner = [p for p in jax.tree.leaves(equation.params) if hasattr(p, "jaxpr")]
        inner = [getattr(closed, "jaxpr", closed) for closed in inner]
        for sub in inner:
            found |= of_the_catalogue(sub)
        if not inner and any({ITEMS, ITEMS + 1} & set(shape) for shape in shapes):
            found.add(equation.primitive.name)
    return found - {"stop_gradient"}


def test_a_user_is_scored_without_work_for_the_catalogue(world):
    parts, params, variables, constants, batch = world
    _, _, flow, cohorts = parts
    scored = functools.partial(finetune.predict_candidates, *parts, params, variables)

    def work(constants):
        traced = jax.make_jaxpr(scored)(constants, one_user(batch), jnp.array([1, 7, ITEMS]))
        return of_the_catalogue(traced.jaxpr)

    prepared = prepare(*parts, params, variables, constants)
    assert not work(constants | prepared)
    assert bool(work(constants)) == bool(prepared) == (flow.tune or cohorts.beams > 0)


def test_the_generator_ranks_and_labels_by_prepared_vectors(items, generator, random_window):
    rng, seen = np.random.default_rng(5), np.zeros((ROWS, 2), np.int32)
    events = random_window(3, [5, 3, 2, 4], LENGTH, items=ITEMS)
    batch = next_item.Next(events, *(rng.integers(1, 4, ROWS) for _ in range(3)), None)
    batch = batch._replace(seen=seen, scene=batch.item, recency=batch.item)
    constants = {"items": items}
    given = constants | next_item.prepare(GENERATOR, generator, {}, constants)
    for function in (next_item.rank_next, next_item.label_next):
        scored = functools.partial(function, GENERATOR, generator, {})
        expected, found = scored(constants, batch), scored(given, batch)
        for name in expected:
            np.testing.assert_allclose(found[name], expected[name], atol=1e-5)
    label = functools.partial(next_item.label_next, GENERATOR, generator, {})
    assert of_the_catalogue(jax.make_jaxpr(label)(constants, batch).jaxpr)
    assert not of_the_catalogue(jax.make_jaxpr(label)(given, batch).jaxpr)
