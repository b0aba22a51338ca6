"""The train step: a pure function of state, arrays, constants and indices."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from nif_jax.data.table_columns import agree
from nif_jax.data.table_rows import Lookup
from nif_jax.training import sparse, train_state
from nif_jax.training.devices.base import AXIS
from nif_jax.training.stage import Stage
from nif_jax.training.train_state import TrainState


def _add(a, b):
    return jax.tree.map(jnp.add, a, b)


def _passes(microbatch: int, batch) -> Any:
    """Leaves [passes, microbatch, ...] of a batch, or None where one pass takes all of its rows."""
    # The longest axis: leaves of pairs have one entry for two rows.
    rows = max(x.shape[0] for x in jax.tree.leaves(batch))
    if not microbatch or microbatch >= rows:
        return None
    return jax.tree.map(lambda x: x.reshape(rows // microbatch, -1, *x.shape[1:]), batch)


def _accumulate(gradient: Callable, microbatch: int, state: TrainState, batch, rng):
    """Sum of `gradient` over passes of `microbatch` rows, and the variables after the last one."""
    split = _passes(microbatch, batch)
    if split is None:
        return gradient(state, batch, rng)

    def body(carry, part):
        total, variables = carry
        number, batch = part
        key = jax.random.fold_in(rng, number)
        found, variables = gradient(state.replace(variables=variables), batch, key)
        return (_add(total, found), variables), None

    first = jax.tree.map(lambda x: x[0], split)
    shape, _ = jax.eval_shape(gradient, state, first, rng)
    zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shape)
    numbers = jnp.arange(len(jax.tree.leaves(split)[0]))
    (total, variables), _ = jax.lax.scan(body, (zero, state.variables), (numbers, split))
    return total, variables


def _lookups(lookups: Callable, microbatch: int, batch, rng) -> dict[str, Lookup]:
    """What the passes of `_accumulate` read together, with the keys that they get."""
    split = _passes(microbatch, batch)
    if split is None:
        return lookups(batch, rng)

    def one(part):
        number, batch = part
        return lookups(batch, jax.random.fold_in(rng, number))

    # Not vmap: under vmap, keys of this kind give other numbers.
    return jax.lax.map(one, (jnp.arange(len(jax.tree.leaves(split)[0])), split))


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

    # Not `stage` itself: the function may be kept for stages on other data (programs.py).
    loss_fn, gather, optimizer = stage.loss_fn, stage.gather, stage.optimizer
    find_lookups = stage.lookups

    @jax.jit  # within a program this compiles nothing of its own: it is traced once, used twice
    def gradient(arrays, constants, rows, state: TrainState, batch, rng):
        if on_device and not find_lookups:
            batch = gather(arrays, batch)

        def objective(params):
            params = sparse.attach(params, rows)
            return loss_fn(params, state.variables, constants, batch, rng, state.step)

        (loss, aux), grads = jax.value_and_grad(objective, has_aux=True)(state.params)
        measurements = {"loss": (loss, aux.weight)} | dict(aux.measurements)
        return (grads, aux.weight, measurements), aux.variables

    def update(state: TrainState, arrays, constants, rows, batch, rng):
        one_pass = functools.partial(gradient, arrays, constants, rows)
        found, variables = _accumulate(one_pass, microbatch, state, batch, rng)
        grads, weight, measurements = agree(jax.lax.psum(found, AXIS))
        grads = jax.tree.map(lambda g: g / jnp.maximum(weight, 1e-9), grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        return (
            state.replace(
                step=state.step + 1,
                params=optax.apply_updates(state.params, updates),
                opt_state=opt_state,
                variables=variables,
            ),
            measurements,
        )

    def one_step(state: TrainState, arrays, constants, batch):
        rng = jax.random.fold_in(train_state.wrap(state.rng), state.step)
        rng = jax.random.fold_in(rng, jax.lax.axis_index(AXIS))
        if not find_lookups:
            return update(state, arrays, constants, {}, batch, rng)
        if on_device:
            batch = gather(arrays, batch)
        lookups = _lookups(functools.partial(find_lookups, constants), microbatch, batch, rng)
        rows = sparse.find_rows(state, lookups)
        small = sparse.take(optimizer, state, rows)
        small, measurements = update(small, arrays, constants, rows, batch, rng)
        return sparse.put(optimizer, state, small, rows), measurements

    def train_step(state: TrainState, arrays, constants, batches):
        return jax.lax.scan(lambda s, b: one_step(s, arrays, constants, b), state, batches)

    return train_step
