"""F_theta: a ranker with the frozen generator's flow and TSP (NIF, steps 3 and 4), with interest
cohorts that are generated and trained end to end (GenCI), or with both (the hybrid)."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from nif_jax.data.schema import ConfigError, require_choice
from nif_jax.data.windows import Impressions
from nif_jax.losses.ctr import cross_entropy, weighted_sum
from nif_jax.losses.distill import self_supervised
from nif_jax.losses.pairwise import not_yet_seen, temporal_sequential_pairwise
from nif_jax.models.flow import FlowDecoder
from nif_jax.models.initialize import init_params
from nif_jax.models.ranker import Ranker
from nif_jax.stages.flow_source import (
    FlowSource,
    current_generator,
    final_scores,
    gather_rows,
    ranker_inputs,
    with_flow,
)
from nif_jax.stages.genci import CohortSource, generate, generate_in_training, next_item_loss
from nif_jax.training.stage import Aux, Stage


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
    cohorts: CohortSource,
    tsp: PairwiseLoss,
    axis_name: str,
    params,
    variables,
    frozen,
    batch: Impressions,
    rng: jax.Array,
    step: jax.Array | None,
):
    """Sum of cross-entropies + weight * TSP + gamma * NTP + delta * SSR, see Stage.loss_fn.

    All sums are divided by the number of ROWS, so that a pair or a target weighs the same in every
    batch however many it holds.
    """
    train = step is not None
    batch, items, returned = ranker_inputs(generator, flow, params, frozen, batch)
    named_rng = dict(zip(("rank", "encode", "next"), jax.random.split(rng, 3), strict=True))
    generated, variables = generate_in_training(
        cohorts, params, variables, frozen, batch, named_rng["encode"], train, axis_name
    )
    shared = tsp.weight > 0 and tsp.moveline == "positive"
    logits, named = model.apply(
        {"params": params},
        batch,
        items,
        returned,
        train,
        shared,
        generated,
        frozen.get("ids"),
        rngs={"dropout": named_rng["rank"]},
    )
    total, weight = weighted_sum(cross_entropy(logits, batch.label), batch.weight)
    measurements = {"cross_entropy": (total, weight)}
    if tsp.weight > 0:
        pair_total, pairs = pairwise_loss(tsp, batch, logits, named)
        measurements |= {"tsp": (pair_total, pairs), "pairs_per_row": (pairs, weight)}
        total += tsp.weight * pair_total
    if cohorts.gamma > 0:
        next_total, targets = next_item_loss(
            cohorts, params, frozen, batch, generated, named_rng["next"]
        )
        measurements["next_item"] = (next_total, targets)
        total += cohorts.gamma * next_total
    if cohorts.delta > 0:
        losses = self_supervised(logits, named["side"], batch.label, cohorts.detach)
        side_total, _ = weighted_sum(losses, batch.weight)
        measurements["self_supervised"] = (side_total, weight)
        total += cohorts.delta_at(step) * side_total
    return total, Aux(weight, variables, measurements)


def predict(
    model: Ranker,
    generator: FlowDecoder | None,
    flow: FlowSource,
    cohorts: CohortSource,
    params,
    variables,
    frozen,
    batch: Impressions,
) -> dict[str, jax.Array]:
    """{"logit", "calibration"}, [B] each, and see flow_source.final_scores."""
    batch, items, returned = ranker_inputs(generator, flow, params, frozen, batch)
    generated = generate(cohorts, params, frozen, batch)
    logits, named = model.apply(
        {"params": params}, batch, items, returned, generated=generated, ids=frozen.get("ids")
    )
    found = final_scores(generator, flow, params, variables, frozen, batch, logits)
    return found | {"calibration": named["calibration"]}


def predict_candidates(
    model: Ranker,
    generator: FlowDecoder | None,
    flow: FlowSource,
    cohorts: CohortSource,
    params,
    variables,
    frozen,
    batch: Impressions,
    candidates: jax.Array,
) -> dict[str, jax.Array]:
    """What `predict` gives, [C], of candidates [C] for the user of a batch of one row.

    Flow, encoder and beam search depend on the history only and run once.
    """
    weights, _ = current_generator(generator, flow, params, frozen)
    batch = with_flow(generator, flow, weights, frozen, batch)
    generated = generate(cohorts, params, frozen, batch)
    many = jax.tree.map(
        lambda x: jnp.broadcast_to(x, (len(candidates), *x.shape[1:])), batch._replace(pair=None)
    )
    many = many._replace(item=candidates)
    many, items, returned = ranker_inputs(generator, flow, params, frozen, many)
    logits, named = model.apply(
        {"params": params},
        many,
        items,
        returned,
        generated=generated,
        ids=frozen.get("ids"),
    )
    found = final_scores(generator, flow, params, variables, frozen, many, logits)
    return found | {"calibration": named["calibration"]}


def init(model: Ranker, generator, flow: FlowSource, cohorts: CohortSource, rng, batch, frozen):
    """Parameters for batches like this one: the ranker's and, under "generator" and "intent", those
    of the generators that learn with it. Variables: remembered beams, and the weight of the
    generator's log odds, 0 in training."""
    own, variables = {}, {"mix": jnp.zeros(())} if flow.response == "mix" else {}
    if flow.tune:
        window = jax.eval_shape(lambda: (batch.events, frozen["items"]))
        own["generator"] = init_params(generator, jax.random.fold_in(rng, 2), *window)
    inputs = jax.eval_shape(lambda p: ranker_inputs(generator, flow, p, frozen, batch), own)
    if cohorts.intent is None:
        return dict(init_params(model, rng, *inputs)) | own, variables
    ids = jax.tree.map(jnp.asarray, frozen["ids"])
    code = jnp.ones((len(batch.item), ids.num_digits), jnp.int32)
    shapes = jax.eval_shape(lambda: (batch.history, ids, code))
    own["intent"] = init_params(cohorts.intent, jax.random.fold_in(rng, 1), *shapes)
    generated = jax.eval_shape(lambda p: generate(cohorts, p, frozen, batch), own)
    rest = jax.eval_shape(lambda: ids)
    rngs = {"params": rng, "dropout": rng}
    params = init_params(model, rngs, *inputs, True, False, generated, rest)
    if cohorts.remembers:
        variables["beams"] = jnp.zeros((*cohorts.slots, cohorts.beams), jnp.int32)
    return dict(params) | own, variables


def make_stage(
    name: str,
    model: Ranker,
    generator: FlowDecoder | None,
    *,
    flow: FlowSource,
    cohorts: CohortSource,
    tsp: PairwiseLoss,
    axis_name: str,
    length: int,
    plan: Any,
    optimizer: Any,
    evaluate: Callable,
    metric: str,
    config: Mapping[str, Any],
) -> Stage:
    """A fine-tuning stage called `name` on devices of an axis; other arguments as in Stage."""
    parts = (model, generator, flow, cohorts)
    return Stage(
        name=name,
        init=functools.partial(init, *parts),
        gather=gather_rows(length, flow, train=True),
        loss_fn=functools.partial(loss, *parts, tsp, axis_name),
        plan=plan,
        evaluate=evaluate,
        optimizer=optimizer,
        metric=metric,
        config=config,
    )
