"""Attention of all models: one function, and a multi-head layer with reusable keys and values.

On accelerators the function is jax.nn.dot_product_attention, on CPUs the form in cpu.py, or that in
blockwise.py for long sequences.

Letters: P queries, S keys, H heads, d width of a head, D width of the model.
"""

import functools
import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from nif_jax.models import blockwise, cpu
from nif_jax.models.cpu import over_positions

IMPLEMENTATIONS = (None, "cpu", "tiles", "xla", "cudnn")
LONG = 512 * 512
"""Queries times keys from which scores are not kept for the gradient: they are computed again."""


class KeyValue(NamedTuple):
    """Keys and values.

    Attributes:
      key: [..., S, H, d].
      value: [..., S, H, d].
    """

    key: jax.Array
    value: jax.Array


def rotate(x: jax.Array, position: jax.Array) -> jax.Array:
    """Rotary position embedding of x [..., P, H, d], d even, at position [P]."""
    half = x.shape[-1] // 2
    frequency = 10_000.0 ** (-jnp.arange(half) / half)
    angle = position[:, None, None] * frequency  # [P, 1, d / 2]
    left, right = jnp.split(x, 2, axis=-1)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return jnp.concatenate([left * cos - right * sin, left * sin + right * cos], axis=-1)


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array | None = None,
    *,
    own: KeyValue | None = None,
    scale: float | None = None,
    fast_gradient: bool = False,
    implementation: str | None = None,
) -> jax.Array:
    """softmax(scale Q K' + mask) V for each head (Vaswani et al. 2017, Eq. 1).

    A query without a visible key gets 0, with gradient 0. Where some are visible, masked keys and
    values do not change a bit of the result.

    Args:
      query: [..., P, H, d].
      key: [..., S, H, d], or [..., S, 1, d] for one key head that all query heads share.
      value: like key.
      mask: bool, broadcastable to [..., P, S], True where a query sees a key; None = everywhere.
      own: [B, P, t, H, d] further keys and values, each seen by its own query only and always;
        needs a mask. The branches of a roll-out have them.
      scale: of the scores; None = d ** -0.5.
      fast_gradient: on CPUs, the gradient of cpu.attend_fast_gradient, which rounds differently.
        Only the intent model sets it: results of the others then differ from those before there was
        one function by the rounding of fused operations only.
      implementation: "cpu", "tiles" (blockwise.py), or "xla" or "cudnn" as in
        jax.nn.dot_product_attention. None = JAX's choice; where CPU is JAX's default backend,
        "cpu", or "tiles" from LONG queries times keys on. JAX 0.10 chooses XLA; cuDNN's flash
        kernel has to be requested and takes float16 and bfloat16 only.

    Returns:
      [..., P, H, d], one output a head.

    Raises:
      ValueError: an unknown implementation, `own` without a mask, or tiles of what has `own` keys
        or one key head for several query heads.
    """
    if own is not None and mask is None:
        raise ValueError("own keys need a mask of the shared ones; pass one of True where all show")
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"implementation is {implementation!r}; choose from {IMPLEMENTATIONS}")
    if scale is None:
        scale = query.shape[-1] ** -0.5
    long = query.shape[-3] * key.shape[-3] >= LONG
    tiled = own is None and key.shape[-2] == query.shape[-2]
    if implementation is None and jax.default_backend() == "cpu":
        implementation = "tiles" if long and tiled else "cpu"
    if implementation == "tiles":
        if not tiled:
            raise ValueError("tiles need a key head for each query head and no own keys; use 'cpu'")
        return blockwise.attend(query, key, value, mask, scale)
    if implementation == "cpu":
        if own is not None:
            return cpu.attend_shared_and_own(query, (key, value), mask, own, scale)
        form = cpu.attend_fast_gradient if fast_gradient else cpu.attend
        return form(query, key, value, mask, scale)
    if own is not None:
        key, value, mask = _with_own(key, value, mask, own)
    form = functools.partial(_attend_jax, scale=scale, implementation=implementation)
    return (jax.checkpoint(form) if long else form)(query, key, value, mask)


def _with_own(key, value, mask, own: KeyValue):
    """Keys, values [B, S + P t, H, d] and mask [B, P, S + P t]: own keys as shared, masked ones.

    More work than cpu.attend_shared_and_own by P t keys, but one kernel.
    """
    batch, queries, steps = own.key.shape[:3]
    flat = (a.reshape(batch, queries * steps, *a.shape[3:]) for a in own)
    key, value = (jnp.concatenate([a, b], axis=1) for a, b in zip((key, value), flat, strict=True))
    mine = jnp.repeat(jnp.eye(queries, dtype=bool), steps, axis=1)  # [P, P t]
    mine = jnp.broadcast_to(mine, (batch, *mine.shape))
    mask = jnp.broadcast_to(mask, (batch, queries, mask.shape[-1]))
    return key, value, jnp.concatenate([mask, mine], axis=-1)


def _attend_jax(query, key, value, mask, scale, implementation):
    """jax.nn.dot_product_attention for any number of leading axes, and 0 where nothing is seen."""
    lead = query.shape[:-3]
    flat_query, key, value = (x.reshape(-1, *x.shape[-3:]) for x in (query, key, value))
    options: dict[str, Any] = {"scale": scale, "implementation": implementation}
    if mask is None:
        return jax.nn.dot_product_attention(flat_query, key, value, **options).reshape(query.shape)
    mask = jnp.broadcast_to(mask, (*lead, *mask.shape[-2:]))
    mask = mask.reshape(-1, 1, *mask.shape[-2:])  # [B, 1, P or 1, S]
    seen = mask.any(-1, keepdims=True)
    # A row that sees nothing sees everything here and is set to 0 below: what a kernel makes of a
    # row without a visible key depends on the kernel.
    found = jax.nn.dot_product_attention(flat_query, key, value, mask=mask | ~seen, **options)
    return (found * seen[:, 0, :, :, None]).reshape(query.shape)


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


def project(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """[..., E] for x [..., D] and kernel [D, E]."""
    return over_positions(lambda flat: flat @ kernel, x)


class Attention(nn.Module):
    """Multi-head attention of the intent model, whose keys and values can be used many times.

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
