"""InfoNCE over item vectors against sampled negatives, Eq. 1; info_nce.py has the exact form."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from nif_jax.losses.info_nce import product


class Candidates(NamedTuple):
    """Negatives shared by all queries.

    Attributes:
      item: [C] int.
      log_expected: [C] log of how often the sampler is expected to draw the item (logQ).
      mask: [C] bool, True = real.
    """

    item: jax.Array
    log_expected: jax.Array
    mask: jax.Array


def sampled(
    queries: jax.Array,
    positives: jax.Array,
    targets: jax.Array,
    negatives: jax.Array,
    candidates: Candidates,
    temperature: float,
    dtype: DTypeLike = jnp.float32,
) -> jax.Array:
    """InfoNCE against drawn candidates, each logit corrected by -logQ.

    The positive is always there, so it is not corrected, and its equals among the candidates are
    masked: the sum under the logarithm is then an unbiased estimate of the exact one.

    Args:
      queries: [Q, D] unit vectors.
      positives: [Q, D] vectors of the targets.
      targets: [Q] int.
      negatives: [C, D] vectors of the candidates.
      candidates: the negatives.
      temperature: tau.
      dtype: that the factors of all logits are rounded to; logits are float32.

    Returns:
      [Q] losses.
    """
    queries, positives = (x.astype(dtype).astype(jnp.float32) for x in (queries, positives))
    positive = (queries * positives).sum(-1) / temperature
    logits = product(queries, negatives.T, dtype) / temperature - candidates.log_expected
    keep = candidates.mask & (candidates.item != targets[:, None])
    logits = jnp.where(keep, logits, -jnp.inf)
    return jax.nn.logsumexp(jnp.concatenate([positive[:, None], logits], axis=1), axis=1) - positive


def log_expected_count(
    frequency: jax.Array, items: jax.Array, in_batch: jax.Array | int, uniform: int
) -> jax.Array:
    """logQ: expected draws of an item among `in_batch` targets and `uniform` uniform samples.

    Args:
      frequency: [N + 1] share of train targets, 0 for padding.
      items: [...] int.
      in_batch: number of in-batch candidates of all devices.
      uniform: number of uniform candidates of all devices.
    """
    expected = in_batch * frequency[items] + uniform / (frequency.shape[0] - 1)
    return jnp.log(jnp.maximum(expected, 1e-9))


def draw_candidates(
    rng: jax.Array,
    targets: jax.Array,
    mask: jax.Array,
    frequency: jax.Array,
    *,
    in_batch: bool,
    uniform: int,
    axis_name: str | None,
) -> Candidates:
    """Negatives of a step, gathered over devices.

    Args:
      rng: differs between devices.
      targets: [Q] int, this device's.
      mask: [Q] bool.
      frequency: see log_expected_count.
      in_batch: whether all devices' targets are candidates.
      uniform: uniform samples a device.
      axis_name: the device axis; None on one device outside pmap.

    Returns:
      The candidates of all devices.
    """
    drawn = jax.random.randint(rng, (uniform,), 1, len(frequency))
    items, real = drawn, jnp.ones(uniform, bool)
    if in_batch:
        items, real = jnp.concatenate([targets, drawn]), jnp.concatenate([mask, real])
    batch_count = mask.sum() if in_batch else 0
    uniform_count = uniform
    if axis_name is not None:
        items = jax.lax.all_gather(items, axis_name, tiled=True)
        real = jax.lax.all_gather(real, axis_name, tiled=True)
        batch_count = jax.lax.psum(batch_count, axis_name)
        uniform_count = uniform * jax.lax.axis_size(axis_name)
    # Item ids travel between devices; each looks up their vectors in its own copy of the table.
    expected = log_expected_count(frequency, items, batch_count, uniform_count)
    return Candidates(items, expected, real)


def item_frequency(item: np.ndarray, train: np.ndarray, num_items: int) -> np.ndarray:
    """[N + 1] float32 share of train events, 0 for padding."""
    counts = np.bincount(item[train], minlength=num_items + 1).astype(np.float64)
    return (counts / max(counts.sum(), 1)).astype(np.float32)
