"""Forms of a state that depend on a run's layout on devices: a checkpoint may have another one.

An optimizer keeps one vector for all parameters, or arrays of their shapes (make_optimizer). A
variable with an entry for each shard starts anew, at 0, with another number of shards.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nif_jax.training.checkpoint_meta import describe, shape_of
from nif_jax.training.train_state import TrainState


def host_like(like: Any) -> Any:
    """Host arrays of these shapes and types, for what a checkpoint is read into."""
    return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like)


def stored_form(
    like: Any, schema: Mapping[str, str], per_shard: Sequence[str] = ()
) -> tuple[Any, Callable[[Any], Any] | None]:
    """What to read of a checkpoint, and how to give it the form of `like`.

    Args:
      like: shapes and types that are needed: of a TrainState, or of {"params", "variables"}.
      schema: names and types that the checkpoint has, see checkpoint_meta.describe.
      per_shard: names of variables with an entry for each shard.

    Returns:
      shapes and types to read, which are `like` unless the checkpoint has another form of it; and a
      function of host arrays, None where there is nothing to do.
    """
    stored, steps = like, []
    if isinstance(like, TrainState) and describe(like).keys() != schema.keys():
        other = jax.eval_shape(_other_form, like)
        if describe(other).keys() == schema.keys():
            stored = other
            steps.append(lambda state: jax.tree.map(np.asarray, _other_form(state)))

    def resized(path, x):
        name = jax.tree_util.keystr(path)
        found = schema.get(name, "")
        if not any(f"[{own!r}]" in name for own in per_shard) or "[" not in found:
            return x
        return jax.ShapeDtypeStruct(shape_of(found), x.dtype)

    read = jax.tree_util.tree_map_with_path(resized, stored)
    if describe(read) != describe(stored):
        wanted = stored
        steps.append(lambda tree: jax.tree.map(_or_zeros, wanted, tree))

    def convert(tree):
        for step in reversed(steps):
            tree = step(tree)
        return tree

    return read, convert if steps else None


def _or_zeros(like: Any, x: np.ndarray) -> np.ndarray:
    return x if x.shape == like.shape else np.zeros(like.shape, like.dtype)


def _other_form(state: TrainState) -> TrainState:
    """The state with vectors in place of arrays shaped as parameters, or the other way round."""
    leaves, own = jax.tree.flatten(state.params)
    ends = np.cumsum([x.size for x in leaves])

    def as_parameters(x) -> bool:
        return bool(jax.tree.structure(x) == own)  # type: ignore[operator]

    def vector(x):
        if not as_parameters(x):
            return x
        return jnp.concatenate([part.reshape(-1) for part in jax.tree.leaves(x)])

    def arrays(x):
        if x.shape != (ends[-1],):
            return x
        parts = zip(jnp.split(x, ends[:-1]), leaves, strict=True)
        return jax.tree.unflatten(own, [part.reshape(like.shape) for part, like in parts])

    kept = jax.tree.leaves(state.opt_state, is_leaf=as_parameters)
    change = vector if any(map(as_parameters, kept)) else arrays
    return state.replace(opt_state=jax.tree.map(change, state.opt_state, is_leaf=as_parameters))
