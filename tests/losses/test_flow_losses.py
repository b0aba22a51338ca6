"""Diversity of heads and velocity of the flow: hand-computed values, limits and gradients."""

import functools

import jax
import numpy as np
import pytest

from nif_jax.losses import flow

DIVERSITIES = ["cosine", "tangent"]
VELOCITIES = ["geodesic", "chord"]


@functools.partial(jax.jit, static_argnums=1)
def diversity_and_gradient(heads, form):
    """[...] and its gradient: compiled together, since compilation is what these tests cost."""
    gradient = jax.grad(lambda x: flow.diversity(x, form).sum())(heads)
    return flow.diversity(heads, form), gradient


@functools.partial(jax.jit, static_argnums=2)
def velocity_and_gradient(states, gaps, form, half_life):
    gradient = jax.grad(lambda x: flow.velocity(x, gaps, form, half_life).sum())(states)
    return flow.velocity(states, gaps, form, half_life), gradient


def diversity(heads, form):
    return diversity_and_gradient(np.asarray(heads, np.float32), form)[0]


def velocity(states, gaps, form, half_life=10.0):
    states, gaps = np.asarray(states, np.float32), np.asarray(gaps, np.float32)
    return velocity_and_gradient(states, gaps, form, half_life)[0]


HEADS = np.array(
    [
        [[3, 0, 0], [0, 0.5, 0], [2, 2, 0]],  # pairs at 90, 45 and 45 degrees, any lengths
        [[5, 0, 0], [0, 5, 0], [0, 0, 5]],  # orthogonal
        [[1, 2, 3], [2, 4, 6], [-1, -2, -3]],  # equal or opposite
        [[1, 0, 0], [0.5, np.sqrt(3) / 2, 0], [0, 0, 1]],  # 60, 90 and 90 degrees
    ]
)


def test_diversity_by_hand():
    np.testing.assert_allclose(
        diversity(HEADS, "cosine"), [1 / 3, 0, 1, 1 / 12], rtol=1e-5, atol=1e-7
    )


def test_tangent_form_by_hand():
    def around_a_pole(width):  # at 0, 120 and 240 degrees
        angle = 2 * np.pi * np.arange(3) / 3
        return np.stack([width * np.cos(angle), width * np.sin(angle), np.ones(3)], axis=1)

    # However narrow the bundle, only directions within the tangent plane count: cosine -1/2 for
    # each pair, and so for the axes as seen from their mean. Of the last three heads one stands at
    # the mean, and has no direction; the others lie opposite each other.
    opposite = [[1, 0, 1], [0, 0, 1], [-1, 0, 1]]
    heads = [np.eye(3), around_a_pole(0.1), around_a_pole(3.0), opposite]
    np.testing.assert_allclose(diversity(heads, "tangent"), [0.25, 0.25, 0.25, 1 / 3], rtol=1e-4)


@pytest.mark.parametrize(("form", "expected"), [("cosine", 0.25), ("tangent", 1.0)])
def test_two_heads(form, expected):
    # As seen from their mean, two heads always lie opposite each other.
    heads = [[1, 0, 0], [0.5, np.sqrt(3) / 2, 0]]
    assert diversity(heads, form) == pytest.approx(expected)


@jax.jit
def score_diversity(heads, items):
    return flow.score_diversity(heads, items)


def test_score_diversity_by_hand():
    items = np.array([[1, 0, 1, 1], [0, 1, -1, 1], [-1, 0, 1, -1], [0, -1, -1, -1]], np.float32)
    # Scores of heads (1, 0) and (1, 0): (1, 0, -1, 0) and (1, -1, 1, -1), which do not correlate.
    # Of (1, 0) and (0, 1): (1, 0, -1, 0) and (1, 1, -1, -1), correlation 2 / sqrt(2 * 4). The
    # length of a head and its sign do not count, nor what all scores have in common.
    heads = [[[1, 0], [1, 0]], [[1, 0], [0, 1]], [[3, 0], [0, -0.5]]]
    found = score_diversity(np.array(heads, np.float32), items + 5)
    np.testing.assert_allclose(found, [0, 0.5, 0.5], atol=1e-5)


def test_score_diversity_is_the_mean_squared_correlation_of_scores():
    rng = np.random.default_rng(0)
    heads, items = rng.normal(size=(3, 4, 5)), rng.normal(size=(30, 20))
    scores = np.einsum("pad,iad->pai", heads, items.reshape(30, 4, 5))
    pairs = ~np.eye(4, dtype=bool)
    expected = [(np.corrcoef(one)[pairs] ** 2).mean() for one in scores]
    found = score_diversity(*(np.asarray(x, np.float32) for x in (heads, items)))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_a_rotation_of_one_heads_part_changes_coordinates_and_no_scores():
    rng = np.random.default_rng(1)
    heads = rng.normal(size=(4, 3, 6)).astype(np.float32)
    items = rng.normal(size=(40, 3, 6)).astype(np.float32)
    turn, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    turned = [x.copy() for x in (heads, items)]
    for x in turned:
        x[:, 1] = x[:, 1] @ turn
    logits = [np.einsum("pad,iad->pi", *x) for x in ((heads, items), turned)]
    np.testing.assert_allclose(*logits, atol=1e-4)
    before, after = (score_diversity(h, i.reshape(40, 18)) for h, i in ((heads, items), turned))
    np.testing.assert_allclose(before, after, atol=1e-6)
    for form in DIVERSITIES:
        assert np.abs(diversity(heads, form) - diversity(turned[0], form)).mean() > 0.01


def test_score_diversity_has_a_finite_gradient_where_scores_are_equal_or_heads_vanish():
    heads = np.array([np.ones((3, 2)), np.zeros((3, 2))], np.float32)
    gradient = jax.jit(jax.grad(lambda *x: flow.score_diversity(*x).sum(), (0, 1)))
    for items in (np.ones((5, 6)), np.zeros((5, 6)), np.random.default_rng(0).normal(size=(5, 6))):
        value, found = score_diversity(heads, items), gradient(heads, items.astype(np.float32))
        assert np.isfinite(value).all()
        assert all(np.isfinite(x).all() for x in found)
    np.testing.assert_array_equal(score_diversity(np.ones((2, 1, 4)), np.ones((3, 4))), [0, 0])


@pytest.mark.parametrize("form", DIVERSITIES)
def test_one_head_has_no_pair(form):
    np.testing.assert_array_equal(diversity(np.ones((2, 3, 1, 4)), form), np.zeros((2, 3)))


@pytest.mark.parametrize("form", DIVERSITIES)
def test_diversity_is_taken_for_each_position(form):
    heads = np.random.default_rng(0).normal(size=(4, 3, 3))
    together = diversity(heads, form)
    reversed_heads = diversity(heads[::-1], form)
    np.testing.assert_allclose(together, reversed_heads[::-1], rtol=1e-5)
    assert np.ptp(together) > 0.05


@pytest.mark.parametrize("form", DIVERSITIES)
def test_diversity_gradient_is_finite_where_heads_coincide_or_vanish(form):
    heads = np.array(
        [
            np.ones((3, 3)),
            np.zeros((3, 3)),
            [[1, 0, 0], [0, 0, 0], [1, 1, 0]],
            [[1, 2, 3], [-1, -2, -3], [0, 0, 0]],
        ]
    )
    value, gradient = diversity_and_gradient(heads.astype(np.float32), form)
    assert np.isfinite(value).all() and np.isfinite(gradient).all()


@pytest.mark.parametrize("form", DIVERSITIES)
def test_descending_diversity_spreads_heads(form):
    heads = np.random.default_rng(1).normal(size=(4, 3, 3)).astype(np.float32) + 1
    before, gradient = diversity_and_gradient(heads, form)
    for _ in range(60):
        heads = heads - 0.5 * gradient
        after, gradient = diversity_and_gradient(heads, form)
    # Orthogonal heads reach 0; tangents of three lie in a plane, at best 120 degrees apart.
    least = {"cosine": 0.0, "tangent": 0.25}[form]
    assert (after >= least - 1e-5).all()
    assert (after - least).mean() < 0.3 * (before - least).mean()


@jax.jit
def squared_angle_and_slope(cosine):
    return flow.squared_angle(cosine), jax.vmap(jax.grad(flow.squared_angle))(cosine)


def test_squared_angle_equals_arccos_squared_on_both_sides_of_the_series():
    # The series takes over at u = 0.02.
    cosine = np.concatenate([np.linspace(-0.999, 0.999, 41), 1 - np.geomspace(1e-4, 0.05, 40)])
    cosine = np.append(cosine, [0.98 - 1e-4, 0.98 + 1e-4]).astype(np.float32)
    value, slope = squared_angle_and_slope(cosine)
    exact = cosine.astype(np.float64)
    np.testing.assert_allclose(value, np.arccos(exact) ** 2, rtol=1e-5)
    np.testing.assert_allclose(slope, -2 * np.arccos(exact) / np.sqrt(1 - exact**2), rtol=2e-4)


def test_squared_angle_at_its_ends():
    ends = np.array([1.0, 1 + 1e-7, -1.0, -1 - 1e-7], np.float32)
    value, slope = squared_angle_and_slope(ends)
    np.testing.assert_allclose(value, [0, 0, np.pi**2, np.pi**2], atol=0.01)
    assert np.isfinite(slope).all()
    np.testing.assert_allclose(slope[:2], -2, rtol=1e-5)  # the limit of the slope above


# Steps of 0, 90 and 45 degrees; then of 180, 0 and 60 degrees. Lengths do not matter.
STATES = np.array(
    [[[1, 0], [7, 0], [0, 0.1], [3, 3]], [[2, 0], [-1, 0], [-3, 0], [-0.5, np.sqrt(3) / 2]]]
)
STEPS = {
    "geodesic": np.array([[0, np.pi / 2, np.pi / 4], [np.pi, 0, np.pi / 3]]) ** 2,
    "chord": np.array([[0, 2, 2 - np.sqrt(2)], [4, 0, 1]]),
}


@pytest.mark.parametrize("form", VELOCITIES)
def test_velocity_by_hand(form):
    found = np.array(velocity(STATES, np.zeros((2, 3)), form))
    # Near 180 degrees the angle is clipped, by less than 0.002 of pi.
    assert found[1, 0] == pytest.approx(STEPS[form][1, 0], abs=0.01)
    found[1, 0] = STEPS[form][1, 0]
    np.testing.assert_allclose(found, STEPS[form], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", VELOCITIES)
def test_a_gap_of_the_half_life_counts_half(form):
    gaps = np.array([[60, 120, 0], [0, 60, 6e9]])
    found = velocity(STATES, gaps, form, half_life=60.0)
    expected = STEPS[form] * np.array([[0.5, 0.25, 1], [1, 0.5, 0]])
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-6)
    assert found[1, 2] == 0


@pytest.mark.parametrize("form", VELOCITIES)
def test_velocity_gradient_is_finite_where_states_coincide_oppose_or_vanish(form):
    states = np.array(
        [[[1, 2], [1, 2], [1, 2], [-1, -2]], [[0, 0], [1, 2], [0, 0], [0, 0]]], np.float32
    )
    _, gradient = velocity_and_gradient(states, np.zeros((2, 3), np.float32), form, 1.0)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("form", VELOCITIES)
def test_velocity_gradient_equals_finite_differences(form):
    states = np.random.default_rng(3).normal(size=(2, 4, 2))
    gaps = np.array([[0.0, 5, 10], [20, 1, 3]])

    def reference(states):
        states = states / np.linalg.norm(states, axis=-1, keepdims=True)
        left, right = states[:, :-1], states[:, 1:]
        distance = np.arccos((left * right).sum(axis=-1)) ** 2
        if form == "chord":
            distance = ((left - right) ** 2).sum(axis=-1)
        return (distance * 0.5 ** (gaps / 10)).sum()

    single = states.astype(np.float32), gaps.astype(np.float32)
    value, found = velocity_and_gradient(*single, form, 10.0)
    np.testing.assert_allclose(value.sum(), reference(states), rtol=1e-4)
    numeric = np.zeros_like(states)
    for place in np.ndindex(*states.shape):
        step = np.zeros_like(states)
        step[place] = 1e-6
        numeric[place] = (reference(states + step) - reference(states - step)) / 2e-6
    np.testing.assert_allclose(found, numeric, rtol=1e-3, atol=1e-4)


def test_unknown_forms_are_refused():
    with pytest.raises(ValueError, match=r"'euclid'.*'cosine', 'tangent'"):
        flow.diversity(np.eye(2), "euclid")
    with pytest.raises(ValueError, match=r"'euclid'.*'geodesic', 'chord'"):
        flow.velocity(np.eye(2), np.zeros(1), "euclid", 1.0)
