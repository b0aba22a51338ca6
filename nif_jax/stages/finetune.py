"""F_theta: a ranker with the frozen generator's flow and TSP (NIF, steps 3 and 4), with interest
cohorts that are generated and trained end to end (GenCI), or with both (the hybrid)."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from nif_jax.data.sampling import ImpressionPlan
from nif_jax.data.windows import Impressions
from nif_jax.losses.ctr import cross_entropy, weighted_sum
from nif_jax.losses.distill import self_supervised
from nif_jax.models.baselines.interface import Baseline
from nif_jax.models.flow import FlowDecoder
from nif_jax.models.initialize import init_params
from nif_jax.models.ranker import Ranker
from nif_jax.stages import cohort_input, flow_input, pairs
from nif_jax.stages.candidates import for_candidates, generated_for
from nif_jax.stages.cohort_input import (
    CohortInput,
    generate,
    generate_in_training,
    next_item_loss,
    rank_generated,
)
from nif_jax.stages.context import Context
from nif_jax.stages.flow_input import (
    FlowInput,
    current_generator,
    final_scores,
    gather_rows,
    ranker_inputs,
    with_flow,
)
from nif_jax.stages.generator import flow_decoder
from nif_jax.stages.outputs import GeneratorOutputs
from nif_jax.stages.pairs import PairwiseLoss, pairwise_loss
from nif_jax.stages.prepared import prepare
from nif_jax.stages.ranking import make_ranker, make_ranking_stage, statistics_arrays
from nif_jax.stages.step_counts import per_device, total_steps, with_min_steps
from nif_jax.training.devices.base import AXIS
from nif_jax.training.stage import Aux, Stage
from nif_jax.variants import VARIANTS, variant_config


def loss(
    model: Ranker | Baseline,
    generator: FlowDecoder | None,
    flow: FlowInput,
    cohorts: CohortInput,
    tsp: PairwiseLoss,
    axis_name: str,
    params,
    variables,
    constants,
    batch: Impressions,
    rng: jax.Array,
    step: jax.Array | None,
):
    """Sum of cross-entropies + weight * TSP + gamma * NTP + delta * SSR, see Stage.loss_fn.

    All sums are divided by the number of rows, so that a pair or a target weighs the same in every
    batch, however many it holds.
    """
    train = step is not None
    batch, items, generator_item_emb = ranker_inputs(generator, flow, params, constants, batch)
    named_rng = dict(zip(("rank", "encode", "next"), jax.random.split(rng, 3), strict=True))
    generated, variables = generate_in_training(
        cohorts, params, variables, constants, batch, named_rng["encode"], train, axis_name
    )
    shared = tsp.weight > 0 and tsp.moveline == "positive"
    logits, named = model.apply(
        {"params": params},
        batch,
        items,
        generator_item_emb,
        train,
        shared,
        generated,
        constants.get("ids"),
        rngs={"dropout": named_rng["rank"]},
    )
    total, weight = weighted_sum(cross_entropy(logits, batch.label), batch.weight)
    measurements = {"cross_entropy": (total, weight)}
    if tsp.weight > 0:
        pair_total, count = pairwise_loss(tsp, batch, logits, named)
        measurements |= {"tsp": (pair_total, count), "pairs_per_row": (count, weight)}
        total += tsp.weight * pair_total
    if generated is not None and cohorts.gamma > 0:
        next_total, targets = next_item_loss(
            cohorts, params, constants, batch, generated, named_rng["next"]
        )
        measurements["next_item"] = (next_total, targets)
        total += cohorts.gamma * next_total
    if cohorts.delta > 0:
        losses = self_supervised(logits, named["side"], batch.label, cohorts.detach)
        side_total, _ = weighted_sum(losses, batch.weight)
        measurements["self_supervised"] = (side_total, weight)
        total += cohorts.delta_at(step) * side_total
    return total, Aux(weight, variables, measurements)


def _score(
    model: Ranker | Baseline,
    generator: FlowDecoder | None,
    flow: FlowInput,
    params,
    variables,
    constants,
    batch: Impressions,
    generated,
) -> dict[str, jax.Array]:
    """What `predict` gives of a batch, with the intent model's output for its users."""
    batch, items, generator_item_emb = ranker_inputs(generator, flow, params, constants, batch)
    ids = constants.get("ids")
    logits, named = model.apply(
        {"params": params}, batch, items, generator_item_emb, generated=generated, ids=ids
    )
    found = final_scores(generator, flow, params, variables, constants, batch, logits)
    return found | {"calibration": named["calibration"]}


def predict(
    model: Ranker | Baseline,
    generator: FlowDecoder | None,
    flow: FlowInput,
    cohorts: CohortInput,
    params,
    variables,
    constants,
    batch: Impressions,
) -> dict[str, jax.Array]:
    """{"logit", "calibration"}, [B] each, and see flow_input.final_scores."""
    generated = generate(cohorts, params, constants, batch)
    return _score(model, generator, flow, params, variables, constants, batch, generated)


def predict_candidates(
    model: Ranker | Baseline,
    generator: FlowDecoder | None,
    flow: FlowInput,
    cohorts: CohortInput,
    params,
    variables,
    constants,
    batch: Impressions,
    candidates: jax.Array,
    owner: jax.Array | None = None,
) -> dict[str, jax.Array]:
    """What `predict` gives, [C], of candidates [C] for the users of a batch; see `for_candidates`.

    Flow, encoder and beam search depend on the history only and run once for a row of the batch.
    With constants that include what `prepare` gives, nothing is computed for all of the catalogue.
    """
    weights, vectors = current_generator(generator, flow, params, constants)
    batch = with_flow(generator, flow, weights, vectors, constants, batch)
    generated = generate(cohorts, params, constants, batch)
    generated = generated_for(generated, owner)
    many = for_candidates(batch, candidates, owner)
    return _score(model, generator, flow, params, variables, constants, many, generated)


def init(model, generator, flow: FlowInput, cohorts: CohortInput, rng, batch, constants):
    """Parameters for batches like this one: the ranker's and, under "generator" and "intent", those
    of the generators that learn with it. Variables: remembered beams, and the weight of the
    label head's logit, 0 in training."""
    own, variables = {}, {"blend_weight": jnp.zeros(())} if flow.label_head == "blend" else {}
    if flow.tune:
        window = jax.eval_shape(lambda: (batch.events, constants["items"]))
        own["generator"] = init_params(generator, jax.random.fold_in(rng, 2), *window)
    inputs = jax.eval_shape(lambda p: ranker_inputs(generator, flow, p, constants, batch), own)
    if cohorts.intent is None:
        return dict(init_params(model, rng, *inputs)) | own, variables
    ids = jax.tree.map(jnp.asarray, constants["ids"])
    code = jnp.ones((len(batch.item), ids.num_digits), jnp.int32)
    shapes = jax.eval_shape(lambda: (batch.history, ids, code))
    own["intent"] = init_params(cohorts.intent, jax.random.fold_in(rng, 1), *shapes)
    generated = jax.eval_shape(lambda p: generate(cohorts, p, constants, batch), own)
    rest = jax.eval_shape(lambda: ids)
    rngs = {"params": rng, "dropout": rng}
    params = init_params(model, rngs, *inputs, True, False, generated, rest)
    if cohorts.remembers:
        variables["beams"] = jnp.zeros((*cohorts.slots, cohorts.beams), jnp.int32)
    return dict(params) | own, variables


def make(run: Context, name: str, outputs: GeneratorOutputs) -> Stage:
    """The stage of a variant: flow, TSP, cohorts or several of them, or a baseline.

    Args:
      run: the run.
      name: of the variant, see nif_jax/variants.py.
      outputs: of the stages before.
    """
    run = run.for_stage(name)
    variant, config = VARIANTS[name], variant_config(run.config, name)
    run = dataclasses.replace(run, config=config)
    flow = flow_input.configured(config, variant.flow)
    tsp, distances = pairs.configured(config, variant.tsp)
    plan = ImpressionPlan(
        run.dataset, per_device(run, config.train), run.seed, variant.tsp, **distances
    )
    cohorts, network, side = CohortInput(), None, None
    extra: dict[str, Any] = {}
    if variant.flow:
        extra |= {"generator_item_emb": outputs.vectors, "generator": outputs.params}
    if variant.cohorts:
        ids = extra["ids"] = outputs.ids[config.tokenizer.form]
        steps = total_steps(with_min_steps(config.train, plan.steps_per_epoch), plan)
        cohorts, network, side = cohort_input.configured(
            run, config, steps, ids.num_codes, ids.num_digits
        )
    model = make_ranker(run, variant.model, cohorts=network, side=side)
    decoder = flow_decoder(run) if variant.flow else None
    parts, length = (model, decoder, flow, cohorts), config.data.history_length
    return make_ranking_stage(
        run,
        name,
        init=functools.partial(init, *parts),
        gather=gather_rows(length, flow, train=True),
        loss_fn=functools.partial(loss, *parts, tsp, AXIS),
        predict=functools.partial(predict, *parts),
        gather_scores=gather_rows(length, flow),
        plan=plan,
        data=run.place(statistics_arrays(run) | flow_input.flow_arrays(flow, outputs), **extra),
        generators=_generators(run, cohorts),
        prepare=functools.partial(prepare, *parts),
        predict_candidates=functools.partial(predict_candidates, *parts),
        whole_catalogue=variant.cohorts or flow.tune,
    )


def _generators(run: Context, cohorts: CohortInput) -> dict[str, Callable]:
    """Ranks of the next item among what an intent model generates."""
    if cohorts.intent is None:
        return {}
    width = min(run.config.eval.beams, run.dataset.movelines.num_items)
    return {
        kind: functools.partial(rank_generated, cohorts.intent, width, constrained)
        for kind, constrained in (("constrained", True), ("unconstrained", False))
    }
