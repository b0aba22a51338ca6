"""Multi-head attention of the intent model, in forms that are fast on CPUs and accelerators alike.

All projections are one matrix product over all tokens: XLA on CPU contracts several axes at once,
as the gradient of a [B, S, D] x [D, H, d] product does, by loops that take twice as long.
Letters: P queries, S memory entries, H heads, d width of a head, D width.
"""

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from nif_jax.models.transformer import rotate


class KeyValue(NamedTuple):
    """What queries attend to.

    Attributes:
      key: [..., H, S, d].
      value: [..., H, S, d].
    """

    key: jax.Array
    value: jax.Array


def project(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """[..., E] for x [..., D] and kernel [D, E]."""
    return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], kernel.shape[-1])


def masked_softmax(scores: jax.Array, mask: jax.Array) -> jax.Array:
    """Softmax over the last axis of what the mask shows; 0 where it shows nothing."""
    # A finite floor keeps the gradient of rows without anything to see finite.
    return nn.softmax(jnp.where(mask, scores, -1e9)) * mask.any(-1, keepdims=True)


@jax.custom_vjp
def attend(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array) -> jax.Array:
    """[..., P, d] for queries [..., P, d], keys and values [..., S, d], mask [..., 1 or P, S].

    Its gradient is written out, because the one that JAX derives divides and broadcasts whole
    [P, S] arrays: two thirds of the time for 150 tokens on a CPU (benchmarks/attention.py).
    """
    return _attend(query, key, value, mask)[0]


def _attend(query, key, value, mask):
    scores = jnp.where(mask, jnp.einsum("...pd,...sd->...ps", query, key), -1e9)
    odds = jnp.exp(scores - scores.max(-1, keepdims=True))
    # Normalised after the product with values: d numbers a query instead of S.
    norm = jnp.where(mask.any(-1, keepdims=True), 1 / odds.sum(-1, keepdims=True), 0.0)
    found = jnp.einsum("...ps,...sd->...pd", odds, value) * norm
    return found, (query, key, value, odds, norm, found)


def _attend_backward(kept, gradient):
    query, key, value, odds, norm, found = kept
    gradient = gradient * norm
    # d softmax: w (g - sum w g), where sum w g = <gradient, found>.
    mean = (gradient * found).sum(-1, keepdims=True)
    d_scores = odds * (jnp.einsum("...pd,...sd->...ps", gradient, value) - mean)
    # Transposed first: contracting an inner axis is slow on a CPU.
    d_value = jnp.einsum("...sp,...pd->...sd", jnp.swapaxes(odds, -1, -2), gradient)
    d_key = jnp.einsum("...sp,...pd->...sd", jnp.swapaxes(d_scores, -1, -2), query)
    return jnp.einsum("...ps,...sd->...pd", d_scores, key), d_key, d_value, None


attend.defvjp(_attend, _attend_backward)


class Kernel(nn.Module):
    """The kernel of an nn.DenseGeneral, same name and first values, for products of another order.

    Attributes:
      shape: of the kernel.
      inputs: how many of its axes are inputs.
    """

    shape: tuple[int, ...]
    inputs: int = 1

    @nn.compact
    def __call__(self) -> jax.Array:
        flat = (math.prod(self.shape[: self.inputs]), math.prod(self.shape[self.inputs :]))

        def first(rng, shape):
            return nn.initializers.lecun_normal()(rng, flat).reshape(shape)

        return self.param("kernel", first, self.shape)


class Attention(nn.Module):
    """Multi-head attention whose memory can be made once and asked many times.

    Attributes:
      dim: D.
      heads: H.
      head_dim: d.
    """

    dim: int
    heads: int
    head_dim: int

    def setup(self):
        heads = (self.heads, self.head_dim)
        self.query, self.key, self.value = (Kernel((self.dim, *heads)) for _ in range(3))
        self.out = Kernel((*heads, self.dim), inputs=2)

    def _heads(self, x, kernel, position=None) -> jax.Array:
        """[..., H, P, d] for a kernel [D, H, d]; rotary if positions [P] are given."""
        x = project(x, kernel.reshape(self.dim, -1)).reshape(*x.shape[:-1], *kernel.shape[1:])
        if position is not None:
            x = rotate(x, position)
        return jnp.swapaxes(x, -2, -3)

    def memory(self, x: jax.Array, position: jax.Array | None = None) -> KeyValue:
        """Keys and values of x [..., S, D]; rotary if positions [S] are given."""
        return KeyValue(self._heads(x, self.key(), position), self._heads(x, self.value()))

    def ask(
        self, x: jax.Array, memory: KeyValue, mask: jax.Array, position: jax.Array | None = None
    ) -> jax.Array:
        """[..., P, D].

        Args:
          x: [..., P, D] queries.
          memory: what they ask.
          mask: [..., P, S] or [..., 1, S], True where a query may look; one that may look nowhere
            gets 0.
          position: [P], if the memory has positions.
        """
        query = self._heads(x, self.query(), position) * self.head_dim**-0.5
        found = attend(query, memory.key, memory.value, mask[..., None, :, :])
        found = jnp.swapaxes(found, -2, -3).reshape(*x.shape[:-1], -1)
        return project(found, self.out().reshape(-1, self.dim))

    def absorbs(self, queries: int) -> bool:
        """Whether `ask_states` is less work for this many queries a row than memory and ask."""
        return queries * (self.dim - self.head_dim) < self.dim * self.head_dim

    def ask_states(self, x: jax.Array, states: jax.Array, mask: jax.Array) -> jax.Array:
        """The same as ask(x, memory(states), mask), without keys and values.

        Without positions q W_q (s W_k)' = (q W_q W_k') s', and likewise for values: a query of a
        head asks the states themselves, and all heads and queries of a row are one product.

        Args:
          x: [B, P, D] queries, few of them.
          states: [B, S, D].
          mask: [B, P, S] or [B, 1, S].
        """
        into = jnp.einsum("dhe,fhe->dhf", self.query(), self.key()) * self.head_dim**-0.5
        out = jnp.einsum("dhe,hef->hdf", self.value(), self.out())
        batch, queries, _ = x.shape
        asked = project(x, into.reshape(self.dim, -1)).reshape(batch, -1, self.dim)  # [B, P*H, D]
        scores = jnp.einsum("bqd,bsd->bqs", asked, states)
        scores = scores.reshape(batch, queries, self.heads, -1)
        weights = masked_softmax(scores, mask[:, :, None]).reshape(batch, queries * self.heads, -1)
        found = jnp.einsum("bqs,bsd->bqd", weights, states).reshape(batch, queries, -1)
        return project(found, out.reshape(-1, self.dim))
