"""Parameters of a module from the shapes of its inputs."""

from typing import Any

import flax.linen as nn
import jax
from jax.interpreters import partial_eval


def init_params(module: nn.Module, rngs: Any, *inputs: Any) -> Any:
    """module.lazy_init(rngs, *inputs)["params"], bit for bit, in half the time or less.

    lazy_init also runs what of the forward pass does not depend on the inputs (masks, positions,
    sums of parameters), and each of those operations is compiled for itself. Here only what makes
    parameters is run. It is not one program under jit: operations of equal shapes then share
    nothing, which takes longer to compile than all the small ones.

    Args:
      module: any module.
      rngs: a key, or a mapping of keys, as for lazy_init.
      *inputs: of the module's call; jax.ShapeDtypeStruct in place of arrays.
    """
    leaves, tree = jax.tree.flatten(rngs)
    closed, shapes = jax.make_jaxpr(
        lambda *leaves: module.lazy_init(jax.tree.unflatten(tree, leaves), *inputs)["params"],
        return_shape=True,
    )(*leaves)
    everything = [True] * len(closed.jaxpr.outvars)
    needed, _ = partial_eval.dce_jaxpr(closed.jaxpr, everything, instantiate=True)
    found = jax.core.eval_jaxpr(needed, closed.consts, *leaves)
    return jax.tree.unflatten(jax.tree.structure(shapes), found)
