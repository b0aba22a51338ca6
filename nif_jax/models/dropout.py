"""Dropout from 8 random bits an entry, a quarter of what nn.Dropout draws.

Random bits were 15 % of a train step of the base on a CPU.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.module import merge_param

LEVELS = 256


def threshold(rate: float) -> int:
    """How many of the 256 values of a byte drop an entry: rates are multiples of 1/256.

    Raises:
      ValueError: a rate outside [0, 1], or one that rounds to 0 or 1 and is neither.
    """
    dropped = round(rate * LEVELS) if 0 <= rate <= 1 else -1
    if dropped == -1 or (dropped in (0, LEVELS) and rate not in (0, 1)):
        raise ValueError(
            f"dropout rate is {rate!r}; masks have 8 bits, so choose 0, 1 or a rate between "
            f"{1 / LEVELS} and {1 - 1 / LEVELS}, which is rounded to a multiple of {1 / LEVELS}"
        )
    return dropped


def random_bytes(rng: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """uint8 `shape`, uniform and independent; from one 32-bit word for four entries.

    jax.random.bits(..., uint8) draws the bits of a word for each byte: XLA's generators make words
    of 32 bits and truncate. The words' bytes follow one another in four blocks, lowest byte first:
    a bitcast, whose last axis of 4 is slow on a CPU, takes twice as long.
    """
    size = math.prod(shape)
    words = jax.random.bits(rng, (-(-size // 4),), jnp.uint32)
    blocks = [(words >> shift).astype(jnp.uint8) for shift in (0, 8, 16, 24)]
    return jnp.concatenate(blocks)[:size].reshape(shape)


class Dropout(nn.Module):
    """nn.Dropout with masks of 8 bits; the rng is "dropout", there are no parameters.

    Srivastava et al. 2014, JMLR 15, with the scale on the entries that are kept. The expectation
    is exact: the scale is one over the probability to be kept after rounding.

    Attributes:
      rate: probability to be 0, see threshold.
      deterministic: whether x is returned as it is; None = given in the call.
    """

    rate: float
    deterministic: bool | None = None

    @nn.compact
    def __call__(self, x: jax.Array, deterministic: bool | None = None) -> jax.Array:
        """x with some entries 0 and the others scaled, any shape."""
        dropped = threshold(self.rate)
        if merge_param("deterministic", self.deterministic, deterministic) or dropped == 0:
            return x
        if dropped == LEVELS:
            return jnp.zeros_like(x)
        keep = random_bytes(self.make_rng("dropout"), x.shape) >= dropped
        return jnp.where(keep, x * (LEVELS / (LEVELS - dropped)), 0)
