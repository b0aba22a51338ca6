"""What a ranker reads of the generator: flow, item vectors, and the label logit."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from nif_jax.data.windows import Impressions, gather_impressions, gather_past
from nif_jax.metrics.blend import mean_logit
from nif_jax.models.flow import FlowDecoder
from nif_jax.stages.outputs import GeneratorOutputs


@dataclasses.dataclass(frozen=True)
class FlowInput:
    """Where a ranker's flow comes from; by default from nowhere.

    Attributes:
      use: whether the alignment attends to a flow.
      add_item_emb: whether the generator's item vectors, constants["generator_item_emb"], are
        projected and added.
      horizon: T.
      context: S of the generator's window.
      cache: whether flow and past are read from arrays["flow"] and arrays["past"], made once by
        nif_jax.flows, instead of being computed in the step.
      label_head: what the generator's label logit is used for: "blend" averages it with the
        ranker's logit, "input" gives it to the ranker, "none" does neither.
      tune: whether the generator goes on learning with the ranker, as params["generator"]; needs
        cache=False, because what it gives changes with every step.
    """

    use: bool = False
    add_item_emb: bool = False
    horizon: int = 0
    context: int = 0
    cache: bool = False
    label_head: str = "none"
    tune: bool = False

    def uses_label_head(self, train: bool) -> bool:
        """Whether the label head is needed; training does not need logits that are blended."""
        return self.label_head == "input" or (self.label_head == "blend" and not train)


def configured(config: ConfigDict, use: bool) -> FlowInput:
    """The flow that a variant with this config reads, none unless `use`."""
    if not use:
        return FlowInput()
    return FlowInput(
        use=True,
        add_item_emb=config.flow.generator_item_emb == "add",
        horizon=config.flow.horizon,
        context=config.pretrain.context,
        cache=config.flow.cache,
        label_head=config.flow.label_head,
        tune=config.flow.tune,
    )


def flow_arrays(flow: FlowInput, outputs: GeneratorOutputs) -> dict[str, Any]:
    """What a ranker with this flow gathers rows from, beside the store; see `gather_rows`."""
    arrays: dict[str, Any] = {}
    if flow.use and outputs.flow is not None:
        arrays["flow"] = outputs.flow
        if flow.label_head != "none":
            arrays["past"] = outputs.past
    if outputs.label_logit is not None and flow.label_head == "input":
        arrays["label_logit"] = outputs.label_logit
    return arrays


def gather_rows(length: int, flow: FlowInput, train: bool = False):
    """(arrays, index) -> Impressions with histories of `length` and, as far as used, the flow and
    the keys and values of the label head.

    For training also with arrays["label_logit"], if label logits are cross-fitted.
    """
    context = 0 if flow.cache else flow.context

    def numbers(cached):  # a cache may have shorter ones than the model computes with
        return cached.astype(cached.__array_namespace__().float32, copy=False)

    def gather(arrays, index):
        store, cached = arrays["store"], arrays["flow"] if flow.cache else None
        statistics = arrays.get("statistics")
        batch = gather_impressions(store, index, length, cached, context, statistics)
        if cached is not None:
            batch = batch._replace(flow=numbers(batch.flow))
        if flow.cache and flow.uses_label_head(train):
            past, mask = gather_past(store, index, arrays["past"], flow.context)
            batch = batch._replace(past=numbers(past), past_mask=mask)
        if train and "label_logit" in arrays:
            batch = batch._replace(
                label_logit=arrays["label_logit"][index["row"]] * batch.flow_mask
            )
        return batch

    return gather


def current_generator(generator: FlowDecoder | None, flow: FlowInput, params, constants):
    """The generator's parameters and item vectors: constants, or as they are by now (flow.tune).

    constants["tuned_item_emb"], if given, are the vectors of a tuned generator (see prepared.py).
    """
    if not flow.tune:
        return jax.lax.stop_gradient(
            (constants.get("generator"), constants.get("generator_item_emb"))
        )
    assert generator is not None
    tuned, vectors = params["generator"], constants.get("tuned_item_emb")
    if vectors is None:
        vectors = generator.bind({"params": tuned}).vectors(constants["items"])
    return tuned, vectors


def with_flow(
    generator: FlowDecoder | None, flow: FlowInput, weights, vectors, constants, batch: Impressions
) -> Impressions:
    """The batch with flow [B, T, D] and past computed from its events by a generator of these
    weights and item vectors."""
    if batch.events is None:
        return batch
    assert generator is not None
    bound = generator.bind({"params": weights})
    rolled, past = bound.roll_out(batch.events, constants["items"], flow.horizon, 1, vectors)
    mask = batch.events.mask
    return batch._replace(flow=rolled[:, 0], past=past, past_mask=mask, events=None)


def label_logits(generator: FlowDecoder | None, weights, vectors, batch: Impressions) -> jax.Array:
    """[B] the generator's log odds that a row's label is 1, by the flow's first state and the
    past; of no meaning where there is no history."""
    assert generator is not None
    assert batch.flow is not None and batch.past is not None and batch.past_mask is not None
    bound = generator.bind({"params": weights})
    return bound.next_label_logits(batch.flow[:, 0], vectors, batch, batch.past, batch.past_mask)


def with_label_logit(
    generator: FlowDecoder | None, flow: FlowInput, weights, vectors, batch: Impressions
) -> Impressions:
    """The batch with the generator's log odds, 0 without a history, if the ranker reads them.

    Cross-fitted ones, which training gathers, stay.
    """
    if flow.label_head != "input" or batch.label_logit is not None:
        return batch
    found = label_logits(generator, weights, vectors, batch)
    return batch._replace(label_logit=found * batch.flow_mask)


def final_scores(
    generator: FlowDecoder | None, flow: FlowInput, params, variables, constants, batch, logits
) -> dict[str, jax.Array]:
    """{"logit"} [B], the final log odds of a batch with its flow, from the ranker's.

    If the label head is blended, variables["blend_weight"] is its weight, and both logits are
    returned as well: "ranker", and "label_head", which equals the ranker's where there is no
    history. The mean is taken after training, with one weight chosen on validation. The generator
    was trained on the labels of the ranker's training rows, so a ranker that reads its logits in
    training gives them too much weight.
    """
    if flow.label_head != "blend":
        return {"logit": logits}
    weights, vectors = current_generator(generator, flow, params, constants)
    label_logit = label_logits(generator, weights, vectors, batch)
    label_logit = jnp.where(batch.flow_mask, label_logit, logits)
    logit = mean_logit(logits, label_logit, variables["blend_weight"])
    return {"logit": logit, "ranker": logits, "label_head": label_logit}


def ranker_inputs(
    generator: FlowDecoder | None, flow: FlowInput, params, constants, batch: Impressions
):
    """The batch with all that comes from the generator, the catalogue's features, and the item
    vectors to add to the ranker's or None."""
    weights, vectors = current_generator(generator, flow, params, constants)
    batch = with_flow(generator, flow, weights, vectors, constants, batch)
    batch = with_label_logit(generator, flow, weights, vectors, batch)
    return batch, constants["items"], vectors if flow.add_item_emb else None
