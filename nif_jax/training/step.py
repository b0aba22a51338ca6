"""The train step: a pure function of state, arrays, constants and indices."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from nif_jax.training import train_state
from nif_jax.training.devices.base import AXIS
from nif_jax.training.stage import Stage
from nif_jax.training.train_state import TrainState


def _add(a, b):
    return jax.tree.map(jnp.add, a, b)


def _accumulate(
    gradient: Callable, microbatch: int, state: TrainState, arrays, constants, batch, rng
):
    """Sum of `gradient` over passes of `microbatch` rows, and the variables after the last one."""
    # The longest axis: leaves of pairs have one entry for two rows.
    rows = max(x.shape[0] for x in jax.tree.leaves(batch))
    if not microbatch or microbatch >= rows:
        return gradient(state, arrays, constants, batch, rng)
    passes = rows // microbatch
    split = jax.tree.map(lambda x: x.reshape(passes, -1, *x.shape[1:]), batch)

    def body(carry, part):
        total, variables = carry
        number, batch = part
        found, variables = gradient(
            state.replace(variables=variables),
            arrays,
            constants,
            batch,
            jax.random.fold_in(rng, number),
        )
        return (_add(total, found), variables), None

    first = (jnp.zeros((), jnp.int32), jax.tree.map(lambda x: x[0], split))
    shape, _ = jax.eval_shape(gradient, state, arrays, constants, first[1], rng)
    zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shape)
    (total, variables), _ = jax.lax.scan(body, (zero, state.variables), (jnp.arange(passes), split))
    return total, variables


def make_train_step(stage: Stage, microbatch: int, on_device: bool) -> Callable:
    """A function of one device that takes K steps in one dispatch.

    The loss is a SUM: the step differentiates it, adds gradient and weight up over microbatches and
    devices, and divides once. That is exact for padding, accumulation and devices alike.

    Args:
      stage: what to train.
      microbatch: rows of a gradient pass, 0 = the whole batch. On a CPU passes that fit its cache
        are faster; on accelerators it trades time for memory.
      on_device: whether batches are indices to gather from arrays (else gathered on the host).

    Returns:
      (state, arrays, constants, batches [K, B, ...]) -> (state, measurements {name: (sum [K],
      weight [K])}), to be mapped over the device axis.
    """

    @jax.jit  # within a program this compiles nothing of its own: it is traced once, used twice
    def gradient(state: TrainState, arrays, constants, batch, rng):
        if on_device:
            batch = stage.gather(arrays, batch)

        def objective(params):
            return stage.loss_fn(params, state.variables, constants, batch, rng, state.step)

        (loss, aux), grads = jax.value_and_grad(objective, has_aux=True)(state.params)
        measurements = {"loss": (loss, aux.weight)} | dict(aux.measurements)
        return (grads, aux.weight, measurements), aux.variables

    def one_step(state: TrainState, arrays, constants, batch):
        rng = jax.random.fold_in(train_state.wrap(state.rng), state.step)
        rng = jax.random.fold_in(rng, jax.lax.axis_index(AXIS))
        found, variables = _accumulate(gradient, microbatch, state, arrays, constants, batch, rng)
        grads, weight, measurements = jax.lax.psum(found, AXIS)
        grads = jax.tree.map(lambda g: g / jnp.maximum(weight, 1e-9), grads)
        updates, opt_state = stage.optimizer.update(grads, state.opt_state, state.params)
        return (
            state.replace(
                step=state.step + 1,
                params=optax.apply_updates(state.params, updates),
                opt_state=opt_state,
                variables=variables,
            ),
            measurements,
        )

    def train_step(state: TrainState, arrays, constants, batches):
        return jax.lax.scan(lambda s, b: one_step(s, arrays, constants, b), state, batches)

    return train_step
