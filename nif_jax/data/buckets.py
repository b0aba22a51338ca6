"""Logarithmic buckets of time gaps and of history lengths.

The functions run on NumPy arrays on the host and on JAX arrays inside jit.
"""

from typing import Any

Array = Any  # numpy.ndarray or jax.Array

NUM_GAPS = 33
"""Buckets of a time gap: 0 is unknown, k + 1 holds gaps of 2^(k-1) to 2^k - 1 seconds."""


def log2_bucket(values: Array) -> Array:
    """1 + floor(log2(v)) for v >= 1, and 0 for v <= 0, exact alike under NumPy and JAX."""
    xp = values.__array_namespace__()
    values = xp.maximum(values, 0)
    # Clearing the bit after the leading one keeps float32 from rounding up to the next power.
    values = values & ~(values >> 1)
    return xp.frexp(values.astype(xp.float32))[1].astype(xp.int32)


def gap_bucket(seconds: Array, known: Array | bool = True) -> Array:
    """[...] int32 in 1..NUM_GAPS - 1 for gaps of 0 seconds or more, and 0 where not `known`."""
    return known * (1 + log2_bucket(seconds))
