"""Optimizers from a config section."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nif_jax.data.shards import power_of_two
from nif_jax.data.table_columns import MODEL, is_columns

FEWEST_RATES = 1024
"""Learning rates that a state has room for: shorter schedules share the shape of their state."""


def make_optimizer(
    *,
    learning_rate: float,
    total_steps: int,
    warmup_steps: int,
    decay: str,
    weight_decay: float,
    clip_norm: float,
    flatten: bool = True,
    rates_in_state: bool = False,
) -> optax.GradientTransformation:
    """AdamW with warm-up.

    Args:
      learning_rate: the peak.
      total_steps: length of the schedule.
      warmup_steps: steps of linear warm-up from 0.
      decay: "constant" or "cosine" (to 1 % of the peak).
      weight_decay: AdamW's, multiplied by the learning rate each step; embeddings included, where
        it keeps the model from memorising rare ids.
      clip_norm: largest global gradient norm; 0 = no clipping.
      flatten: whether the state is one vector for all parameters. A kernel instead of one for each
        array makes a CPU step of a small model about 10 % faster, and its compilation a third
        shorter. Large tables (nif_jax/training/sparse.py), and tables whose columns are on several
        devices, need a state with their shapes.
      rates_in_state: whether the learning rate of each step is in the state, in place of a formula
        in the program, so that schedules of other lengths can have the same program.
    """
    if decay == "cosine":
        schedule = optax.warmup_cosine_decay_schedule(
            0.0,
            learning_rate,
            warmup_steps,
            max(total_steps, warmup_steps + 1),
            learning_rate / 100,
        )
    elif decay == "constant":
        schedule = optax.join_schedules(
            [
                optax.linear_schedule(0.0, learning_rate, max(warmup_steps, 1)),
                optax.constant_schedule(learning_rate),
            ],
            [warmup_steps],
        )
    else:
        raise ValueError(f"decay={decay!r} is none of constant, cosine.")
    clip = _clip_by_global_norm(clip_norm) if clip_norm else optax.identity()
    if rates_in_state:
        length = power_of_two(max(total_steps + 1, FEWEST_RATES))
        rates = np.asarray(schedule(jnp.arange(length)), np.float32)
        adam = optax.scale_by_adam(), optax.add_decayed_weights(weight_decay)
        optimizer = optax.chain(clip, *adam, _scale_by_rates(rates))
    else:
        optimizer = optax.chain(clip, optax.adamw(schedule, weight_decay=weight_decay))
    return optax.flatten(optimizer) if flatten else optimizer


class RatesState(NamedTuple):
    """Steps taken, and the learning rate [S] of each step."""

    taken: jax.Array
    rates: jax.Array


def _scale_by_rates(rates: np.ndarray) -> optax.GradientTransformation:
    """optax.scale_by_learning_rate, with rates [S] of the state; the last one holds beyond S."""

    def init(params):
        del params
        return RatesState(jnp.zeros((), jnp.int32), jnp.asarray(rates))

    def update(updates, state, params=None):
        del params
        rate = state.rates[jnp.minimum(state.taken, len(state.rates) - 1)]
        scaled = jax.tree.map(lambda x: jnp.asarray(-rate, x.dtype) * x, updates)
        return scaled, RatesState(state.taken + 1, state.rates)

    return optax.GradientTransformation(init, update)


def _clip_by_global_norm(clip_norm: float) -> optax.GradientTransformation:
    """optax.clip_by_global_norm, for updates of which other devices may have columns too."""
    plain = optax.clip_by_global_norm(clip_norm)

    def update(updates, state, params=None):
        leaves = jax.tree.leaves(updates, is_leaf=is_columns)
        spread = [x.values for x in leaves if is_columns(x)]
        if not spread:
            return plain.update(updates, state, params)
        copied = [x for x in leaves if not is_columns(x)]
        squares = jax.lax.psum(sum(jnp.vdot(x, x) for x in spread), MODEL)
        norm = jnp.sqrt(squares + sum(jnp.vdot(x, x) for x in copied))
        return jax.tree.map(lambda x: x * jnp.minimum(1, clip_norm / norm), updates), state

    return optax.GradientTransformation(plain.init, update)
