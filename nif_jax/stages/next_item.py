"""What the generator predicts for a row: the rank of its item, and its label."""

from typing import Any, NamedTuple

import jax

from nif_jax.data.windows import Array, Window, gather_impressions
from nif_jax.metrics.retrieval import target_ranks
from nif_jax.models.flow import FlowDecoder, unit


class Next(NamedTuple):
    """What comes next, and what is known before: the input of `rank_next`.

    Attributes:
      events: Window [B, S] before each row.
      item: [B] the row's.
      seen: [B, L] items that the user has had, or None.
      scene: [B] the row's.
      recency: [B] gap bucket from the last event to the row.
    """

    events: Window
    item: Array
    seen: Array | None
    scene: Array
    recency: Array


def gather_next(context: int, exclude: int, arrays, index) -> Next:
    """What comes next, with `context` events before it, and the last `exclude` items as seen."""
    batch = gather_impressions(arrays["store"], index, max(exclude, 1), context=context)
    seen = batch.history.item if exclude else None
    assert batch.events is not None  # context is at least 1
    return Next(batch.events, batch.item, seen, batch.scene, batch.recency)


def rank_next(
    model: FlowDecoder, params, variables, constants, batch: Next
) -> dict[str, jax.Array]:
    """{"rank": [B]} of the item that came next, among the catalogue, by the flow's first state; and
    {"label_logit": [B]}, the log odds that its label is 1.

    Items in the user's past do not count, if they were gathered; for models without a past (an
    empty window) the state is arbitrary, and so is the rank.
    """
    del variables
    queries, vectors, label_logit = _before(model, params, constants, batch)
    # A padded id becomes -1, which excludes nothing.
    seen = None if batch.seen is None else batch.seen - 1
    return {
        "rank": target_ranks(queries, vectors[1:], batch.item - 1, seen),
        "label_logit": label_logit,
    }


def label_next(
    model: FlowDecoder, params, variables, constants, batch: Next
) -> dict[str, jax.Array]:
    """{"label_logit": [B]} of `rank_next`, without ranking the catalogue."""
    del variables
    return {"label_logit": _before(model, params, constants, batch)[2]}


def prepare(model: FlowDecoder, params, variables, constants) -> dict[str, Any]:
    """{"vectors": [N + 1, D]} of the catalogue, a constant of all batches; see Scorer."""
    del variables
    return {"vectors": model.bind({"params": params}).vectors(constants["items"])}


def _before(model: FlowDecoder, params, constants, batch: Next):
    """Unit flow states [B, D] before each row, the catalogue's vectors, and log odds [B]."""
    bound = model.bind({"params": params})
    heads, named = bound(batch.events, constants["items"], vectors=constants.get("vectors"))
    queries = unit(heads[:, -1].reshape(len(batch.item), -1))
    vectors, mask = named["vectors"], batch.events.mask
    label_logit = bound.next_label_logits(queries, vectors, batch, named["past"], mask)
    return queries, vectors, label_logit


def rank_by_mean(constants, batch: Next) -> dict[str, jax.Array]:
    """The same by the mean of the history's unit vectors, constants["vectors"] [N + 1, D]."""
    vectors = constants["vectors"]
    mean = (vectors[batch.events.item] * batch.events.mask[..., None]).sum(1)
    seen = None if batch.seen is None else batch.seen - 1
    return {"rank": target_ranks(mean, vectors[1:], batch.item - 1, seen)}
