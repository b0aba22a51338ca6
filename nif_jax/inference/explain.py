"""What a score was made of: attention weights, flow, count features, generated items.

Letters: R candidates, L history, T states of the flow, H heads, D width.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from scipy.special import softmax

from nif_jax.models.align import SemanticAlignment
from nif_jax.models.ranker import TargetAttention
from nif_jax.requests.encode import Encoded
from nif_jax.requests.log import lay_out
from nif_jax.requests.numbered import Numbered

if TYPE_CHECKING:
    from nif_jax.inference.model import RunModel

NEAREST = 5
"""Items that are named for each state of the flow."""


class Explanation(NamedTuple):
    """Of one request with R candidates.

    Attributes:
      item_id: [R] the candidates; logit: [R] calibrated log odds.
      history: [n] ids of the last n events, n at most L.
      attention: [R, n] weights of these events in the ranker's interest, which do not add up to 1
        and may be negative; None for a variant without this attention.
      flow_attention: [R, T] weights of the flow's states, the mean over heads, which add up to 1;
        None without a flow, or without a history.
      nearest: for each state of the flow, ids of the items nearest to it and their cosines.
      statistics: count feature -> [R] values in standard deviations from the mean of train.
      generated: ids of the items that beam search gives, likeliest first; they name the cohorts.
    """

    item_id: list[str]
    logit: np.ndarray
    history: list[str]
    attention: np.ndarray | None
    flow_attention: np.ndarray | None
    nearest: list[list[tuple[str, float]]]
    statistics: Mapping[str, np.ndarray]
    generated: list[str]


def explain(model: "RunModel", requests: Numbered) -> Explanation:
    """See RunModel.explain, for one numbered request."""
    lines = lay_out(model.encoder.log, requests)
    encoded = model.encoder.encode(requests, lines)
    mask = encoded.batch.history.mask[0]
    count, names = len(model.vocabulary.item), model.vocabulary.item_names.copy()
    names[count] = "an unknown item"
    logit, seen = _record(model, encoded)
    attention = flow_attention = None
    if "interest" in seen:
        attention = seen["interest"][:, mask]
    known, nearest = bool(mask.any()), []
    if model.functions.generator is not None and known:
        flow_attention = seen["flow"]
        vectors = np.asarray(model.item_vectors)[1 : count + 1]
        for state in model.flows_of(lines)[0]:
            cosine = vectors @ state
            best = np.argsort(-cosine)[:NEAREST]
            nearest.append([(names[item], float(cosine[item])) for item in best])
    generated: list[str] = []
    if model.functions.cohorts.beams and known:
        history, width = encoded.batch.history, model.functions.cohorts.beams
        items = np.asarray(model.functions.generate(model.arrays, history, width))[0]
        generated = list(names[items[items > 0] - 1])
    values = encoded.statistics
    columns = () if model.encoder.statistics is None else model.encoder.statistics.names
    return Explanation(
        item_id=requests.candidate.to_pylist(),
        logit=model.calibration(logit),
        history=list(names[encoded.batch.history.item[0][mask] - 1]),
        attention=attention,
        flow_attention=flow_attention,
        nearest=nearest,
        statistics={} if values is None else dict(zip(columns, values.T, strict=True)),
        generated=generated,
    )


def _record(model: "RunModel", encoded: Encoded) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Logits, and the weights "interest" [R, L] and "flow" [R, T] as far as there are any."""
    seen: dict[str, Any] = {}

    def keep(call: Callable, args, kwargs, context: nn.module.InterceptorContext):
        found, module = call(*args, **kwargs), context.module
        if isinstance(module.parent, TargetAttention) and module.name == "score":
            seen["interest"] = np.asarray(found)[..., 0]
        if isinstance(module.parent, SemanticAlignment) and module.name in ("query", "key"):
            seen[module.name] = found
        if isinstance(module, SemanticAlignment):
            step: Any = module.get_variable("params", "step")
            seen["flow"] = _weights(seen["query"], seen["key"] + step, module.heads)
        return found

    with nn.intercept_methods(keep):
        score: Callable[..., jax.Array] = model.functions.score
        logit = score(model.arrays, *encoded)
    return np.asarray(logit), seen


def _weights(query: jax.Array, key: jax.Array, heads: int) -> np.ndarray:
    """[R, T] mean over heads of the attention of queries [R, D] over keys [R, T, D]."""
    query, key = (np.asarray(x).reshape(*x.shape[:-1], heads, -1) for x in (query, key))
    scores = np.einsum("rhd,rthd->rht", query, key) * query.shape[-1] ** -0.5
    return softmax(scores, axis=-1).mean(1)
