"""Weights and forms of the flow generator's loss, and its InfoNCE (method.md, 1.2)."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from nif_jax.data.table_columns import MODEL, is_columns, whole
from nif_jax.losses import contrastive
from nif_jax.losses.contrastive import Candidates
from nif_jax.losses.ctr import weighted_sum
from nif_jax.losses.flow import diversity, score_diversity, velocity
from nif_jax.losses.info_nce import exact, exact_of_share
from nif_jax.models.flow import FlowDecoder, unit
from nif_jax.stages.sequences import Sequences, targets_ahead


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
      diversity: its form, "scores" (of the heads' scores of items), or of their coordinates
        "cosine" or "tangent".
      diversity_items: items that "scores" are correlated over: the catalogue, or as many uniform
        samples of a step where it is larger.
      beta: weight of velocity.
      velocity: its form, "geodesic" or "chord".
      half_life: seconds after which velocity counts half.
      velocity_starts: positions of a row, drawn for a step, from which the flow is rolled out to
        measure the velocity of its imagined states too; 0 = none.
      rollout_steps: r, free-running steps that are trained as well, from every position.
      label_head: weight of the cross-entropy of labels, see FlowDecoder.label_logits; 0 = off.
      label_gradient: what that cross-entropy trains: "head", the label head alone, or "generator",
        every parameter that it depends on.
      horizon: T of the roll-out that rankers read.
      dtype: of the factors of InfoNCE's products, see info_nce.exact.
    """

    temperature: float
    negatives: str
    uniform: int
    targets: str
    alpha: float
    diversity: str
    diversity_items: int
    beta: float
    velocity: str
    half_life: float
    velocity_starts: int
    rollout_steps: int
    label_head: float
    label_gradient: str
    horizon: int = 1
    dtype: DTypeLike = jnp.float32


class Sample(NamedTuple):
    """What a pass reads of the catalogue.

    Attributes:
      candidates: negatives of targets 1, 2, ... places ahead; none where the catalogue is compared.
      compared: [C] items that diversity of "scores" compares, None = all.
      shown: [U] int32 sorted, the items that the pass embeds, None = all.
    """

    candidates: Sequence[Candidates]
    compared: jax.Array | None
    shown: jax.Array | None


def draw(
    loss: FlowLoss,
    batch: Sequences,
    frequency: jax.Array,
    rng: jax.Array,
    axis_name: str | None,
) -> Sample:
    """Draws negatives, and lists the items of a pass, so that no other item is embedded.

    With "exact" negatives, or where the pass has as many items as the catalogue, all are embedded.

    Args:
      loss: the settings.
      batch: the windows.
      frequency: [N + 1], see contrastive.log_expected_count.
      rng: of the pass; differs between devices.
      axis_name: see contrastive.draw_candidates.
    """
    _, negatives, compared = jax.random.split(rng, 3)
    number = len(frequency) - 1
    compares = bool(loss.alpha) and loss.diversity == "scores"
    items = None
    if compares and loss.diversity_items < number:
        items = jax.random.randint(compared, (loss.diversity_items,), 1, number + 1)
    if loss.negatives == "exact":
        return Sample((), items, None)
    candidates = [
        contrastive.draw_candidates(
            negatives if ahead == 1 else jax.random.fold_in(negatives, ahead - 1),
            batch.window.item[:, ahead:].reshape(-1),
            targets_ahead(batch, ahead).reshape(-1),
            frequency,
            in_batch=loss.negatives == "in_batch",
            uniform=loss.uniform,
            axis_name=axis_name,
        )
        for ahead in range(1, loss.rollout_steps + 2)
    ]
    parts = [batch.window.item, *(drawn.item for drawn in candidates)]
    if loss.label_head:
        parts.append(batch.label_queries.item)
    if items is not None:
        parts.append(items)
    elif compares:
        return Sample(candidates, None, None)
    shown = jnp.concatenate([part.reshape(-1) for part in parts])
    return Sample(candidates, items, jnp.sort(shown) if len(shown) <= number else None)


def info_nce(
    loss: FlowLoss, queries, table, targets, mask, candidates: Candidates | None
) -> jax.Array:
    """Sum over what is masked in of Eq. 1 for queries [..., D], against the candidates or, without
    any, the whole table [N + 1, D]."""
    if candidates is None:
        settings = (targets, mask, loss.temperature)
        if is_columns(table):  # each device along MODEL compares its share of the catalogue
            items, number = table[1:].rows(), len(table) - 1
            return exact_of_share(queries, items, number, *settings, MODEL, dtype=loss.dtype)
        return exact(queries, table, *settings, dtype=loss.dtype)
    flat = targets.reshape(-1)
    losses = contrastive.sampled(
        queries.reshape(-1, queries.shape[-1]),
        table[flat],
        flat,
        table[candidates.item],
        candidates,
        loss.temperature,
        loss.dtype,
    )
    return weighted_sum(losses.reshape(targets.shape), mask)[0]


def head_diversity(loss: FlowLoss, heads: jax.Array, table, compared) -> jax.Array:
    """[B, S] diversity of heads [B, S, H, d] in the configured form.

    Args:
      loss: the settings.
      heads: flow states by head.
      table: [N + 1, D] item vectors; row 0 is padding.
      compared: [C] items that "scores" are correlated over; None = all.
    """
    if loss.diversity != "scores":
        return diversity(heads, loss.diversity)
    return score_diversity(heads, whole(table[1:]) if compared is None else table[compared])


def rolled_velocity(
    loss: FlowLoss, bound: FlowDecoder, batch: Any, heads, memories, mask, train: bool, rng
) -> tuple[jax.Array, jax.Array]:
    """Velocity of the states f_1..f_T that rankers read, from positions of a step.

    Imagined events have no time, so no gap weighs them. A start counts once: its T - 1 steps are
    averaged, so that it weighs as much as one teacher-forced step does.

    Args:
      loss: the settings.
      bound: the model, bound to parameters.
      batch: Sequences of S entries.
      heads: [B, S, H, d] and memories: of the teacher-forced pass.
      mask: [B, S - 1] where the teacher-forced velocity counts.
      train: whether dropout is on.
      rng: of the positions, which are the same in every row.

    Returns:
      The sum over starts where the mask is 1, and their number.
    """
    count = min(loss.velocity_starts, mask.shape[1])
    start = jnp.sort(jax.random.permutation(rng, mask.shape[1])[:count])
    rolled = bound.continue_from(
        heads[:, start], memories, batch.window.mask, loss.horizon - 1, train, batch.segment, start
    )
    flow = unit(rolled.reshape(*rolled.shape[:3], -1))  # [B, P, T, D]
    speed = velocity(flow, jnp.zeros(loss.horizon - 1), loss.velocity, loss.half_life).mean(-1)
    return weighted_sum(speed, mask[:, start])
