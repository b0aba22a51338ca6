"""States that grow event by event: flow and scores are those of the whole moveline."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nif_jax.data.buckets import gap_bucket
from nif_jax.data.schema import ConfigError
from nif_jax.inference.functions import Functions
from nif_jax.models.flow import FlowDecoder
from nif_jax.models.flow_step import add_event, empty_state, flow_of
from nif_jax.requests.encode import generator_windows
from nif_jax.requests.log import Lines, Log, Rows, store_of
from nif_jax.requests.objects import Event, Request, RequestError
from nif_jax.stages.cohort_input import CohortInput
from nif_jax.stages.flow_input import FlowInput

CLOSE = 1e-5


def random_events(model, rng, count):
    names, second = model.vocabulary, model.base + 10**6
    events = []
    for gap in rng.integers(0, 3, count) * rng.integers(1, 10**5, count):
        second += int(gap)
        item, scene, action = (
            str(rng.choice(kind)) for kind in (names.item, names.scene, names.action)
        )
        item = "an unknown item" if rng.random() < 0.1 else item
        events.append(Event(item, second, scene, action))
    return events


@pytest.mark.parametrize("variant", ["amen_labels", "hybrid", "base"])
def test_flow_and_scores_of_a_state_are_those_of_the_whole_moveline(load, variant):
    model, rng = load(variant), np.random.default_rng(0)
    context = model.run.config.pretrain.context
    events = random_events(model, rng, 4 * context + 1)
    user, items = model.vocabulary.user[3], list(model.vocabulary.item[:7])
    state = model.new_state(user)
    for count, event in enumerate(events, 1):
        state = model.update(state, event)
        if count % 3 and count < 3 * context:
            continue
        moment = {"timestamp": event.timestamp + 60, "scene": event.scene, "items": items}
        whole = Request(**moment, user_id=user, moveline=events[:count])
        found = model.score(Request(**moment, moveline=[]), state).logit
        np.testing.assert_allclose(found, model.score(whole).logit, atol=CLOSE)
        if variant != "base":
            flow = model.flow([events[:count]])[0]
            np.testing.assert_allclose(model.flow(state), flow, atol=CLOSE)
    again = model.new_state(user, moveline=events)
    for one, other in zip(jax.tree.leaves(again), jax.tree.leaves(state), strict=True):
        assert isinstance(one, np.ndarray | jax.Array | int | np.int64)
        np.testing.assert_array_equal(one, other)


def test_events_of_a_state_are_in_order(load):
    model = load("base")
    first, second = random_events(model, np.random.default_rng(1), 2)
    state = model.update(model.new_state(), second)
    early = Event(first.item_id, second.timestamp - 1, first.scene, first.action)
    with pytest.raises(RequestError, match="is earlier than the last one"):
        model.update(state, early)
    with pytest.raises(RequestError, match="action 'hum' is none of"):
        model.update(state, Event("i", second.timestamp, second.scene, "hum"))
    with pytest.raises(ConfigError, match="variant 'base' has no flow; load one that has"):
        model.flow(state)


DECODER = FlowDecoder(
    item_sizes={"id": 10},
    num_scenes=3,
    num_actions=3,
    dim=8,
    heads=2,
    layers=2,
    mlp_ratio=2,
    dropout=0.0,
    id_dropout=0.0,
    context_dropout=0.0,
    flow="heads",
    label_head=4,
)
HORIZON = 3


@pytest.mark.parametrize("context", [1, 2, 5, 6])
def test_any_prefix_of_a_moveline_gives_the_flow_of_its_windows(
    context, random_window, random_params
):
    rng, count = np.random.default_rng(context), 4 * context + 3
    items = {"id": np.arange(10, dtype=np.int32)[:, None]}
    params = random_params(1, DECODER.init, random_window(2, [3], context), items)
    bound = DECODER.bind({"params": jax.tree.map(jnp.asarray, params)})
    vectors = bound.vectors(items)
    ids = rng.integers(1, 10, count).astype(np.int32)
    scene, action = rng.integers(1, 4, (2, count)).astype(np.int32)
    time = np.cumsum(rng.integers(0, 1000, count))
    every = np.ones(count, bool)
    label = np.ones(count, np.int8)
    rows = Rows(ids, scene, action, time, label, label, every, every, ~every)
    store = store_of(Log(rows, np.array([0, count]), 0, "all", every), rows)
    # Each prefix is a request of its own.
    end = np.arange(1, count + 1, dtype=np.int32)
    none = np.zeros(count, np.int32)
    lines = Lines(rows, none, store, none, none, end, none, end)
    windows = generator_windows(lines, context, chunked=True, past=True)
    flow = FlowInput(True, False, HORIZON, context, cache=True, label_head="input")
    functions = Functions(dict, DECODER, flow, CohortInput(), np.float32)
    constants = {"generator": params, "generator_item_emb": vectors, "items": items}
    arrays = {"params": {}, "constants": constants}
    expected = jax.jit(functions.flows)(arrays, windows, end)
    state = empty_state(DECODER, context)

    @jax.jit
    def step(state, entry, gap):
        here = (vectors[ids_[entry]], scene_[entry], action_[entry])
        state = add_event(bound, state, entry, *here, gap)
        return state, flow_of(bound, state, entry + 1, HORIZON)

    ids_, scene_, action_ = map(jnp.asarray, (ids, scene, action))
    gaps = gap_bucket(np.diff(time, prepend=time[0]).astype(np.int32))
    for entry in range(count):
        state, found = step(state, entry, gaps[entry])
        flow_there, past, mask = (x[entry] for x in expected)
        np.testing.assert_allclose(found[0], flow_there, atol=CLOSE)
        np.testing.assert_array_equal(found[2], mask)
        np.testing.assert_allclose(found[1][mask], past[mask], atol=CLOSE)
