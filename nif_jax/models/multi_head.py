"""Multi-head attention of the intent model, with keys and values that can be used many times.

Letters: P queries, S keys, H heads, d width of a head, D width of the model.
"""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from nif_jax.models.attention import KeyValue, attend, rotate
from nif_jax.models.cpu import over_positions


class Kernel(nn.Module):
    """The kernel of an nn.DenseGeneral, same name and first values, for products of another order.

    Attributes:
      shape: of the kernel.
      inputs: how many of its axes are inputs.
      dtype: that the float32 parameter is rounded to.
    """

    shape: tuple[int, ...]
    inputs: int = 1
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self) -> jax.Array:
        flat = (math.prod(self.shape[: self.inputs]), math.prod(self.shape[self.inputs :]))

        def first(rng, shape):
            return nn.initializers.lecun_normal()(rng, flat).reshape(shape)

        return self.param("kernel", first, self.shape).astype(self.dtype)


def project(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """[..., E] of the kernel's dtype, for x [..., D] and kernel [D, E]."""
    return over_positions(lambda flat: flat.astype(kernel.dtype) @ kernel, x)


class Attention(nn.Module):
    """Multi-head attention of the intent model, whose keys and values can be used many times.

    Attributes:
      dim: D.
      heads: H.
      head_dim: d.
      dtype: of activations and products.
    """

    dim: int
    heads: int
    head_dim: int
    dtype: DTypeLike = jnp.float32

    def setup(self):
        heads = (self.heads, self.head_dim)
        kernel = functools.partial(Kernel, dtype=self.dtype)
        self.query, self.key, self.value = (kernel((self.dim, *heads)) for _ in range(3))
        self.out = kernel((*heads, self.dim), inputs=2)

    def _heads(self, x, kernel, position=None) -> jax.Array:
        """[..., P, H, d] for a kernel [D, H, d]; rotary if positions [P] are given."""
        x = project(x, kernel.reshape(self.dim, -1)).reshape(*x.shape[:-1], *kernel.shape[1:])
        return x if position is None else rotate(x, position)

    def keys_values(self, x: jax.Array, position: jax.Array | None = None) -> KeyValue:
        """Keys and values of x [..., S, D]; rotary if positions [S] are given."""
        return KeyValue(self._heads(x, self.key(), position), self._heads(x, self.value()))

    def __call__(
        self, x: jax.Array, memory: KeyValue, mask: jax.Array, position: jax.Array | None = None
    ) -> jax.Array:
        """[..., P, D].

        Args:
          x: [..., P, D] inputs of the queries.
          memory: keys and values.
          mask: [..., P, S] or [..., 1, S], see attend.
          position: [P], if the keys have positions.
        """
        query = self._heads(x, self.query(), position)
        found = attend(query, *memory, mask, fast_gradient=True)
        return project(found.reshape(*x.shape[:-1], -1), self.out().reshape(-1, self.dim))

    def prefers_states(self, queries: int) -> bool:
        """Whether `attend_states` is less work than keys_values and a call for P = queries."""
        return queries * (self.dim - self.head_dim) < self.dim * self.head_dim

    def attend_states(self, x: jax.Array, states: jax.Array, mask: jax.Array) -> jax.Array:
        """The same as a call with keys_values(states), without keys and values.

        Without positions q W_q (s W_k)' = (q W_q W_k') s', and likewise for values: the states are
        the keys and values of one head that all query heads share.

        Args:
          x: [B, P, D] inputs of the queries, few of them.
          states: [B, S, D].
          mask: [B, P, S] or [B, 1, S].
        """
        into = jnp.einsum("dhe,fhe->dhf", self.query(), self.key()) * self.head_dim**-0.5
        out = jnp.einsum("dhe,hef->hdf", self.value(), self.out())
        query = project(x, into.reshape(self.dim, -1))
        query = query.reshape(*x.shape[:-1], self.heads, self.dim)  # [B, P, H, D]
        shared = states[:, :, None]  # [B, S, 1, D]
        found = attend(query, shared, shared, mask, scale=1.0)
        return project(found.reshape(*x.shape[:-1], -1), out.reshape(-1, self.dim))
