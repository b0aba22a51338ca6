"""The explicit state of a training run."""

from typing import Any

import flax.struct
import jax
import optax

from nif_jax.training.devices.base import Devices


class TrainState(flax.struct.PyTreeNode):
    """Everything a step changes; the data position is `step` itself.

    Attributes:
      step: [] int32, steps taken.
      params: trained parameters.
      opt_state: the optimizer's.
      variables: what learns without gradients (EMA codebooks); {} where nothing does.
      rng: the run's key data; steps fold their number into it, so it never changes.
    """

    step: jax.Array
    params: Any
    opt_state: optax.OptState
    variables: Any
    rng: jax.Array


PRNG = "rbg"
"""Counter-based generator of the hardware's kind: a fraction of threefry's time in dropout."""


def key(seed: int) -> jax.Array:
    """The random key of a seed; every key of a run is folded out of it."""
    return jax.random.key(seed, impl=PRNG)


def wrap(key_data: jax.Array) -> jax.Array:
    """The key that a state holds as plain numbers."""
    return jax.random.wrap_key_data(key_data, impl=PRNG)


def create(params: Any, variables: Any, optimizer: optax.GradientTransformation, seed: int):
    """A state at step 0."""
    return TrainState(
        step=jax.numpy.zeros((), jax.numpy.int32),
        params=params,
        opt_state=jax.jit(optimizer.init)(params),
        variables=variables,
        rng=jax.random.key_data(key(seed)),
    )


def create_on_devices(
    params: Any,
    variables: Any,
    optimizer: optax.GradientTransformation,
    seed: int,
    parallel: Devices,
) -> TrainState:
    """`create`, replicated. What the optimizer keeps is made on the devices: moments are twice as
    large as the parameters."""
    params, variables = parallel.replicate((params, variables))
    start = create({}, {}, optax.identity(), seed)
    step, rng = parallel.replicate((start.step, start.rng))
    return TrainState(step, params, parallel.map(optimizer.init)(params), variables, rng)
