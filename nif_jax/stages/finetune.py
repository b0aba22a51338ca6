"""Steps 3 and 4: F_theta with the frozen generator's flow and item vectors, and TSP."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax

from nif_jax.data.schema import ConfigError, require_choice
from nif_jax.data.windows import Impressions, gather_impressions
from nif_jax.losses.ctr import cross_entropy, weighted_sum
from nif_jax.losses.pairwise import not_yet_seen, temporal_sequential_pairwise
from nif_jax.models.flow import FlowDecoder
from nif_jax.models.ranker import Ranker
from nif_jax.stages.interface import Aux, Stage


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

    def __post_init__(self):
        require_choice("tsp.score", self.score, ("calibration", "logit"))
        require_choice("tsp.moveline", self.moveline, ("own", "positive"))
        if self.score == "logit" and self.moveline == "positive":
            raise ConfigError(
                "config.tsp.moveline='positive' goes with config.tsp.score='calibration' only: the "
                "logit of the negative would need a second pass with the positive's moveline."
            )


@dataclasses.dataclass(frozen=True)
class FlowSource:
    """Where a ranker's flow comes from.

    Attributes:
      use: whether the alignment attends to a flow.
      returned: whether frozen["returned"], the generator's item vectors, is projected and added.
      horizon: T.
      context: S of the generator's window where the flow is computed in the step; 0 where it is
        read from arrays["flow"], made once by nif_jax.flows.
    """

    use: bool
    returned: bool
    horizon: int
    context: int


def gather_rows(length: int, flow: FlowSource):
    """(arrays, index) -> Impressions with histories of `length` and, if used, the flow."""
    context = flow.context if flow.use else 0

    def gather(arrays, index):
        cached = arrays["flow"] if flow.use and not flow.context else None
        return gather_impressions(arrays["store"], index, length, cached, context)

    return gather


def with_flow(generator: FlowDecoder, flow: FlowSource, frozen, batch: Impressions) -> Impressions:
    """The batch with flow [B, T, D] computed from its events by the frozen generator."""
    if batch.events is None:
        return batch
    rolled = generator.apply(
        {"params": frozen["generator"]},
        batch.events,
        frozen["items"],
        flow.horizon,
        1,
        method="roll_out",
    )
    return batch._replace(flow=jax.lax.stop_gradient(rolled[:, 0]), events=None)


def _inputs(generator, flow: FlowSource, frozen, batch: Impressions):
    batch = with_flow(generator, flow, frozen, batch)
    return batch, frozen["items"], frozen["returned"] if flow.returned else None


def pairwise_loss(
    tsp: PairwiseLoss, batch: Impressions, logits: jax.Array, named: Mapping[str, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """Sum of TSP losses and number of pairs of a batch whose pairs stand side by side."""
    scores = logits if tsp.score == "logit" else named["calibration"]
    positive, negative = scores[0::2], scores[1::2]
    weight = batch.pair
    if tsp.moveline == "positive":
        negative = named["shared"]
        weight = weight * not_yet_seen(batch.item[1::2], batch.history.item[0::2])
    return weighted_sum(temporal_sequential_pairwise(positive, negative, tsp.margin), weight)


def loss(
    model: Ranker,
    generator: FlowDecoder | None,
    flow: FlowSource,
    tsp: PairwiseLoss,
    params,
    variables,
    frozen,
    batch: Impressions,
    rng: jax.Array,
    train: bool,
):
    """Sum of cross-entropies + weight * sum of TSP losses, see Stage.loss_fn.

    Both sums are divided by the number of ROWS, so that a pair weighs the same in every batch
    however many pairs it holds.
    """
    batch, items, returned = _inputs(generator, flow, frozen, batch)
    shared = tsp.weight > 0 and tsp.moveline == "positive"
    logits, named = model.apply(
        {"params": params}, batch, items, returned, train, shared, rngs={"dropout": rng}
    )
    total, weight = weighted_sum(cross_entropy(logits, batch.label), batch.weight)
    measurements = {"cross_entropy": (total, weight)}
    if tsp.weight > 0:
        pair_total, pairs = pairwise_loss(tsp, batch, logits, named)
        measurements |= {"tsp": (pair_total, pairs), "pairs_per_row": (pairs, weight)}
        total += tsp.weight * pair_total
    return total, Aux(weight, variables, measurements)


def predict(
    model: Ranker,
    generator: FlowDecoder | None,
    flow: FlowSource,
    params,
    variables,
    frozen,
    batch: Impressions,
) -> dict[str, jax.Array]:
    """{"logit", "calibration"}, [B] each."""
    del variables
    logits, named = model.apply({"params": params}, *_inputs(generator, flow, frozen, batch))
    return {"logit": logits, "calibration": named["calibration"]}


def init(model: Ranker, generator, flow: FlowSource, rng, batch: Impressions, frozen):
    """Parameters for batches like this one."""
    inputs = jax.eval_shape(lambda: _inputs(generator, flow, frozen, batch))
    return model.lazy_init(rng, *inputs)["params"], {}


def make_stage(
    name: str,
    model: Ranker,
    generator: FlowDecoder | None,
    *,
    flow: FlowSource,
    tsp: PairwiseLoss,
    length: int,
    plan: Any,
    optimizer: Any,
    evaluate: Callable,
    metric: str,
    config: Mapping[str, Any],
) -> Stage:
    """A fine-tuning stage called `name`; other arguments as in Stage."""
    parts = (model, generator, flow)
    return Stage(
        name=name,
        init=functools.partial(init, *parts),
        gather=gather_rows(length, flow),
        loss_fn=functools.partial(loss, *parts, tsp),
        plan=plan,
        evaluate=evaluate,
        optimizer=optimizer,
        metric=metric,
        config=config,
    )
