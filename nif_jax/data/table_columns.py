"""Tables whose columns are spread over the devices of a mesh, and that are read as whole ones are.

Columns and not rows: a device looks up its columns of any id by itself, and what is exchanged are
the embeddings of a batch (docs/devices.md). The devices along the axis MODEL compute the same rows,
so what they read of a table has to be the same on all of them.
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from nif_jax.data.table_rows import TableRows

MODEL = "model"
"""Name of the mesh axis whose devices share tables."""


@jax.custom_vjp
def _join(part: jax.Array) -> jax.Array:
    return jax.lax.all_gather(part, MODEL, axis=part.ndim - 1, tiled=True)


def _join_forward(part):
    return _join(part), None


def _join_backward(_, cotangent):
    # Every device of MODEL computes the whole loss. The sum over devices, which is the transpose
    # of all_gather, would count it once for each.
    width = cotangent.shape[-1] // jax.lax.axis_size(MODEL)
    start = jax.lax.axis_index(MODEL) * width
    return (jax.lax.dynamic_slice_in_dim(cotangent, start, width, axis=-1),)


_join.defvjp(_join_forward, _join_backward)


class Columns(flax.struct.PyTreeNode):
    """The columns of an array [..., D] that this device holds; exists within mapped functions.

    Attributes:
      values: [..., D / M] for M devices along MODEL; TableRows for some rows of a large table.
    """

    values: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole array."""
        return (*self.values.shape[:-1], self.values.shape[-1] * jax.lax.axis_size(MODEL))

    @property
    def dtype(self) -> jnp.dtype:
        """Of the array."""
        return self.values.dtype

    def __len__(self) -> int:
        """N."""
        return len(self.values)

    def __getitem__(self, rows: Any) -> Any:
        """Whole rows [..., D] for ids [...]; Columns again for a slice."""
        part = Columns(self.values[rows])
        return part if isinstance(rows, slice) else part.whole()

    def whole(self) -> jax.Array:
        """[..., D], the columns of all devices."""
        assert not isinstance(self.values, TableRows)
        return _join(self.values)

    def __mul__(self, factor: jax.Array) -> "Columns":
        """Every row times a number of factor [..., 1]."""
        return Columns(self.values * factor)

    def rows(self) -> jax.Array:
        """[R, D] this device's rows of a table [N, D]: device k has k R to (k + 1) R - 1.

        R is N / M rounded up. Rows past the end are 0. Each device sends and receives a share 1 / M
        of the table; none has the whole.
        """
        devices = jax.lax.axis_size(MODEL)
        padded = jnp.pad(self.values, [(0, -len(self) % devices), (0, 0)])
        return jax.lax.all_to_all(padded, MODEL, split_axis=0, concat_axis=1, tiled=True)


def is_columns(x: Any) -> bool:
    """Whether x is Columns, for functions of trees in which Columns are leaves."""
    return isinstance(x, Columns)


def whole(x: Any) -> jax.Array:
    """An array as it is, or the whole of Columns."""
    return x.whole() if is_columns(x) else x


def squared_norms(x: Any) -> jax.Array:
    """[..., 1] sum of squares of each row of an array or of Columns."""
    if is_columns(x):
        return jax.lax.psum(squared_norms(x.values), MODEL)
    return (x * x).sum(-1, keepdims=True)


def agree(tree: Any) -> Any:
    """Gives all devices along MODEL the same bits of what each of them has computed.

    Without it, kernels that add up in a random order would let copies of a parameter drift apart.
    Columns differ by device and stay. Outside of a mesh nothing changes.
    """
    if not _in_mesh():
        return tree

    def one(x):
        return x if is_columns(x) else jax.lax.pmean(x, MODEL)

    return jax.tree.map(one, tree, is_leaf=is_columns)


def _in_mesh() -> bool:
    try:
        return jax.lax.axis_size(MODEL) > 1
    except NameError:  # no such axis is mapped
        return False
