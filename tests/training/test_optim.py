"""Optimizers: the learning rate of a step from a formula, or from the state."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nif_jax.training.optim import make_optimizer


def updates(total_steps, rates_in_state, decay):
    """[12, 3] parameters after each of 12 steps, and the program of a step."""
    optimizer = make_optimizer(
        learning_rate=0.1,
        total_steps=total_steps,
        warmup_steps=3,
        decay=decay,
        weight_decay=0.1,
        clip_norm=1.0,
        rates_in_state=rates_in_state,
    )

    def step(state, gradient):
        params, kept = state
        changes, kept = optimizer.update({"w": gradient}, kept, params)
        params = optax.apply_updates(params, changes)
        return (params, kept), params["w"]

    start = {"w": jnp.array([1.0, -2.0, 3.0])}
    gradients = jax.random.normal(jax.random.key(0), (12, 3))
    state = start, optimizer.init(start)
    program = jax.jit(step).lower(state, gradients[0]).as_text()
    return np.asarray(jax.lax.scan(step, state, gradients)[1]), program


@pytest.mark.parametrize("decay", ["cosine", "constant"])
def test_rates_of_the_state_are_those_of_the_formula(decay):
    formula, state = (updates(8, in_state, decay) for in_state in (False, True))
    np.testing.assert_allclose(state[0], formula[0], rtol=1e-6)  # four steps beyond the schedule


def test_schedules_of_other_lengths_have_one_program():
    short, long = (updates(steps, True, "cosine") for steps in (8, 100))
    assert short[1] == long[1]
    assert abs(short[0] - long[0]).max() > 0.01
    short, long = (updates(steps, False, "cosine") for steps in (8, 100))
    assert short[1] != long[1]
