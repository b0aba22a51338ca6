"""What a ranker reads of the generator: flow, item vectors, and the log odds of the answer."""

import dataclasses

import jax

from nif_jax.data.windows import Impressions, gather_impressions
from nif_jax.models.flow import FlowDecoder


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
      tune: whether the generator goes on learning with the ranker, as params["generator"]; needs a
        context, because what it gives changes with every step.
    """

    use: bool
    returned: bool
    horizon: int
    context: int
    response: bool
    tune: bool = False


def gather_rows(length: int, flow: FlowSource, train: bool = False):
    """(arrays, index) -> Impressions with histories of `length` and, if used, the flow.

    For training also with arrays["response"], if the log odds of answers are cross-fitted.
    """
    context = flow.context if flow.use else 0

    def gather(arrays, index):
        cached = arrays["flow"] if flow.use and not flow.context else None
        batch = gather_impressions(arrays["store"], index, length, cached, context)
        if train and "response" in arrays:
            batch = batch._replace(response=arrays["response"][index["row"]] * batch.flow_mask)
        return batch

    return gather


def current_generator(generator: FlowDecoder | None, flow: FlowSource, params, frozen):
    """The generator's parameters and item vectors: frozen, or as they are by now (flow.tune)."""
    if not flow.tune:
        return jax.lax.stop_gradient((frozen.get("generator"), frozen.get("returned")))
    tuned = params["generator"]
    vectors = generator.apply({"params": tuned}, frozen["items"], method="vectors")
    return tuned, vectors


def with_flow(
    generator: FlowDecoder, flow: FlowSource, weights, frozen, batch: Impressions
) -> Impressions:
    """The batch with flow [B, T, D] computed from its events by a generator of these weights."""
    if batch.events is None:
        return batch
    rolled = generator.apply(
        {"params": weights},
        batch.events,
        frozen["items"],
        flow.horizon,
        1,
        method="roll_out",
    )
    return batch._replace(flow=rolled[:, 0], events=None)


def with_response(
    generator: FlowDecoder | None, flow: FlowSource, weights, vectors, batch: Impressions
) -> Impressions:
    """The batch with the generator's log odds of each row's answer; 0 without a history.

    Cross-fitted ones, which training gathers, stay.
    """
    if not flow.response or batch.response is not None:
        return batch
    response = generator.apply(
        {"params": weights},
        batch.flow[:, 0],
        vectors[batch.item],
        batch.scene,
        batch.recency,
        method="respond",
    )
    return batch._replace(response=response * batch.flow_mask)


def ranker_inputs(
    generator: FlowDecoder | None, flow: FlowSource, params, frozen, batch: Impressions
):
    """The batch with all that comes from the generator, the catalogue's features, and the item
    vectors to return to the ranker or None."""
    weights, vectors = current_generator(generator, flow, params, frozen)
    batch = with_flow(generator, flow, weights, frozen, batch)
    batch = with_response(generator, flow, weights, vectors, batch)
    return batch, frozen["items"], vectors if flow.returned else None
