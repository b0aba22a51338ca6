"""Some rows of a large table, which are read as the table itself is."""

from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp


class Lookup(NamedTuple):
    """What a pass reads of a table.

    Attributes:
      ids: [...] int32 row numbers, repeated ones included.
      real: [...] bool, False for what only padding reads.
    """

    ids: jax.Array
    real: jax.Array


class TableRows(flax.struct.PyTreeNode):
    """Rows of a table [N, ...]: `rows[ids]` is `table[ids]` for ids that are among them.

    Any other id reads as NaN, so that a loss that reads a row which is not there is not finite.

    Attributes:
      ids: [U] int32 row numbers, sorted. Of equal ones the first has the row; the values of the
        others are not read.
      values: [U, ...].
      size: N.
    """

    ids: jax.Array
    values: jax.Array
    size: int = flax.struct.field(pytree_node=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the table."""
        return (self.size, *self.values.shape[1:])

    @property
    def dtype(self) -> jnp.dtype:
        """Of the table."""
        return self.values.dtype

    def __len__(self) -> int:
        """N."""
        return self.size

    def __getitem__(self, ids: jax.Array) -> jax.Array:
        """[..., *] for ids [...]."""
        place = jnp.searchsorted(self.ids, ids)
        # Past the end reads as the last id, which differs from what is looked for.
        place = jnp.where(self.ids[place] == ids, place, len(self.ids))
        return self.values.at[place].get(mode="fill", fill_value=jnp.nan)
