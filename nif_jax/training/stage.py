"""What every stage of a pipeline is: pure functions that the one loop can run."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import optax

Tree = Any


class Aux(NamedTuple):
    """What a loss returns beside its sum.

    Attributes:
      weight: [] what the sum is to be divided by, over all devices.
      variables: the stage's variables after this batch.
      measurements: name -> (sum, weight); the loop adds both up and divides.
    """

    weight: jax.Array
    variables: Tree
    measurements: Mapping[str, tuple[jax.Array, jax.Array]]


@dataclasses.dataclass(frozen=True)
class Stage:
    """One model in training.

    `arrays` lie on one device each (the shard's store, cached flows); `frozen` is the same on all
    (catalogue features, a frozen generator) and is an argument, never a closure: buffers can be
    donated, and a checkpoint holds what it says.

    Attributes:
      name: folder of its checkpoints and tag of its records.
      init: (rng, batch, frozen) -> (params, variables).
      gather: (arrays, index) -> batch, under NumPy and under jit alike.
      loss_fn: (params, variables, frozen, batch, rng, step) -> (loss_sum, Aux). The step is the
        number [] of the one that is taken; None asks for the loss without dropout.
      plan: what a step trains on, see nif_jax.data.sampling and nif_jax.data.packing.
      evaluate: (params, variables) -> metrics on validation, replicated state in, floats out. One
        that has the name of a variable is what evaluation chose for it, and is saved as that.
      optimizer: an optax transformation.
      metric: the name of the validation metric to select by; larger is better.
      config: what shaped this stage, for its checkpoint.
    """

    name: str
    init: Callable[..., tuple[Tree, Tree]]
    gather: Callable[[Tree, Tree], Tree]
    loss_fn: Callable[..., tuple[jax.Array, Aux]]
    plan: Any
    evaluate: Callable[[Tree, Tree], Mapping[str, float]]
    optimizer: optax.GradientTransformation
    metric: str
    config: Mapping[str, Any]
