"""Weights and forms of the flow generator's loss, and its InfoNCE (method.md, 1.2)."""

import dataclasses

from nif_jax.losses import contrastive
from nif_jax.losses.ctr import weighted_sum


@dataclasses.dataclass(frozen=True)
class FlowLoss:
    """Weights and forms of the generator's loss (method.md, 1.2).

    Attributes:
      temperature: tau of InfoNCE.
      negatives: "exact" (the catalogue), "in_batch" (targets of all devices, plus uniform samples,
        with logQ correction) or "uniform" (samples alone).
      uniform: uniform samples of a device and step.
      targets: "all" entries or "positive" ones (label 1) are to be predicted.
      alpha: weight of diversity.
      diversity: its form, "cosine" or "tangent".
      beta: weight of velocity.
      velocity: its form, "geodesic" or "chord".
      half_life: seconds after which velocity counts half.
      rollout_steps: r, free-running steps that are trained as well, from every position.
      label_head: weight of the cross-entropy of labels, see FlowDecoder.label_logits; 0 = off.
      label_gradient: what that cross-entropy trains: "head", the label head alone, or "generator",
        every parameter that it depends on.
    """

    temperature: float
    negatives: str
    uniform: int
    targets: str
    alpha: float
    diversity: str
    beta: float
    velocity: str
    half_life: float
    rollout_steps: int
    label_head: float
    label_gradient: str


def info_nce(loss: FlowLoss, queries, table, targets, mask, frequency, rng, axis_name):
    """Sum over what is masked in of Eq. 1 for queries [..., D], under the configured negatives."""
    if loss.negatives == "exact":
        return contrastive.exact(queries, table, targets, mask, loss.temperature)
    flat = targets.reshape(-1)
    candidates = contrastive.draw_candidates(
        rng,
        table,
        flat,
        mask.reshape(-1) > 0,
        frequency,
        in_batch=loss.negatives == "in_batch",
        uniform=loss.uniform,
        axis_name=axis_name,
    )
    losses = contrastive.sampled(
        queries.reshape(-1, queries.shape[-1]),
        table[flat],
        flat,
        candidates,
        loss.temperature,
    )
    return weighted_sum(losses.reshape(targets.shape), mask)[0]
