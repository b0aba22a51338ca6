"""Step 2: pre-training G_phi to predict the Next Interest Flow."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nif_jax.data.dataset import Dataset
from nif_jax.data.packing import SequencePlan
from nif_jax.losses import contrastive
from nif_jax.losses.ctr import weighted_sum
from nif_jax.losses.flow import velocity
from nif_jax.metrics import ctr, retrieval
from nif_jax.models.flow import FlowDecoder, unit
from nif_jax.models.initialize import init_params
from nif_jax.stages import next_item
from nif_jax.stages.context import Context
from nif_jax.stages.flow_loss import FlowLoss, draw, head_diversity, info_nce, rolled_velocity
from nif_jax.stages.label_loss import label_loss, label_reader
from nif_jax.stages.large_tables import generator_lookups
from nif_jax.stages.ranking import validation_plan
from nif_jax.stages.sequences import Sequences, gather_sequences, targets_ahead, within
from nif_jax.stages.step_counts import log_steps, loop_settings, make_optimizer, per_device
from nif_jax.training.devices.base import AXIS
from nif_jax.training.scoring import Scorer
from nif_jax.training.stage import Aux, Evaluation, Stage


def loss(
    model: FlowDecoder,
    spec: FlowLoss,
    axis_name: str | None,
    params,
    variables,
    constants,
    batch: Sequences,
    rng: jax.Array,
    step: jax.Array | None,
):
    """Sum over targets of InfoNCE + alpha * diversity + beta * velocity + weighted cross-entropy of
    labels, see Stage.loss_fn.

    Diversity and velocity are counted where a prediction is, so that one weight divides all.
    """
    train = step is not None
    dropout, _, drawn = jax.random.split(rng, 3)  # the second is the key of negatives
    bound = model.bind({"params": params}, rngs={"dropout": dropout})
    sample = draw(spec, batch, constants["frequency"], rng, axis_name)
    heads, named = bound(batch.window, constants["items"], train, batch.segment, sample.shown)
    queries = unit(heads.reshape(*batch.window.item.shape, -1))  # [B, S, D]
    nce = functools.partial(_next_items, spec, batch, named["vectors"], sample.candidates)
    # Position k predicts entry k + 1; the last predicts what lies beyond the window.
    mask, total, weight = nce(queries[:, :-1], 1)  # mask [B, S - 1]
    measurements = {"info_nce": (total, weight)}
    if spec.alpha:
        spread = head_diversity(spec, heads, named["vectors"], sample.compared)
        value, _ = weighted_sum(spread[:, :-1], mask)
        total += spec.alpha * value
        measurements["diversity"] = (value, weight)
    if spec.beta:
        gap = jnp.diff(batch.seconds, axis=1).astype(jnp.float32)
        speed = velocity(queries, jnp.where(mask > 0, gap, 0.0), spec.velocity, spec.half_life)
        value, _ = weighted_sum(speed, mask)
        total += spec.beta * value
        measurements["velocity"] = (value, weight)
    if spec.beta and spec.velocity_starts and spec.horizon > 1:
        passed = (heads, named["memories"], mask)
        value, count = rolled_velocity(spec, bound, batch, *passed, train, drawn)
        # The drawn positions stand for all; a factor that is constant lets sums of devices add up.
        total += spec.beta * value * (mask.shape[1] / min(spec.velocity_starts, mask.shape[1]))
        measurements["rolled_velocity"] = (value, count)
    if spec.label_head:
        reader = label_reader(spec, bound, queries, named)
        value, count = label_loss(batch, reader, train)
        # Every event and every negative sampled for it has a label. The total is divided by the
        # number of targets, which may be smaller: the factor keeps the weight of the label head
        # equal to its weight where every event is a target and has one label.
        events = (within(batch, 1) & batch.in_train[:, 1:]).sum(dtype=jnp.float32)
        labels = events * batch.label_queries.label.shape[-1]
        total += spec.label_head * value * (weight / jnp.maximum(labels, 1.0))
        measurements["label_head"] = (value, count)
    if spec.rollout_steps:
        rolled = bound.continue_from(
            heads, named["memories"], batch.window.mask, spec.rollout_steps, train, batch.segment
        )
        flow = unit(rolled.reshape(*rolled.shape[:3], -1))  # [B, S, 1 + r, D]
        for ahead in range(2, spec.rollout_steps + 2):
            _, value, count = nce(flow[:, :-ahead, ahead - 1], ahead)
            # The same weight a step as teacher forcing has, shared out over the steps.
            total += value / spec.rollout_steps
            measurements[f"info_nce_step_{ahead}"] = (value, count)
    return total, Aux(weight, variables, measurements)


def _next_items(
    spec: FlowLoss,
    batch: Sequences,
    table,
    drawn: Sequence[contrastive.Candidates],
    queries,
    ahead: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """InfoNCE of the targets `ahead` places after queries [B, S - ahead, D].

    Args:
      spec: the settings.
      batch: the windows.
      table: [N + 1, D] unit vectors of items.
      drawn: see flow_loss.draw.
      queries: unit flow states.
      ahead: 1 is the next item.

    Returns:
      Mask [B, S - ahead] of the targets, the sum over them, and their number.
    """
    mask = targets_ahead(batch, ahead).astype(jnp.float32)
    candidates = drawn[ahead - 1] if drawn else None
    value = info_nce(spec, queries, table, batch.window.item[:, ahead:], mask, candidates)
    return mask, value, mask.sum()


def init(model: FlowDecoder, rng, batch: Sequences, constants):
    """Parameters; the generator has no variables."""
    inputs = jax.eval_shape(lambda: (batch.window, constants["items"]))
    return init_params(model, rng, *inputs), {}


def flow_decoder(run: Context) -> FlowDecoder:
    """The configured generator."""
    data = run.dataset
    return FlowDecoder(
        item_sizes=dict(data.item_sizes),
        num_scenes=data.num_scenes,
        num_actions=data.num_actions,
        dtype=run.compute_dtype,
        **run.config.generator,
    )


def _target_frequency(data: Dataset, spec: FlowLoss) -> np.ndarray:
    """[N + 1] how often an item is among the generator's targets, see log_expected_count."""
    targets = data.train_events & data.eligible
    if spec.targets == "positive":
        targets &= data.event_label == 1
    return contrastive.item_frequency(data.movelines.item, targets, data.movelines.num_items)


def _evaluator(run: Context, scorer: Scorer, spec: FlowLoss):
    """(params, variables) -> ranks of next items and AUC of labels on validation."""
    # Next items are events; labels are those of sampled impressions too.
    sampled = run.config.data.negatives
    chosen = validation_plan(run, run.config.pretrain.eval_rows * (1 + sampled))
    events = ~chosen.read(run.dataset.sampled)

    def evaluate(params, variables):
        found = scorer(chosen, params, variables)
        labels = chosen.read(run.dataset.movelines.label)
        metrics: dict[str, Any] = retrieval.summarize(found["rank"][events])
        metrics["quality"] = metrics["hr@10"]
        if spec.label_head and 0 < labels.mean() < 1:
            metrics["label_auc"] = ctr.auc(labels, found["label_logit"])
            metrics["quality"] += spec.label_head * metrics["label_auc"]
        return Evaluation(metrics)

    return evaluate


def make(run: Context, without: tuple[int, int] | None = None) -> Stage:
    """The stage `generator`, or that of config.flow.cross_fit without (fold, of folds) of users."""
    name = "generator_without_{}_of_{}".format(*without) if without else "generator"
    run = run.for_stage(name)
    section, model = run.config.pretrain, flow_decoder(run)
    horizon = run.config.flow.horizon
    spec = FlowLoss(**run.config.flow_loss, horizon=horizon, dtype=run.compute_dtype)
    data = run.place(frequency=_target_frequency(run.dataset, spec))
    # Windows as long as a roll-out's last position: it never leaves the trained distances.
    length = section.context + horizon
    plan = SequencePlan(run.dataset, per_device(run, section), length, run.seed, without or (0, 0))
    gather = functools.partial(next_item.gather_next, section.context, section.context)
    prepare = functools.partial(next_item.prepare, model)
    functions = {"scores": next_item.rank_next, "labels": next_item.label_next}
    loss_fn = functools.partial(loss, model, spec, AXIS)
    programs, shared = run.shared_programs(name, loss_fn), (gather, data, run.parallel, prepare)
    scorers = {
        key: Scorer(functools.partial(fn, model), *shared, programs.of(key))
        for key, fn in functions.items()
    }
    log_steps(run, name, "pretrain", section, plan)
    lookups = generator_lookups(model, spec, section.sparse_rows, AXIS)
    flatten = lookups is None and not run.parallel.splits_tables
    return Stage(
        name=name,
        init=functools.partial(init, model),
        gather=functools.partial(gather_sequences, spec.targets, run.config.data.negatives),
        loss_fn=loss_fn,
        plan=plan,
        evaluate=_evaluator(run, scorers["scores"], spec),
        optimizer=make_optimizer(run, section, plan, flatten=flatten),
        metric=section.metric,
        config=run.config.to_dict(),
        settings=loop_settings(section, plan),
        data=data,
        scorers=scorers,
        lookups=lookups,
        programs=programs,
    )
