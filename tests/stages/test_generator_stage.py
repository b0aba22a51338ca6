"""The generator's loss: its parts, its masks, and negatives that cross devices."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nif_jax.data.dataset import build_dataset
from nif_jax.data.packing import SequencePlan
from nif_jax.data.schema import NO_LABEL
from nif_jax.losses import contrastive
from nif_jax.losses import flow as flow_losses
from nif_jax.models.flow import FlowDecoder, unit
from nif_jax.stages import generator, next_item
from nif_jax.stages.flow_loss import FlowLoss, draw
from nif_jax.stages.sequences import gather_sequences
from nif_jax.training.devices.base import AXIS

DIM, HEADS, ITEMS, LENGTH = 8, 2, 9, 6


def spec(**changes) -> FlowLoss:
    values = {
        "temperature": 0.2,
        "negatives": "exact",
        "uniform": 0,
        "targets": "all",
        "alpha": 0.0,
        "diversity": "cosine",
        "diversity_items": 100,
        "beta": 0.0,
        "velocity": "geodesic",
        "half_life": 10.0,
        "velocity_starts": 0,
        "rollout_steps": 0,
        "label_head": 0.0,
        "label_gradient": "generator",
    }
    return FlowLoss(**values | changes)


def random_data(random_movelines, negatives=0, items=ITEMS):
    lines = random_movelines(3, users=8, items=items, events=(4, 14))
    return build_dataset(
        lines,
        split="temporal_user",
        train_share=0.6,
        validation_share=0.2,
        history="all",
        ties="order",
        negatives=negatives,
        seed=0,
    )


@pytest.fixture(scope="module")
def world(random_movelines, random_params):
    """Model, parameters, frozen and a batch of windows of a random store."""
    data = random_data(random_movelines)
    lines = data.movelines
    model = FlowDecoder(dict(data.item_sizes), 3, 3, DIM, HEADS, 2, 2, 0.0, 0.0, 0.0, "heads", 5)
    train = data.split == 0
    frozen = {
        "items": dict(data.items),
        "frequency": contrastive.item_frequency(lines.item, train, lines.num_items),
    }
    plan = SequencePlan(data, 8, LENGTH, seed=0)
    index = jax.tree.map(lambda x: x[0], plan.indices(0, 0))
    arrays = {"store": jax.tree.map(lambda x: x[0], data.stores)}
    batch = gather_sequences("all", 0, arrays, index)
    params = random_params(0, model.init, batch.window, frozen["items"])
    return model, params, frozen, batch, arrays, index


def evaluate(world, form, axis_name=None, batch=None):
    model, params, frozen, full, *_ = world
    own = functools.partial(generator.loss, model, form, axis_name)
    return jax.jit(own)(params, {}, frozen, batch or full, jax.random.key(0), None)


def test_info_nce_counts_each_next_entry_of_train_once(world):
    model, params, frozen, batch, *_ = world
    total, aux = evaluate(world, spec())
    heads, named = model.apply(
        {"params": params}, batch.window, frozen["items"], False, batch.segment
    )
    table = np.asarray(named["vectors"])
    expected, count = 0.0, 0
    for b in range(len(batch.window.item)):
        for k in range(LENGTH - 1):
            joined = batch.segment[b, k] == batch.segment[b, k + 1]
            if batch.window.mask[b, k] and joined and batch.is_target[b, k + 1]:
                query = np.asarray(unit(heads[b, k].reshape(-1)))
                logits = table[1:] @ query / 0.2
                target = batch.window.item[b, k + 1] - 1
                expected += np.log(np.exp(logits).sum()) - logits[target]
                count += 1
    assert count > 5
    np.testing.assert_allclose(aux.weight, count)
    np.testing.assert_allclose(total, expected, rtol=1e-4)


@pytest.mark.parametrize("form", [{}, {"rollout_steps": 2}, {"beta": 0.5, "label_head": 1.0}])
def test_windows_of_one_row_do_not_see_each_other(world, form):
    """The same windows side by side and in rows of their own: one loss, one gradient."""
    model, params, frozen, _, arrays, _ = world
    begin = np.unique(arrays["store"].history_begin)[:6]  # users of four entries or more
    entry = (begin[:, None] + np.arange(4)).astype(np.int32)
    alone = gather_sequences(
        "all", 0, arrays, {"entry": entry, "segment": np.ones((6, 4), np.int32)}
    )
    row = np.pad(entry.reshape(3, 8), ((0, 0), (0, 1)))
    segment = np.tile(np.array([1] * 4 + [2] * 4 + [0], np.int32), (3, 1))
    batch = gather_sequences("all", 0, arrays, {"entry": row, "segment": segment})

    def objective(params, batch):
        return generator.loss(
            model, spec(**form), None, params, {}, frozen, batch, jax.random.key(0), None
        )[0]

    together, expected = (jax.jit(jax.value_and_grad(objective))(params, x) for x in (batch, alone))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), together, expected
    )


def test_events_outside_train_are_not_predicted(world):
    *_, batch, arrays, index = world
    store = arrays["store"]
    row = store.history_row[index["entry"]]
    assert not batch.is_target[~store.train[row]].any()
    assert not batch.is_target[~batch.window.mask].any()


def test_positive_targets_leave_out_the_others(world):
    *_, arrays, index = world
    chosen = gather_sequences("positive", 0, arrays, index)
    every = gather_sequences("all", 0, arrays, index)
    assert 0 < chosen.is_target.sum() < every.is_target.sum()
    store = arrays["store"]
    labels = store.label[store.history_row[index["entry"]]]
    assert (labels[chosen.is_target] == 1).all()


def test_a_label_loss_that_trains_the_head_alone_leaves_the_flow_as_it_is(world):
    model, params, frozen, batch, *_ = world

    def gradient(form):
        def objective(params):
            rng = jax.random.key(0)
            return generator.loss(model, form, None, params, {}, frozen, batch, rng, None)[0]

        return jax.jit(jax.value_and_grad(objective))(params)

    _, plain = gradient(spec())
    (value, alone), (same, whole) = (
        gradient(spec(label_head=1.0, label_gradient=form)) for form in ("head", "generator")
    )
    np.testing.assert_allclose(value, same, rtol=1e-6)  # one loss, whatever it trains
    for name in params:
        equal = [
            jax.tree.all(jax.tree.map(lambda a, b: np.allclose(a, b, atol=1e-6), alone[name], x))
            for x in (plain[name], whole[name])
        ]
        assert equal == ([False, True] if name == "responder" else [True, False]), name


def test_fewer_targets_give_the_label_head_no_greater_share(world):
    *_, batch, _, _ = world
    few = batch._replace(is_target=batch.is_target & (batch.label_queries.label[..., 0] > 0))
    none = batch._replace(is_target=np.zeros_like(batch.is_target))
    shares = []
    for one in (batch, few, none):
        plain, aux = evaluate(world, spec(), batch=one)
        total, _ = evaluate(world, spec(label_head=1.0), batch=one)
        shares.append(float(total - plain) / max(float(aux.weight), 1.0))
    # The step divides by the number of targets: what it makes of the head has to stay.
    assert shares[0] > 0
    np.testing.assert_allclose(shares[1], shares[0], rtol=1e-4)
    assert shares[2] == 0


@pytest.mark.parametrize(
    ("weight", "form", "name"),
    [
        ("alpha", {"diversity": "scores"}, "diversity"),
        ("alpha", {"diversity": "scores", "diversity_items": 5}, "diversity"),
        ("alpha", {"diversity": "cosine"}, "diversity"),
        ("alpha", {"diversity": "tangent"}, "diversity"),
        ("beta", {"velocity": "geodesic"}, "velocity"),
        ("beta", {"velocity": "chord"}, "velocity"),
    ],
)
def test_weighted_parts_add_up(world, weight, form, name):
    plain, _ = evaluate(world, spec())
    total, aux = evaluate(world, spec(**{weight: 0.7}, **form))
    value, count = aux.measurements[name]
    assert value > 0
    np.testing.assert_allclose(count, aux.weight)
    np.testing.assert_allclose(total, plain + 0.7 * value, rtol=1e-5)


@pytest.mark.parametrize("form", ["geodesic", "chord"])
def test_velocity_holds_for_the_states_that_rankers_read(world, form):
    model, params, frozen, batch, *_ = world
    plain, _ = evaluate(world, spec(beta=0.7, velocity=form))
    settings = spec(beta=0.7, velocity=form, velocity_starts=LENGTH, horizon=3)
    total, aux = evaluate(world, settings)
    roll_out = jax.jit(lambda *given: model.apply(*given, 3, 1, method="roll_out"))
    # Every position but the last of a row, each rolled out by itself.
    expected = 0.0
    for k in range(LENGTH - 1):
        window = jax.tree.map(lambda x, k=k: x[:, : k + 1], batch.window)
        segment = batch.segment[:, : k + 1]
        own = window._replace(mask=window.mask & (segment == segment[:, -1:]))
        rolled = np.asarray(roll_out({"params": params}, own, frozen["items"])[0])
        step = (rolled[:, 0, 1:] * rolled[:, 0, :-1]).sum(-1)
        step = np.arccos(np.clip(step, -1, 1)) ** 2 if form == "geodesic" else 2 - 2 * step
        counts = batch.window.mask[:, k] & (batch.segment[:, k] == batch.segment[:, k + 1])
        expected += (step.mean(-1) * (counts & batch.is_target[:, k + 1])).sum()
    value, count = aux.measurements["rolled_velocity"]
    np.testing.assert_allclose(value, expected, rtol=1e-3)
    np.testing.assert_allclose(count, aux.weight)
    np.testing.assert_allclose(total, plain + 0.7 * value, rtol=1e-5)
    # A few positions stand for all LENGTH - 1.
    few, aux = evaluate(world, dataclasses.replace(settings, velocity_starts=2))
    value, count = aux.measurements["rolled_velocity"]
    assert 0 < count < aux.weight
    np.testing.assert_allclose(few, plain + 0.7 * value * (LENGTH - 1) / 2, rtol=1e-5)
    for off in ({"horizon": 1}, {"velocity_starts": 0}):
        none, aux = evaluate(world, dataclasses.replace(settings, **off))
        assert "rolled_velocity" not in aux.measurements
        np.testing.assert_allclose(none, plain, rtol=1e-6)


def test_forms_differ(world):
    values = {
        form: evaluate(world, spec(beta=1.0, velocity=form))[1].measurements["velocity"][0]
        for form in flow_losses.VELOCITY
    }
    assert 0 < values["chord"] < 0.999 * values["geodesic"]  # an arc is longer than its chord


def test_roll_out_training_predicts_further_entries(world):
    plain, _ = evaluate(world, spec())
    total, aux = evaluate(world, spec(rollout_steps=2))
    second, third = (aux.measurements[f"info_nce_step_{n}"] for n in (2, 3))
    assert 0 < third[1] < second[1] < aux.weight
    np.testing.assert_allclose(total, plain + (second[0] + third[0]) / 2, rtol=1e-5)


@pytest.mark.parametrize("negatives", ["in_batch", "uniform"])
def test_sampled_forms_learn_from_every_module(world, negatives):
    model, params, frozen, batch, *_ = world
    form = spec(negatives=negatives, uniform=64)

    def objective(params):
        return generator.loss(
            model, form, None, params, {}, frozen, batch, jax.random.key(1), None
        )[0]

    grads = jax.grad(objective)(params)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
    for module in ("items", "context", "read", "blocks_0", "blocks_1"):
        assert any(np.abs(g).max() > 0 for g in jax.tree.leaves(grads[module])), module


@pytest.mark.parametrize("negatives", ["in_batch", "uniform"])
def test_sampled_forms_embed_the_items_of_the_pass_only(random_movelines, random_params, negatives):
    """Loss and gradient are those of the embedded catalogue, and so is what devices exchange."""
    data = random_data(random_movelines, negatives=1, items=400)
    model = FlowDecoder(dict(data.item_sizes), 3, 3, DIM, HEADS, 2, 2, 0.0, 0.0, 0.0, "heads", 5)
    constants = {
        "items": dict(data.items),
        "frequency": contrastive.item_frequency(data.movelines.item, data.split == 0, 400),
    }
    plan = SequencePlan(data, 4, LENGTH, seed=0)
    index = jax.tree.map(lambda x: x[:1], plan.indices(0, 0))
    arrays = {"store": jax.tree.map(lambda x: x[0], data.stores)}
    batch = gather_sequences("all", 1, arrays, jax.tree.map(lambda x: x[0], index))
    params = random_params(0, model.init, batch.window, constants["items"])
    form = spec(
        negatives=negatives,
        uniform=20,
        alpha=0.3,
        diversity="scores",
        diversity_items=30,
        label_head=1.0,
        rollout_steps=1,
    )
    sizes = []

    @functools.partial(jax.vmap, axis_name=AXIS)
    def mapped(part, constants, key):
        def objective(params):
            sample = draw(form, part, constants["frequency"], key, AXIS)
            sizes.append(sample.shown is None or len(sample.shown))
            total, _ = generator.loss(model, form, AXIS, params, {}, constants, part, key, None)
            return total

        return jax.value_and_grad(objective)(params)

    halves = jax.tree.map(lambda x: jnp.reshape(x, (2, -1, *x.shape[1:])), batch)
    keys = jax.random.split(jax.random.key(3), 2)
    both = jax.tree.map(lambda x: np.stack([x, x]), constants)
    found, by_found = jax.jit(mapped)(halves, both, keys)
    assert sizes[0] is not True and sizes[0] < 401
    with pytest.MonkeyPatch.context() as patch:
        whole = lambda *args: draw(*args)._replace(shown=None)  # noqa: E731
        patch.setattr(generator, "draw", whole)
        expected, by_expected = jax.jit(lambda *given: mapped(*given))(halves, both, keys)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    compare = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5)
    jax.tree.map(compare, by_found, by_expected)


def test_in_batch_negatives_cross_devices(world):
    """Two devices with half a batch each see the candidates that one with the whole sees."""
    model, params, frozen, batch, *_ = world
    frozen = jax.tree.map(jnp.asarray, frozen)
    form = spec(negatives="in_batch", uniform=0)

    @jax.jit
    @functools.partial(jax.vmap, axis_name=AXIS)
    def on_device(part):
        def objective(params):
            total, aux = generator.loss(
                model, form, AXIS, params, {}, frozen, part, jax.random.key(0), None
            )
            return total, aux.weight

        (total, weight), grads = jax.value_and_grad(objective, has_aux=True)(params)
        return jax.lax.psum((total, weight, grads), AXIS)

    def cut(devices):
        return jax.tree.map(lambda x: jnp.reshape(x, (devices, -1, *x.shape[1:])), batch)

    whole, halves = on_device(cut(1)), on_device(cut(2))
    for one, two in zip(jax.tree.leaves(whole), jax.tree.leaves(halves), strict=True):
        np.testing.assert_allclose(one[0], two[0], rtol=2e-4, atol=1e-5)
    alone, _ = evaluate(world, form, batch=jax.tree.map(lambda x: x[:4], batch))
    both = sum(
        evaluate(world, form, batch=jax.tree.map(lambda x, p=p: x[p], batch))[0]
        for p in (slice(0, 4), slice(4, 8))
    )
    assert alone > 0
    # Without the exchange each half would have fewer negatives, and a smaller loss.
    assert both < whole[0][0] - 1e-3


def test_rank_next_agrees_with_a_sort(world):
    model, params, frozen, _, arrays, _ = world
    rows = np.flatnonzero(arrays["store"].history_end > arrays["store"].history_begin)[:6]
    index = {
        "row": rows.astype(np.int32),
        "weight": np.ones(6, np.float32),
        "pair": np.zeros(3, np.float32),
    }
    batch = next_item.gather_next(LENGTH, LENGTH, arrays, index)
    ranks = next_item.rank_next(model, params, {}, frozen, batch)["rank"]
    heads, named = model.apply({"params": params}, batch.events, frozen["items"])
    table = np.asarray(named["vectors"])
    for b, row in enumerate(rows):
        scores = table @ np.asarray(unit(heads[b, -1].reshape(-1)))
        target = arrays["store"].item[row]
        seen = set(batch.seen[b].tolist()) - {target}
        others = [i for i in range(1, len(table)) if i != target and i not in seen]
        assert ranks[b] == 1 + sum(scores[i] > scores[target] for i in others)


@pytest.mark.parametrize("negatives", [0, 2])
def test_labels_are_predicted_at_every_labelled_entry_of_train(world, random_movelines, negatives):
    model, params, frozen, *_ = world
    data = random_data(random_movelines, negatives)
    store = jax.tree.map(lambda x: x[0], data.stores)
    begin = np.unique(store.history_begin)  # the first entries of every user
    end = np.minimum(begin + LENGTH, np.append(begin[1:], len(store.history_row)))
    entry = begin[:, None] + np.arange(LENGTH)
    real = entry < end[:, None]
    index = {"entry": np.where(real, entry, 0), "segment": real.astype(np.int32)}
    batch = gather_sequences("all", negatives, {"store": store}, index)
    total, aux = evaluate(world, spec(label_head=2.0), batch=batch)
    plain, _ = evaluate(world, spec(), batch=batch)
    heads, named = model.apply({"params": params}, batch.window, frozen["items"])
    label_logit = functools.partial(
        jax.jit(functools.partial(model.apply, method="next_label_logits")), {"params": params}
    )
    expected, count, sampled, window = 0.0, 0, 0, batch.window
    row = store.history_row[index["entry"]]
    for b, k in np.argwhere(window.mask[:, 1:] & store.train[row][:, 1:]):
        rows = [row[b, k + 1]]
        while data.sampled[rows[-1] - 1]:  # they stand right before their event
            rows.append(rows[-1] - 1)
        states = unit(heads[b : b + 1, k].reshape(1, -1))
        for shown in rows:
            label = store.label[shown]
            if label == NO_LABEL:
                continue
            item, scene, gap = store.item[shown], store.scene[shown], window.gap[b, k + 1]
            item, scene, gap = (np.array([x]) for x in (item, scene, gap))
            query = next_item.Next(None, item, None, scene, gap)
            # One query at a time: nothing after entry k is visible.
            mask = window.mask[b : b + 1] & (np.arange(LENGTH) <= k)
            past = np.where(mask[..., None, None, None], named["past"][b : b + 1], 9.0)
            logit = label_logit(states, named["vectors"], query, past, mask)[0]
            expected += np.logaddexp(0.0, logit) - label * logit
            count += 1
            sampled += data.sampled[shown]
    assert count > 5 and (sampled > 5) == (negatives > 0)
    np.testing.assert_allclose(aux.measurements["label_head"], (expected, count), rtol=1e-4)
    # An event with more impressions has the same weight.
    share = 2.0 / (1 + negatives)
    np.testing.assert_allclose(total, plain + share * expected, rtol=1e-4)
    # Labels are those of the store, and unlabelled events and later periods teach nothing.
    learned, label = window.mask & store.train[row], batch.label_queries.label[..., 0]
    np.testing.assert_array_equal(label, np.where(learned, store.label[row], NO_LABEL))
    assert (label[learned] == NO_LABEL).any()
    assert (batch.label_queries.label[~learned] == NO_LABEL).all()
    assert store.train[row][window.mask].any()


def test_the_label_of_an_item_does_not_leak_into_its_own_prediction(world):
    batch = world[3]

    def log_odds(window):
        loss = spec(label_head=1.0)
        # A label of one half: no logit, however large, has a loss without a slope.
        queries = batch.label_queries._replace(label=np.where(last, 0.5, NO_LABEL)[..., None])
        alone = batch._replace(window=window, is_target=last, label_queries=queries)
        _, aux = evaluate(world, loss, batch=alone)
        return aux.measurements["label_head"]

    last = np.zeros(batch.window.item.shape, bool)
    last[:, -1] = batch.window.mask[:, -1]
    changed = np.asarray(batch.window.action).copy()
    changed[:, -1] = 1 + changed[:, -1] % 3
    before, after = log_odds(batch.window), log_odds(batch.window._replace(action=changed))
    assert before[1] > 0
    np.testing.assert_array_equal(before, after)
    # The action of the event before is visible.
    changed = np.asarray(batch.window.action).copy()
    changed[:, -2] = 1 + changed[:, -2] % 3
    assert log_odds(batch.window._replace(action=changed))[0] != before[0]
