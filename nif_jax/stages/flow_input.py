"""What a ranker reads of the generator: flow, item vectors, and the log odds of the answer."""

import dataclasses

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from nif_jax.data.windows import Impressions, gather_impressions, gather_past
from nif_jax.metrics.mix import mean_logit
from nif_jax.models.flow import FlowDecoder


@dataclasses.dataclass(frozen=True)
class FlowInput:
    """Where a ranker's flow comes from; by default from nowhere.

    Attributes:
      use: whether the alignment attends to a flow.
      returned: whether constants["returned"], the generator's item vectors, is projected and added.
      horizon: T.
      context: S of the generator's window.
      cache: whether flow and past are read from arrays["flow"] and arrays["past"], made once by
        nif_jax.flows, instead of being computed in the step.
      response: what becomes of the generator's log odds of the answer: "mix" with the ranker's,
        "input" of the ranker, or "none".
      tune: whether the generator goes on learning with the ranker, as params["generator"]; needs
        cache=False, because what it gives changes with every step.
    """

    use: bool = False
    returned: bool = False
    horizon: int = 0
    context: int = 0
    cache: bool = False
    response: str = "none"
    tune: bool = False

    def asks(self, train: bool) -> bool:
        """Whether the response head is asked: mixed answers are for scoring alone."""
        return self.response == "input" or (self.response == "mix" and not train)


def configured(config: ConfigDict, use: bool) -> FlowInput:
    """The flow that a variant with this config reads, none unless `use`."""
    if not use:
        return FlowInput()
    return FlowInput(
        use=True,
        returned=config.flow.returned == "add",
        horizon=config.flow.horizon,
        context=config.pretrain.context,
        cache=config.flow.cache,
        response=config.flow.response,
        tune=config.flow.tune,
    )


def gather_rows(length: int, flow: FlowInput, train: bool = False):
    """(arrays, index) -> Impressions with histories of `length` and, as far as used, the flow and
    what the response head asks.

    For training also with arrays["response"], if the log odds of answers are cross-fitted.
    """
    context = 0 if flow.cache else flow.context

    def gather(arrays, index):
        store, cached = arrays["store"], arrays["flow"] if flow.cache else None
        statistics = arrays.get("statistics")
        batch = gather_impressions(store, index, length, cached, context, statistics)
        if flow.cache and flow.asks(train):
            past, mask = gather_past(store, index, arrays["past"], flow.context)
            batch = batch._replace(past=past, past_mask=mask)
        if train and "response" in arrays:
            batch = batch._replace(response=arrays["response"][index["row"]] * batch.flow_mask)
        return batch

    return gather


def current_generator(generator: FlowDecoder | None, flow: FlowInput, params, constants):
    """The generator's parameters and item vectors: constants, or as they are by now (flow.tune)."""
    if not flow.tune:
        return jax.lax.stop_gradient((constants.get("generator"), constants.get("returned")))
    tuned = params["generator"]
    vectors = generator.apply({"params": tuned}, constants["items"], method="vectors")
    return tuned, vectors


def with_flow(
    generator: FlowDecoder, flow: FlowInput, weights, constants, batch: Impressions
) -> Impressions:
    """The batch with flow [B, T, D] and past computed from its events by a generator of these
    weights."""
    if batch.events is None:
        return batch
    rolled, past = generator.apply(
        {"params": weights},
        batch.events,
        constants["items"],
        flow.horizon,
        1,
        method="roll_out",
    )
    mask = batch.events.mask
    return batch._replace(flow=rolled[:, 0], past=past, past_mask=mask, events=None)


def respond(generator: FlowDecoder, weights, vectors, batch: Impressions) -> jax.Array:
    """[B] the generator's log odds that a row's answer is 1, by the flow's first state and the
    past; of no meaning where there is no history."""
    return generator.apply(
        {"params": weights},
        batch.flow[:, 0],
        vectors,
        batch,
        batch.past,
        batch.past_mask,
        method="respond_next",
    )


def with_response(
    generator: FlowDecoder | None, flow: FlowInput, weights, vectors, batch: Impressions
) -> Impressions:
    """The batch with the generator's log odds, 0 without a history, if the ranker reads them.

    Cross-fitted ones, which training gathers, stay.
    """
    if flow.response != "input" or batch.response is not None:
        return batch
    found = respond(generator, weights, vectors, batch)
    return batch._replace(response=found * batch.flow_mask)


def final_scores(
    generator: FlowDecoder | None, flow: FlowInput, params, variables, constants, batch, logits
) -> dict[str, jax.Array]:
    """{"logit"} [B], the final log odds of a batch with its flow, from the ranker's.

    Where they are mixed, with variables["mix"] as the weight of the generator's, also what of:
    "ranker", and "response", which is the ranker's too where there is no history. The mean is taken
    late, with one number that validation chooses, since the generator has learned the answers to
    the rows that rankers train on: one that reads them there trusts them too much elsewhere.
    """
    if flow.response != "mix":
        return {"logit": logits}
    weights, vectors = current_generator(generator, flow, params, constants)
    response = respond(generator, weights, vectors, batch)
    response = jnp.where(batch.flow_mask, response, logits)
    logit = mean_logit(logits, response, variables["mix"])
    return {"logit": logit, "ranker": logits, "response": response}


def ranker_inputs(
    generator: FlowDecoder | None, flow: FlowInput, params, constants, batch: Impressions
):
    """The batch with all that comes from the generator, the catalogue's features, and the item
    vectors to return to the ranker or None."""
    weights, vectors = current_generator(generator, flow, params, constants)
    batch = with_flow(generator, flow, weights, constants, batch)
    batch = with_response(generator, flow, weights, vectors, batch)
    return batch, constants["items"], vectors if flow.returned else None
