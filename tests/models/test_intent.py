"""Intent model and beam search: cached steps equal a full pass, beams equal exhaustive search."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nif_jax.models.beam import beam_search
from nif_jax.models.intent import Intent
from nif_jax.models.semantic_ids import build_semantic_ids

V, K, ITEMS, L = 3, 3, 9, 5
WHOLE = np.array(list(itertools.product(range(V), repeat=K)))  # all 27 sequences
CODES = WHOLE[np.random.default_rng(0).permutation(len(WHOLE))[:ITEMS]]
IDS = jax.tree.map(jnp.asarray, build_semantic_ids(CODES, V))
REAL = [5, 3, 0, 1]


def make(history="item", **changes):
    sizes = {
        "num_codes": V,
        "num_digits": K,
        "num_scenes": 2,
        "num_actions": 2,
        "dim": 8,
        "heads": 2,
        "head_dim": 0,
        "hidden": 12,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "dropout": 0.0,
    }
    return Intent(**sizes | changes, history=history)


@pytest.fixture(scope="module", params=["item", "flat"])
def world(request, random_window, random_params):
    model = make(request.param)
    window = random_window(0, REAL, L, items=ITEMS, scenes=2, actions=2)
    params = random_params(1, model.init, window, IDS, jnp.ones((len(REAL), K), jnp.int32))
    params = jax.tree.map(jnp.asarray, params)
    states, mask = model.apply({"params": params}, window, IDS, method="encode")
    return model, params, window, states, mask


def all_scores(world):
    """[B, 27] log-probability of every sequence, by teacher forcing."""
    model, params, _, states, mask = world

    def score(code):
        codes = jnp.broadcast_to(code + 1, (len(REAL), K))
        return model.apply({"params": params}, states, mask, codes, method="log_likelihood").sum(-1)

    return np.asarray(jax.lax.map(score, jnp.asarray(WHOLE))).T


def generate(world, width, constrained=True):
    model, params, _, states, mask = world
    run = jax.jit(model.apply, static_argnames=("method", "width", "constrained"))
    return run(
        {"params": params},
        states,
        mask,
        IDS,
        width=width,
        constrained=constrained,
        method="generate",
    )


def test_probabilities_of_all_sequences_sum_to_one(world):
    np.testing.assert_allclose(np.exp(all_scores(world)).sum(1), 1.0, rtol=1e-5)


def test_unconstrained_beams_of_full_width_are_exhaustive_search(world):
    scores = all_scores(world)
    beams = generate(world, len(WHOLE), constrained=False)
    order = np.argsort(-scores, axis=1)
    np.testing.assert_allclose(beams.score, np.take_along_axis(scores, order, 1), rtol=1e-4)
    np.testing.assert_array_equal(np.asarray(beams.code) - 1, WHOLE[order])
    assert beams.mask.all()


def test_constrained_beams_are_the_items_by_likelihood(world):
    scores = all_scores(world)
    place = {tuple(c): i for i, c in enumerate(WHOLE)}
    of_items = scores[:, [place[tuple(c)] for c in CODES]]
    beams = generate(world, ITEMS)
    order = np.argsort(-of_items, axis=1)
    np.testing.assert_array_equal(IDS.item[beams.node[..., -1]], order + 1)
    np.testing.assert_allclose(beams.score, np.take_along_axis(of_items, order, 1), rtol=1e-4)
    assert beams.mask.all()


def test_constrained_beams_hold_real_items_whatever_the_width(world):
    for width in (1, 2, 4, 20):
        beams = generate(world, width)
        found = np.asarray(beams.code) - 1
        real = {tuple(c) for c in CODES}
        assert all(tuple(c) in real for c in found[np.asarray(beams.mask)])
        np.testing.assert_array_equal(beams.mask.sum(1), min(width, ITEMS))


def test_beams_of_one_search_differ(world):
    items = np.asarray(IDS.item[generate(world, 5).node[..., -1]])
    assert all(len(set(row)) == 5 for row in items)


def test_padding_changes_nothing(world):
    model, params, window, states, mask = world
    per_event = states.shape[1] // L
    changed = window._replace(item=np.where(window.mask, window.item, 3))
    again, _ = model.apply({"params": params}, changed, IDS, method="encode")
    np.testing.assert_allclose(
        np.where(mask[..., None], states, 0), np.where(mask[..., None], again, 0), atol=1e-6
    )
    # One event alone, without the padding before it.
    short = jax.tree.map(lambda x: x[3:, -1:], window)
    alone, _ = model.apply({"params": params}, short, IDS, method="encode")
    np.testing.assert_allclose(alone[0], states[3, -per_event:], atol=1e-5)


def test_an_empty_history_gives_finite_beams(world):
    beams = generate(world, 4)
    assert np.isfinite(np.asarray(beams.score)).all()


def test_no_gradient_flows_through_the_choice(world):
    model, params, _, states, mask = world

    def score(params):
        found = model.apply({"params": params}, states, mask, IDS, 3, method="generate")
        return found.score.sum()

    assert all(not np.any(g) for g in jax.tree.leaves(jax.grad(score)(params)))


def test_a_greedy_trap_needs_a_second_beam():
    # Code 0 looks best at the first digit, but what follows it is bad.
    first = jnp.log(jnp.array([0.5, 0.4, 0.1]))
    second = jnp.log(jnp.array([[0.4, 0.3, 0.3], [0.9, 0.05, 0.05], [1 / 3] * 3]))
    codes = np.array(list(itertools.product(range(3), repeat=2)))
    ids = jax.tree.map(jnp.asarray, build_semantic_ids(codes, 3))

    def step(carry, code, digit):
        return jnp.where(digit == 0, first, second[jnp.maximum(code, 1) - 1]), carry

    one, two = (beam_search(step, (), ids, batch=1, width=w) for w in (1, 2))
    np.testing.assert_array_equal(one.code[0, 0], [1, 1])
    np.testing.assert_array_equal(two.code[0, 0], [2, 1])
    np.testing.assert_allclose(two.score[0, 0], np.log(0.36), rtol=1e-5)


@pytest.mark.parametrize("world", ["item"], indirect=True)
def test_in_bfloat16_log_probabilities_are_float32_and_near(world):
    model, params, window, *_ = world
    codes = jnp.ones((len(REAL), K), jnp.int32)
    rounded = make(model.history, dtype=jnp.bfloat16)
    calls = [jax.jit(each.apply) for each in (model, rounded)]
    (_, _, expected), (states, mask, found) = (
        f({"params": params}, window, IDS, codes) for f in calls
    )
    assert states.dtype == jnp.bfloat16 and found.dtype == jnp.float32
    assert 0 < np.abs(found - expected).max() < 0.1

    def beams(states, mask):
        return rounded.apply({"params": params}, states, mask, IDS, width=4, method="generate")

    assert jax.eval_shape(beams, states, mask).score.dtype == jnp.float32
