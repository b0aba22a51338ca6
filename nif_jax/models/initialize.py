"""Parameters of a module from the shapes of its inputs."""

from typing import Any

import flax.linen as nn
import jax
from jax.extend import core


def init_params(module: nn.Module, rngs: Any, *inputs: Any) -> Any:
    """module.lazy_init(rngs, *inputs)["params"], bit for bit, in less time.

    lazy_init also runs the operations of the forward pass that do not depend on the inputs, such as
    masks, positions and products of parameters, and compiles each of them. Only operations that
    parameters depend on are run here. They are run one by one: a single program under jit would
    take longer to compile, and its parameters differ in the last bits.

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
    found = core.jaxpr_as_fun(_without_unused(closed))(*leaves)
    return jax.tree.unflatten(jax.tree.structure(shapes), found)


def _without_unused(closed: core.ClosedJaxpr) -> core.ClosedJaxpr:
    """The program without the equations that no output depends on."""
    needed = {v for v in closed.jaxpr.outvars if isinstance(v, core.Var)}
    kept = []
    for equation in reversed(closed.jaxpr.eqns):
        if needed.intersection(equation.outvars):
            kept.append(equation)
            needed.update(v for v in equation.invars if isinstance(v, core.Var))
    return closed.replace(jaxpr=closed.jaxpr.replace(eqns=kept[::-1]))
