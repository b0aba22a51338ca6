"""Step 4: how Temporal Sequential Pairwise (TSP) pairs enter a ranker's loss."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from nif_jax.data.windows import Impressions
from nif_jax.losses.ctr import weighted_sum
from nif_jax.losses.pairwise import not_yet_seen, temporal_sequential_pairwise


@dataclasses.dataclass(frozen=True)
class PairwiseLoss:
    """How TSP enters the loss.

    Attributes:
      weight: of a pair's loss beside a row's cross-entropy; 0 = off.
      margin: m.
      score: "calibration" (the head c) or "logit" (the final logit, c included).
      moveline: "own", each member with the moveline before it, or "positive", both with the
        positive's (calibration only: a logit would cost a second pass of the whole ranker).
    """

    weight: float
    margin: float
    score: str
    moveline: str


def configured(config: ConfigDict, use: bool) -> tuple[PairwiseLoss, dict[str, int]]:
    """TSP of a variant with this config, off unless `use`; and how far apart the members of its
    pairs are, see ImpressionPlan."""
    if not use:
        return PairwiseLoss(0.0, 0.0, "calibration", "own"), {}
    settings = dict(config.tsp)
    distances = {k: settings.pop(k) for k in ("min_events", "min_seconds", "max_events")}
    return PairwiseLoss(**settings), distances


def pairwise_loss(
    tsp: PairwiseLoss, batch: Impressions, logits: jax.Array, named: Mapping[str, Any]
) -> tuple[jax.Array, jax.Array]:
    """Sum of TSP losses and number of pairs of a batch whose pairs stand side by side."""
    scores = logits if tsp.score == "logit" else named["calibration"]
    positive, negative = scores[0::2], scores[1::2]
    weight = batch.pair
    if tsp.moveline == "positive":
        negative = named["shared"]
        weight = weight * not_yet_seen(batch.item[1::2], batch.history.item[0::2])
    return weighted_sum(temporal_sequential_pairwise(positive, negative, tsp.margin), weight)
