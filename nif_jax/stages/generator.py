"""Step 2: pre-training G_phi to predict the Next Interest Flow."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nif_jax.data.schema import NO_LABEL, ConfigError, require_choice
from nif_jax.data.windows import Array, Store, Window, gap_bucket, gather_segments
from nif_jax.losses import contrastive
from nif_jax.losses.ctr import cross_entropy, weighted_sum
from nif_jax.losses.flow import DIVERSITY, VELOCITY, diversity, velocity
from nif_jax.models.flow import FlowDecoder, unit
from nif_jax.models.initialize import init_params
from nif_jax.training.stage import Aux, Stage


class Asked(NamedTuple):
    """Impressions whose answers are learned at an entry: its own, and those sampled for it.

    Attributes:
      item: [B, S, 1 + n] int32.
      scene: [B, S, 1 + n] int32.
      gap: [B, S, 1 + n] int32 bucket of the time since the entry before.
      label: [B, S, 1 + n] float32, 1 or 0, NO_LABEL where the answer is not known or not to be
        learned.
    """

    item: Array
    scene: Array
    gap: Array
    label: Array


class Sequences(NamedTuple):
    """A batch of moveline windows, one or several side by side in a row.

    Attributes:
      window: Window [B, S], gap = time since the entry before.
      segment: [B, S] int32, which window of its row an entry belongs to; 0 is padding.
      seconds: [B, S] int32 time of each entry.
      in_train: [B, S] bool, the entry belongs to the train period.
      is_target: [B, S] bool, the entry is to be predicted: those of the train period, or the
        positive ones of them.
      asked: Asked, whose first impressions are the entries themselves.
    """

    window: Window
    segment: Array
    seconds: Array
    in_train: Array
    is_target: Array
    asked: Asked


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


def gather_sequences(
    targets: str, sampled: int, arrays, index: Mapping[str, Array]
) -> Sequences:
    """Windows from "entry" and "segment" [B, S], see SequencePlan, where n impressions were sampled
    for each event (config.data.negatives)."""
    store, entry, segment = arrays["store"], index["entry"], index["segment"]
    row = store.history_row[entry]
    window, seconds = gather_segments(store, entry, segment)
    in_train = window.mask & store.train[row]
    asked = _gather_asked(store, entry, in_train, sampled)
    is_target = in_train & (asked.label[..., 0] > 0) if targets == "positive" else in_train
    return Sequences(window, segment, seconds, in_train, is_target, asked)


def _gather_asked(store: Store, entry: Array, in_train: Array, sampled: int) -> Asked:
    """Impressions of entries [B, S]: sampled ones stand right before their event, and in no
    history."""
    xp = entry.__array_namespace__()
    back = xp.arange(1 + sampled, dtype=xp.int32)
    row = store.history_row[entry][..., None] - back
    before = store.history_row[xp.maximum(entry - 1, 0)][..., None]
    # An event for which fewer were found has others right before it.
    known = in_train[..., None] & ((row > before) | (back == 0))
    gap = gap_bucket(store.time[row] - store.time[before])
    label = xp.where(known, store.label[row], NO_LABEL)
    return Asked(store.item[row], store.scene[row], gap, label)


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
        value = info_nce(
            spec,
            queries,
            table,
            batch.window.item[:, ahead:],
            mask,
            frozen["frequency"],
            rng,
            axis_name,
        )
        return mask, value, mask.sum()

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
        # Answers are learned from every event, and from what was sampled for it. Where targets are
        # fewer, all is divided by less: the head keeps the share that it has where every event is
        # a target and is asked once.
        events = (_within(batch, 1) & batch.in_train[:, 1:]).sum(dtype=jnp.float32)
        asked = events * batch.asked.label.shape[-1]
        total += spec.response * value * (weight / jnp.maximum(asked, 1.0))
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
    """Sum of cross-entropies of the answers that are known at entries 2..S of windows, and their
    number.

    Args:
      bound: the model, bound to parameters.
      batch: windows of S entries.
      queries: [B, S, D] unit flow states; the one before an entry is asked for its answer.
      named: what the pass over the windows gave beside its states.
      train: whether dropout is on.
    """
    many = batch.asked.label.shape[-1]
    # Questions [B, (S - 1)(1 + n)]: the impressions of an entry ask the same state.
    asked = jax.tree.map(lambda x: x[:, 1:].reshape(len(x), -1), batch.asked)
    states = jnp.repeat(queries[:, :-1], many, axis=1)
    visible = jnp.repeat(named["visible"][:, :-1], many, axis=1)
    answered = jnp.repeat(_within(batch, 1), many, axis=1) & (asked.label != NO_LABEL)
    shown = named["vectors"][asked.item]
    logits = bound.respond(states, shown, asked.scene, asked.gap, named["past"], visible, train)
    return weighted_sum(cross_entropy(logits, asked.label), answered.astype(jnp.float32))


def init(model: FlowDecoder, rng, batch: Sequences, frozen):
    """Parameters; the generator has no variables."""
    inputs = jax.eval_shape(lambda: (batch.window, frozen["items"]))
    return init_params(model, rng, *inputs), {}


def make_stage(
    model: FlowDecoder,
    *,
    name: str,
    spec: FlowLoss,
    sampled: int,
    axis_name: str | None,
    plan: Any,
    optimizer: Any,
    evaluate: Callable,
    metric: str,
    config: Mapping[str, Any],
) -> Stage:
    """A stage of the generator on devices of an axis; `sampled` as in gather_sequences, other
    arguments as in Stage."""
    return Stage(
        name=name,
        init=functools.partial(init, model),
        gather=functools.partial(gather_sequences, spec.targets, sampled),
        loss_fn=functools.partial(loss, model, spec, axis_name),
        plan=plan,
        evaluate=evaluate,
        optimizer=optimizer,
        metric=metric,
        config=config,
    )
