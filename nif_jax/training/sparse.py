"""Large tables: a step differentiates and updates the rows that it reads, and no others.

The rows of all devices are one sorted list, so that gradients of equal shape are added up over
devices. The step below works on a small state: the listed rows of each large table and of its
moments, and all of the rest. Any optimizer of optax that treats rows alike can be used. With AdamW
this is lazy AdamW: moments and weight decay of a row change in the steps that read it. A row that
no step reads keeps its bits. The global norm, by which gradients are clipped, is the dense one,
because the gradient of other rows is zero.
"""

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from nif_jax.data.table_columns import Columns, is_columns
from nif_jax.data.table_rows import Lookup, TableRows
from nif_jax.training.devices.base import AXIS
from nif_jax.training.train_state import TrainState


class Rows(flax.struct.PyTreeNode):
    """The rows of a table that a step of all devices reads.

    Attributes:
      ids: [U] int32, sorted; of equal ones, the first counts.
      target: [U] int32, the row to write each to; past the end of the table for ids that are not
        to be written: repeated ones, and those that padding alone reads.
      size: N.
    """

    ids: jax.Array
    target: jax.Array
    size: int = flax.struct.field(pytree_node=False)


def find_rows(state: TrainState, lookups: Mapping[str, Lookup]) -> dict[str, Rows]:
    """Table -> its rows, the same on all devices.

    Args:
      state: with the whole tables.
      lookups: table -> what this device reads. A name stands for each parameter whose path ends
        with it, such as "items/id" for "fields/items/id". These have one number of rows.

    Raises:
      ValueError: for a name without a parameter, or parameters that differ in their rows.
    """
    sizes: dict[str, set[int]] = {name: set() for name in lookups}
    names = _names(state.params, lookups)
    tables = jax.tree.leaves(state.params, is_leaf=is_columns)
    for name, table in zip(jax.tree.leaves(names), tables, strict=True):
        if name:
            sizes[name].add(len(table))
    for name, found in sizes.items():
        if len(found) != 1:
            raise ValueError(f"large table {name!r}: parameters have {sorted(found)} rows, not one")
    return {name: _rows(lookup, *sizes[name]) for name, lookup in lookups.items()}


def _rows(lookup: Lookup, size: int) -> Rows:
    # Real ones sort before padding with the same id.
    order = 2 * lookup.ids.reshape(-1) + ~lookup.real.reshape(-1)
    order = jnp.sort(jax.lax.all_gather(order, AXIS, tiled=True))
    ids = order // 2
    first = jnp.append(True, ids[1:] != ids[:-1])
    return Rows(ids, jnp.where(first & (order % 2 == 0), ids, size), size)


def attach(params: Any, rows: Mapping[str, Rows]) -> Any:
    """Parameters as models read them, from those of a small state."""

    def one(name, x):
        if not name:
            return x
        if is_columns(x):
            return Columns(one(name, x.values))
        return TableRows(rows[name].ids, x, rows[name].size)

    return jax.tree.map(one, _names(params, rows), params)


def take(
    optimizer: optax.GradientTransformation, state: TrainState, rows: Mapping[str, Rows]
) -> TrainState:
    """The small state: [U, ...] for each table [N, ...] and for what the optimizer keeps of it."""

    def one(name, x):
        if not name:
            return x
        return jax.tree.map(lambda x: x.at[rows[name].ids].get(mode="clip"), x)

    return jax.tree.map(one, _state_names(optimizer, state, rows), state)


def put(
    optimizer: optax.GradientTransformation,
    state: TrainState,
    small: TrainState,
    rows: Mapping[str, Rows],
) -> TrainState:
    """The state after a step of the small one; the inverse of `take`."""

    def one(name, old, new):
        if not name:
            return new
        into = {"mode": "drop", "unique_indices": True}
        return jax.tree.map(lambda x, y: x.at[rows[name].target].set(y, **into), old, new)

    return jax.tree.map(one, _state_names(optimizer, state, rows), state, small)


def _names(params: Any, tables: Mapping[str, Any]) -> Any:
    """The name of the table that each parameter is, "" for other parameters."""

    def name(path, _):
        own = "/" + "/".join(key.key for key in path)
        return next((table for table in tables if own.endswith(f"/{table}")), "")

    return jax.tree_util.tree_map_with_path(name, params, is_leaf=is_columns)


def _state_names(optimizer, state: TrainState, tables: Mapping[str, Any]) -> TrainState:
    """The same for a state; what an optimizer keeps of a parameter has the parameter's name."""
    names = _names(state.params, tables)
    nothing = jax.tree.map(lambda _: "", state, is_leaf=is_columns)
    own = optax.tree_map_params(
        optimizer,
        lambda _, name: name,
        state.opt_state,
        names,
        transform_non_params=lambda _: "",
        is_leaf=is_columns,
    )
    return nothing.replace(params=names, opt_state=own)
