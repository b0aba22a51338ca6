"""F_theta: a ranker with the frozen generator's flow and TSP (NIF, steps 3 and 4), with interest
cohorts that are generated and trained end to end (GenCI), or with both (the hybrid)."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from nif_jax.data.schema import ConfigError, require_choice
from nif_jax.data.windows import Impressions, gather_impressions
from nif_jax.losses.ctr import cross_entropy, weighted_sum
from nif_jax.losses.distill import self_supervised
from nif_jax.losses.pairwise import not_yet_seen, temporal_sequential_pairwise
from nif_jax.models.cohorts import Generated
from nif_jax.models.flow import FlowDecoder
from nif_jax.models.initialize import init_params
from nif_jax.models.intent import Intent
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
      response: whether the ranker reads what the generator says of the answer.
    """

    use: bool
    returned: bool
    horizon: int
    context: int
    response: bool


@dataclasses.dataclass(frozen=True)
class CohortSource:
    """Where a ranker's cohorts come from, and what their generation pays.

    Attributes:
      intent: the model that generates, or None: no cohorts.
      beams: G; 0 generates nothing: the ranker gets the history's state only.
      gamma: weight of a row's next-item loss beside its cross-entropy.
      delta: weight of the self-supervised regularisation.
      targets: rows whose item is to be predicted: "positive", or "all" whatever the label (quirk).
      detach: whether the side head's opinion is a fixed target; otherwise it learns from the ranker
        too (a quirk).
    """

    intent: Intent | None = None
    beams: int = 0
    gamma: float = 0.0
    delta: float = 0.0
    targets: str = "positive"
    detach: bool = True

    def __post_init__(self):
        require_choice("genci.targets", self.targets, ("positive", "all"))


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


def with_response(
    generator: FlowDecoder | None, flow: FlowSource, frozen, batch: Impressions
) -> Impressions:
    """The batch with the frozen generator's log odds of each row's answer; 0 without a history."""
    if not flow.response:
        return batch
    response = generator.apply(
        {"params": frozen["generator"]},
        batch.flow[:, 0],
        frozen["returned"][batch.item],
        batch.scene,
        batch.recency,
        method="respond",
    )
    return batch._replace(response=jax.lax.stop_gradient(response) * batch.flow_mask)


def generate(
    source: CohortSource, params, frozen, batch: Impressions, train: bool = False, rng=None
) -> Generated | None:
    """What the intent model says of each row's user; depends on the history only."""
    if source.intent is None:
        return None
    rngs = {} if rng is None else {"dropout": rng}
    bound = source.intent.bind({"params": params["intent"]}, rngs=rngs)
    states, mask = bound.encode(batch.history, frozen["ids"], train)
    beams = bound.generate(states, mask, frozen["ids"], source.beams) if source.beams else None
    return Generated(states, mask, beams)


def next_item_loss(
    source: CohortSource, params, frozen, batch: Impressions, generated: Generated, rng
) -> tuple[jax.Array, jax.Array]:
    """Sum over target rows of the mean cross-entropy of the item's digits, and their number."""
    code = frozen["ids"].code[batch.item]
    found = source.intent.apply(
        {"params": params["intent"]},
        generated.states,
        generated.mask,
        code,
        True,
        method="log_likelihood",
        rngs={"dropout": rng},
    )
    # A user without a history says nothing about what comes next.
    weight = batch.weight * generated.mask.any(1)
    if source.targets == "positive":
        weight = weight * batch.label
    return weighted_sum(-found.mean(-1), weight)


def _inputs(generator, flow: FlowSource, frozen, batch: Impressions):
    batch = with_response(generator, flow, frozen, with_flow(generator, flow, frozen, batch))
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
    cohorts: CohortSource,
    tsp: PairwiseLoss,
    params,
    variables,
    frozen,
    batch: Impressions,
    rng: jax.Array,
    train: bool,
):
    """Sum of cross-entropies + weight * TSP + gamma * NTP + delta * SSR, see Stage.loss_fn.

    All sums are divided by the number of ROWS, so that a pair or a target weighs the same in every
    batch however many it holds.
    """
    batch, items, returned = _inputs(generator, flow, frozen, batch)
    named_rng = dict(zip(("rank", "encode", "next"), jax.random.split(rng, 3), strict=True))
    generated = generate(cohorts, params, frozen, batch, train, named_rng["encode"])
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
        total += cohorts.delta * side_total
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
    """{"logit", "calibration"}, [B] each."""
    del variables
    batch, items, returned = _inputs(generator, flow, frozen, batch)
    generated = generate(cohorts, params, frozen, batch)
    logits, named = model.apply(
        {"params": params}, batch, items, returned, generated=generated, ids=frozen.get("ids")
    )
    return {"logit": logits, "calibration": named["calibration"]}


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
    """{"logit", "calibration"} [C] of candidates [C] for the user of a batch of one row.

    Flow, encoder and beam search depend on the history only and run once.
    """
    del variables
    batch = with_flow(generator, flow, frozen, batch)
    generated = generate(cohorts, params, frozen, batch)
    many = jax.tree.map(
        lambda x: jnp.broadcast_to(x, (len(candidates), *x.shape[1:])), batch._replace(pair=None)
    )
    many, items, returned = _inputs(generator, flow, frozen, many._replace(item=candidates))
    logits, named = model.apply(
        {"params": params},
        many,
        items,
        returned,
        generated=generated,
        ids=frozen.get("ids"),
    )
    return {"logit": logits, "calibration": named["calibration"]}


def rank_generated(
    intent: Intent, width: int, constrained: bool, params, variables, frozen, batch: Impressions
) -> dict[str, jax.Array]:
    """{"rank"} [B] of each row's item among the generated ones that the history does not hold.

    An item that was not generated ranks behind the catalogue; without constraint, a sequence that
    is no item takes its place in vain.
    """
    del variables
    source, ids = CohortSource(intent, 0), frozen["ids"]
    generated = generate(source, params, frozen, batch)
    beams = intent.apply(
        {"params": params["intent"]},
        generated.states,
        generated.mask,
        ids,
        width,
        constrained,
        method="generate",
    )
    leaf = beams.node[..., -1]
    item = jnp.where(leaf >= 0, ids.item[jnp.maximum(leaf, 0)], 0)  # [B, G]
    seen = (item[..., None] == batch.history.item[:, None]).any(-1) & (item > 0)
    is_target = item == batch.item[:, None]
    counts = beams.mask & (~seen | is_target)
    place = jnp.cumsum(counts, axis=1)
    rank = jnp.where(is_target & beams.mask, place, len(ids.item) + 1).min(1)
    return {"rank": rank.astype(jnp.int32)}


def init(model: Ranker, generator, flow: FlowSource, cohorts: CohortSource, rng, batch, frozen):
    """Parameters for batches like this one: the ranker's and, under "intent", the generator's."""
    inputs = jax.eval_shape(lambda: _inputs(generator, flow, frozen, batch))
    if cohorts.intent is None:
        return init_params(model, rng, *inputs), {}
    ids = jax.tree.map(jnp.asarray, frozen["ids"])
    code = jnp.ones((len(batch.item), ids.num_digits), jnp.int32)
    shapes = jax.eval_shape(lambda: (batch.history, ids, code))
    intent = init_params(cohorts.intent, jax.random.fold_in(rng, 1), *shapes)
    generated = jax.eval_shape(lambda p: generate(cohorts, {"intent": p}, frozen, batch), intent)
    rest = jax.eval_shape(lambda: ids)
    rngs = {"params": rng, "dropout": rng}
    params = init_params(model, rngs, *inputs, True, False, generated, rest)
    return dict(params) | {"intent": intent}, {}


def make_stage(
    name: str,
    model: Ranker,
    generator: FlowDecoder | None,
    *,
    flow: FlowSource,
    cohorts: CohortSource,
    tsp: PairwiseLoss,
    length: int,
    plan: Any,
    optimizer: Any,
    evaluate: Callable,
    metric: str,
    config: Mapping[str, Any],
) -> Stage:
    """A fine-tuning stage called `name`; other arguments as in Stage."""
    parts = (model, generator, flow, cohorts)
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
