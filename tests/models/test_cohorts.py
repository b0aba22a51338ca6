"""Cohorts by hand, and each quirk of the authors' code on a small example."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nif_jax.models import cohorts
from nif_jax.models.beam import Beams
from nif_jax.models.cohorts import CohortNetwork, Generated
from nif_jax.models.semantic_ids import build_semantic_ids, children

# Items 1..5: (0, 0), (0, 1), (1, 0), (1, 2), (1, 1); no digit for collisions needed.
CODES = np.array([[0, 0], [0, 1], [1, 0], [1, 2], [1, 1]])
IDS = jax.tree.map(jnp.asarray, build_semantic_ids(CODES, 3))
TABLE = np.array([[99.0], [1.0], [2.0], [4.0], [8.0], [16.0]])


def beams(codes, mask):
    codes = np.array(codes)
    node, nodes = jnp.zeros(codes.shape[:2], jnp.int32), []
    for digit in range(codes.shape[-1]):
        node = children(IDS, digit, node, codes[..., digit])
        nodes.append(node)
    return Beams(
        jnp.asarray(codes + 1), jnp.stack(nodes, -1), jnp.zeros(codes.shape[:2]), jnp.array(mask)
    )


def vectors(found, form="prefix", mean="members", table=TABLE):
    means = cohorts.level_means(jnp.asarray(table), IDS, 2, form, mean)
    values, mask = cohorts.cohort_vectors(means, found, form)
    return np.asarray(values)[..., 0], np.asarray(mask)


def test_a_cohort_is_the_mean_of_its_members():
    values, mask = vectors(beams([[[0, 1], [1, 2]]], [[True, True]]))
    np.testing.assert_allclose(values[0], [[1.5, 2.0], [(4 + 8 + 16) / 3, 8.0]])
    assert mask.all()


def test_padding_is_in_no_mean():
    found = beams([[[0, 0]]], [[True]])
    changed = TABLE.copy()
    changed[0] = -1e6
    for form, mean in (("prefix", "members"), ("level", "members"), ("prefix", "padded")):
        np.testing.assert_array_equal(
            vectors(found, form, mean)[0], vectors(found, form, mean, changed)[0]
        )


def test_beams_of_one_prefix_make_one_cohort():
    _, mask = vectors(beams([[[1, 0], [1, 2], [0, 0]]], [[True, True, True]]))
    np.testing.assert_array_equal(mask[0], [[True, True], [False, True], [True, True]])


def test_a_beam_that_does_not_exist_makes_none():
    _, mask = vectors(beams([[[1, 0], [1, 2]]], [[False, True]]))
    np.testing.assert_array_equal(mask[0], [[False, False], [True, True]])


def test_quirk_a_level_shares_its_code_whatever_comes_before():
    values, _ = vectors(beams([[[0, 1]]], [[True]]), form="level")
    # Level 2, code 1: items 2 and 5, of different prefixes.
    np.testing.assert_allclose(values[0, 0], [1.5, (2 + 16) / 2])


def test_quirk_the_mean_divides_by_the_padded_width():
    values, _ = vectors(beams([[[0, 1]]], [[True]]), form="level", mean="padded")
    # The largest cohort of level 1 has three items, that of level 2 has two.
    np.testing.assert_allclose(values[0, 0], [(1 + 2) / 3, (2 + 16) / 2])


def network(**changes):
    settings = {
        "dim": 4,
        "heads": 2,
        "levels": 2,
        "form": "prefix",
        "mean": "members",
        "attention": "separate",
        "residual": True,
        "dropout": 0.0,
    }
    return CohortNetwork(**settings | changes)


def whole(module, target, table, generated, train=False):
    refined, mask = module.refine(module.means(table, IDS), generated)
    return module.attend(target, refined, mask, train), module.last_state(generated)


@pytest.fixture(scope="module")
def world():
    rng = np.random.default_rng(0)
    states = jnp.asarray(rng.normal(size=(3, 5, 6)), jnp.float32)
    mask = jnp.array([[True] * 5, [False] * 3 + [True] * 2, [False] * 5])
    found = beams([[[0, 1], [1, 2]], [[1, 0], [1, 1]], [[0, 0], [1, 0]]], [[True, True]] * 3)
    target = jnp.asarray(rng.normal(size=(3, 4)), jnp.float32)
    table = jnp.asarray(rng.normal(size=(6, 4)), jnp.float32)
    return target, table, Generated(states, mask, found)


def run(module, params, world):
    target, table, generated = world
    return module.apply({"params": params}, target, table, generated, method=whole)


def test_padded_states_and_cohorts_change_nothing(world, random_params):
    module, (target, table, generated) = network(), world
    init = lambda rng, *args: module.init(rng, *args, method=whole)  # noqa: E731
    params = random_params(0, init, target, table, generated)
    states = jnp.where(generated.mask[..., None], generated.states, 7.0)
    for a, b in zip(
        run(module, params, world),
        run(module, params, (target, table, generated._replace(states=states))),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, atol=1e-6)
    r, state = run(module, params, world)
    assert not np.any(r[2]) and not np.any(state[2])  # a user without history has neither
    assert np.any(r[0]) and np.any(r[1])


def test_quirk_one_attention_without_masks_serves_both(world, random_params):
    module, (target, table, generated) = network(attention="shared", residual=False), world
    init = lambda rng, *args: module.init(rng, *args, method=whole)  # noqa: E731
    params = random_params(0, init, target, table, generated)
    assert "over_cohorts" not in params
    states = jnp.where(generated.mask[..., None], generated.states, 7.0)
    padded = run(module, params, (target, table, generated._replace(states=states)))[0]
    assert np.abs(np.asarray(padded - run(module, params, world)[0]))[1].max() > 1e-4


def test_one_user_may_have_many_candidates(world, random_params):
    module, (target, table, generated) = network(), world
    init = lambda rng, *args: module.init(rng, *args, method=whole)  # noqa: E731
    params = random_params(0, init, target, table, generated)
    one = jax.tree.map(lambda x: x[:1], generated)
    means = module.apply({"params": params}, table, IDS, method="means")
    refined, mask = module.apply({"params": params}, means, one, method="refine")
    many = jax.tree.map(lambda x: jnp.repeat(x, 3, 0), one)
    expected = run(module, params, (target, table, many))[0]
    found = module.apply({"params": params}, target, refined, mask, False, method="attend")
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_deep_fm_by_hand():
    fields = jnp.array([[[1.0, 2.0], [3.0, -1.0], [0.5, 0.0]]])
    module = cohorts.DeepFm((4,), 0.0)
    params = module.init(jax.random.key(0), fields, False)["params"]
    pairs = (1 * 3 + 2 * -1) + (1 * 0.5) + (3 * 0.5)
    deep = jax.tree.map(jnp.zeros_like, params)
    np.testing.assert_allclose(module.apply({"params": deep}, fields, False), [pairs], rtol=1e-6)
    deep["linear"]["kernel"] = jnp.ones((6, 1))
    np.testing.assert_allclose(
        module.apply({"params": deep}, fields, False), [pairs + 5.5], rtol=1e-6
    )
