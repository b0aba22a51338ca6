"""What shapes the flow besides prediction: diversity of heads and velocity of evolution.

The paper gives both in words; the formulas are ours (method.md, 1.2).
"""

import jax
import jax.numpy as jnp

DIVERSITY = ("cosine", "tangent")
VELOCITY = ("geodesic", "chord")


def _unit(x: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.maximum((x * x).sum(-1, keepdims=True), 1e-12))


def diversity(heads: jax.Array, form: str) -> jax.Array:
    """Mean over pairs a != b of cos(f^a, f^b)^2: heads repel each other into distinct subspaces.

    Args:
      heads: [..., H, d].
      form: "cosine", or "tangent": cosines between the heads' components orthogonal to their mean
        direction (v2's "tangent space decomposition", our reading). It says nothing of two heads,
        whose components are always opposite, and is 0 for heads that coincide.

    Returns:
      [...] in 0..1; 0 with one head.
    """
    if form not in DIVERSITY:
        raise ValueError(f"diversity has no form {form!r}; choose from {DIVERSITY}")
    count = heads.shape[-2]
    if count == 1:
        return jnp.zeros(heads.shape[:-2])
    heads = _unit(heads)
    if form == "tangent":
        mean = _unit(heads.mean(-2, keepdims=True))
        heads = _unit(heads - (heads * mean).sum(-1, keepdims=True) * mean)
    cosine = jnp.einsum("...ad,...bd->...ab", heads, heads)
    off_diagonal = 1.0 - jnp.eye(count)
    return (cosine**2 * off_diagonal).sum((-2, -1)) / (count * (count - 1))


def score_diversity(heads: jax.Array, items: jax.Array) -> jax.Array:
    """Mean over pairs a != b of corr(s^a, s^b)^2, s^a_i = <f^a, e^a_i>: heads score items
    differently.

    A logit is the sum of the heads' scores. The loss depends on these scores only: a rotation of
    one head's part in flow and items, which changes no logit, does not change it. Its cost is
    (N + P) D^2 for P positions, since cov(s^a, s^b) = f^a' C^ab f^b with the covariance C of items.

    Args:
      heads: [..., H, d].
      items: [N, H d] vectors of the items over which scores are correlated, two or more.

    Returns:
      [...] in 0..1; 0 with one head, and for a head whose scores are all equal.
    """
    count, width = heads.shape[-2:]
    if count == 1:
        return jnp.zeros(heads.shape[:-2])
    heads = _unit(heads)
    centred = items - items.mean(0)
    covariance = (centred.T @ centred / len(items)).reshape(count, width, count, width)
    half = jnp.einsum("...ai,aibj->...abj", heads, covariance)
    product = jnp.einsum("...abj,...bj->...ab", half, heads)
    variance = jnp.diagonal(product, axis1=-2, axis2=-1)
    scale = variance[..., :, None] * variance[..., None, :]
    off_diagonal = 1.0 - jnp.eye(count)
    squares = product**2 / jnp.maximum(scale, 1e-12) * off_diagonal
    return squares.sum((-2, -1)) / (count * (count - 1))


def squared_angle(cosine: jax.Array) -> jax.Array:
    """arccos(x)^2 with a finite gradient everywhere.

    Near x = 1, where the derivative of arccos is infinite, the series in u = 1 - x is used:
    arccos(x)^2 = 2u + u^2/3 + 4u^3/45 + O(u^4). Near x = -1 the derivative is truly infinite, and x
    is clipped.
    """
    u = 1.0 - cosine
    series = 2 * u + u**2 / 3 + 4 * u**3 / 45
    far = jnp.arccos(jnp.clip(jnp.where(u > 0.02, cosine, 0.0), -1 + 1e-6, 1.0)) ** 2
    return jnp.where(u > 0.02, far, series)


def velocity(flow: jax.Array, gap_seconds: jax.Array, form: str, half_life: float) -> jax.Array:
    """Squared distance between neighbouring flow states: an interest evolves, it does not jump.

    Args:
      flow: [..., S, D].
      gap_seconds: [..., S - 1] time between the two states' events; long gaps may jump.
      form: "geodesic", arccos<f_k, f_k+1>^2 on the unit sphere, or "chord", |f_k+1 - f_k|^2.
      half_life: seconds after which a step counts half (weight 2^(-gap / half_life), where
        method.md has exp(-gap / half_life): so it is a half-life).

    Returns:
      [..., S - 1].
    """
    if form not in VELOCITY:
        raise ValueError(f"velocity has no form {form!r}; choose from {VELOCITY}")
    flow = _unit(flow)
    cosine = (flow[..., 1:, :] * flow[..., :-1, :]).sum(-1)
    distance = squared_angle(cosine) if form == "geodesic" else 2.0 - 2.0 * cosine
    return distance * jnp.exp2(-gap_seconds / half_life)
