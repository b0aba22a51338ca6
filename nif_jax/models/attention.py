"""Attention of all models: one function.

On accelerators the function is jax.nn.dot_product_attention, on NVIDIA GPUs with cuDNN's kernel
where `cudnn_suits`; on CPUs it is the form in cpu.py, or that in blockwise.py for long sequences.
Softmax is float32 in all of them.

Letters: P queries, S keys, H heads, d width of a head.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import backend

from nif_jax.models import blockwise, cpu

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
    turned = jnp.concatenate([left * cos - right * sin, left * sin + right * cos], axis=-1)
    return turned.astype(x.dtype)  # angles are float32


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
        jax.nn.dot_product_attention. None = where CPU is JAX's default backend, "cpu", or "tiles"
        from LONG queries times keys on; elsewhere "cudnn" if `cudnn_suits`, and otherwise "xla".
        The two forms for CPUs, which have no arithmetic of fewer bits, compute in float32.

    Returns:
      [..., P, H, d], one output a head, of the query's dtype.

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
    sizes = query.shape[-3], key.shape[-3]
    # A number of candidates is symbolic in a program that is exported; calls of it have few.
    long = all(isinstance(size, int) for size in sizes) and math.prod(sizes) >= LONG
    tiled = own is None and key.shape[-2] == query.shape[-2]
    if implementation is None:
        if jax.default_backend() == "cpu":
            implementation = "tiles" if long and tiled else "cpu"
        else:
            implementation = "cudnn" if own is None and cudnn_suits(query, key) else "xla"
    if implementation in ("cpu", "tiles") and query.dtype != jnp.float32:
        wide = functools.partial(jax.tree.map, lambda x: x.astype(jnp.float32))
        form = functools.partial(attend, scale=scale, fast_gradient=fast_gradient)
        arrays = (wide(query), wide(key), wide(value))
        found = form(*arrays, mask, own=wide(own), implementation=implementation)
        return found.astype(query.dtype)
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
    keeps_scores = long and implementation != "cudnn"
    return (jax.checkpoint(form) if keeps_scores else form)(query, key, value, mask)


def cudnn_suits(query: jax.Array, key: jax.Array) -> bool:
    """Whether cuDNN's flash attention takes these shapes on this device, and has no small ones.

    It needs an NVIDIA GPU of compute capability 8.0 (Ampere) or later, float16 or bfloat16, heads
    of at most 128 numbers, a multiple of 8, and, with the gradient of a masked form, even lengths.
    Its tiles are 64 or more queries and keys: shorter sequences would be padding for the most part.

    Args:
      query: [..., P, H, d].
      key: [..., S, H, d], or with fewer heads.
    """
    queries, _, width = query.shape[-3:]
    keys = key.shape[-3]
    return (
        query.dtype in (jnp.float16, jnp.bfloat16)
        and width <= 128
        and width % 8 == 0
        and min(queries, keys) >= 64
        and queries % 2 == keys % 2 == 0
        and _compute_capability() >= (8, 0)
    )


def _compute_capability() -> tuple[int, ...]:
    """(major, minor) of the default device if it is an NVIDIA GPU, else ()."""
    if "cuda" not in backend.get_backend().platform_version:
        return ()
    return tuple(int(x) for x in jax.devices()[0].compute_capability.split("."))


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
