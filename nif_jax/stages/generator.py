"""Step 2: pre-training G_phi to predict the Next Interest Flow."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nif_jax.data.schema import NO_LABEL, ConfigError, require_choice
from nif_jax.data.windows import Array, Window, gather_segments
from nif_jax.losses import contrastive
from nif_jax.losses.ctr import cross_entropy, weighted_sum
from nif_jax.losses.flow import DIVERSITY, VELOCITY, diversity, velocity
from nif_jax.models.flow import FlowDecoder, unit
from nif_jax.models.initialize import init_params
from nif_jax.stages.interface import Aux, Stage


class Sequences(NamedTuple):
    """A batch of moveline windows, one or several side by side in a row.

    Attributes:
      window: Window [B, S], gap = time since the entry before.
      segment: [B, S] int32, which window of its row an entry belongs to; 0 is padding.
      seconds: [B, S] int32 time of each entry.
      in_train: [B, S] bool, the entry belongs to the train period.
      is_target: [B, S] bool, the entry is to be predicted: those of the train period, or the
        positive ones of them.
      label: [B, S] float32, 1 or 0, NO_LABEL where the answer is not known or not to be learned.
    """

    window: Window
    segment: Array
    seconds: Array
    in_train: Array
    is_target: Array
    label: Array


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
      response: weight of the answers' cross-entropy, see FlowDecoder.respond; 0 = off.
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
    response: float

    def __post_init__(self):
        require_choice("flow_loss.negatives", self.negatives, ("exact", "in_batch", "uniform"))
        require_choice("flow_loss.targets", self.targets, ("all", "positive"))
        require_choice("flow_loss.diversity", self.diversity, DIVERSITY)
        require_choice("flow_loss.velocity", self.velocity, VELOCITY)
        if self.negatives == "uniform" and self.uniform < 1:
            raise ConfigError("config.flow_loss.uniform=0 leaves negatives='uniform' without any.")


def gather_sequences(targets: str, arrays, index: Mapping[str, Array]) -> Sequences:
    """Windows from "entry" and "segment" [B, S], see SequencePlan."""
    store, entry, segment = arrays["store"], index["entry"], index["segment"]
    xp = entry.__array_namespace__()
    window, seconds = gather_segments(store, entry, segment)
    row = store.history_row[entry]
    in_train = window.mask & store.train[row]
    label = xp.where(in_train, store.label[row], NO_LABEL)
    is_target = in_train & (label > 0) if targets == "positive" else in_train
    return Sequences(window, segment, seconds, in_train, is_target, label)


def info_nce(loss: FlowLoss, queries, table, targets, mask, frequency, rng, axis_name):
    """[...] Eq. 1 for queries [..., D], under the configured negatives."""
    if loss.negatives == "exact":
        # A padded target is row 0, which is no candidate; its loss is masked later.
        return contrastive.exact(queries, table, jnp.maximum(targets, 1), loss.temperature)
    flat = targets.reshape(-1)
    candidates = contrastive.draw_candidates(
        rng,
        table,
        flat,
        mask.reshape(-1),
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
    return losses.reshape(targets.shape)


def loss(
    model: FlowDecoder,
    spec: FlowLoss,
    axis_name: str | None,
    params,
    variables,
    frozen,
    batch: Sequences,
    rng: jax.Array,
    step: jax.Array | None,
):
    """Sum over targets of InfoNCE + alpha * diversity + beta * velocity + response, see
    Stage.loss_fn.

    Diversity and velocity are counted where a prediction is, so that one weight divides all.
    """
    train = step is not None
    dropout, negatives = jax.random.split(rng)
    bound = model.bind({"params": params}, rngs={"dropout": dropout})
    heads, named = bound(batch.window, frozen["items"], train, batch.segment)
    table = named["vectors"]
    queries = unit(heads.reshape(*batch.window.item.shape, -1))  # [B, S, D]

    def nce(queries, ahead, rng):
        """Sum over the targets `ahead` places on from queries [B, S - ahead, D], their mask, and
        their number."""
        mask = (_within(batch, ahead) & batch.is_target[:, ahead:]).astype(jnp.float32)
        losses = info_nce(
            spec,
            queries,
            table,
            batch.window.item[:, ahead:],
            mask > 0,
            frozen["frequency"],
            rng,
            axis_name,
        )
        return mask, *weighted_sum(losses, mask)

    # Position k predicts entry k + 1; the last predicts what lies beyond the window.
    mask, total, weight = nce(queries[:, :-1], 1, negatives)  # mask [B, S - 1]
    measurements = {"info_nce": (total, weight)}
    if spec.alpha:
        value, _ = weighted_sum(diversity(heads, spec.diversity)[:, :-1], mask)
        total += spec.alpha * value
        measurements["diversity"] = (value, weight)
    if spec.beta:
        gap = (batch.seconds[:, 1:] - batch.seconds[:, :-1]).astype(jnp.float32)
        speed = velocity(queries, jnp.where(mask > 0, gap, 0.0), spec.velocity, spec.half_life)
        value, _ = weighted_sum(speed, mask)
        total += spec.beta * value
        measurements["velocity"] = (value, weight)
    if spec.response:
        value, count = answers_loss(bound, batch, queries, named, train)
        # Answers are learned from every event. Where targets are fewer, all is divided by less:
        # the head keeps the share that it has where every event is a target.
        events = (_within(batch, 1) & batch.in_train[:, 1:]).sum(dtype=jnp.float32)
        total += spec.response * value * (weight / jnp.maximum(events, 1.0))
        measurements["response"] = (value, count)
    if spec.rollout_steps:
        flow = bound.continue_from(
            heads,
            named["memories"],
            batch.window.mask,
            spec.rollout_steps,
            train,
            batch.segment,
        )
        flow = unit(flow.reshape(*flow.shape[:3], -1))  # [B, S, 1 + r, D]
        for ahead in range(2, spec.rollout_steps + 2):
            draw = jax.random.fold_in(negatives, ahead - 1)
            _, value, count = nce(flow[:, :-ahead, ahead - 1], ahead, draw)
            # The same weight a step as teacher forcing has, shared out over the steps.
            total += value / spec.rollout_steps
            measurements[f"info_nce_step_{ahead}"] = (value, count)
    return total, Aux(weight, variables, measurements)


def _within(batch: Sequences, ahead: int) -> jax.Array:
    """[B, S - ahead] whether the entry so many places on is of the same window."""
    segment = batch.segment
    return batch.window.mask[:, :-ahead] & (segment[:, ahead:] == segment[:, :-ahead])


def answers_loss(
    bound: FlowDecoder, batch: Sequences, queries: jax.Array, named: Mapping[str, Any], train: bool
) -> tuple[jax.Array, jax.Array]:
    """Sum of cross-entropies of the answers that are known to entries 2..S of windows, and their
    number.

    Args:
      bound: the model, bound to parameters.
      batch: windows of S entries.
      queries: [B, S, D] unit flow states; the one before an entry is asked for its answer.
      named: what the pass over the windows gave beside its states.
      train: whether dropout is on.
    """
    answers = batch.label[:, 1:]
    answered = (_within(batch, 1) & (answers != NO_LABEL)).astype(jnp.float32)
    shown = named["vectors"][batch.window.item[:, 1:]]
    scene, gap = batch.window.scene[:, 1:], batch.window.gap[:, 1:]
    past, visible = named["past"], named["visible"][:, :-1]
    logits = bound.respond(queries[:, :-1], shown, scene, gap, past, visible, train)
    return weighted_sum(cross_entropy(logits, answers), answered)


def init(model: FlowDecoder, rng, batch: Sequences, frozen):
    """Parameters; the generator has no variables."""
    inputs = jax.eval_shape(lambda: (batch.window, frozen["items"]))
    return init_params(model, rng, *inputs), {}


def make_stage(
    model: FlowDecoder,
    *,
    name: str,
    spec: FlowLoss,
    axis_name: str | None,
    plan: Any,
    optimizer: Any,
    evaluate: Callable,
    metric: str,
    config: Mapping[str, Any],
) -> Stage:
    """A stage of the generator on devices of an axis; other arguments as in Stage."""
    return Stage(
        name=name,
        init=functools.partial(init, model),
        gather=functools.partial(gather_sequences, spec.targets),
        loss_fn=functools.partial(loss, model, spec, axis_name),
        plan=plan,
        evaluate=evaluate,
        optimizer=optimizer,
        metric=metric,
        config=config,
    )
