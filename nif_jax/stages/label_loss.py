"""The generator's loss of labels, which its label head predicts (method.md, 1.2)."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from nif_jax.data.schema import NO_LABEL
from nif_jax.losses.ctr import cross_entropy, weighted_sum
from nif_jax.models.flow import FlowDecoder
from nif_jax.stages.flow_loss import FlowLoss
from nif_jax.stages.sequences import Sequences, within


def label_reader(spec: FlowLoss, bound: FlowDecoder, states, named: Mapping[str, Any]):
    """Model, flow states and intermediates that the label loss reads.

    With label_gradient="head" no gradient of it reaches any parameter but those of the label head:
    the flow is then trained by InfoNCE, diversity and velocity only.
    """
    if spec.label_gradient == "generator":
        return bound, states, named
    module, bindings = bound.unbind()
    fixed = jax.lax.stop_gradient({"variables": bindings, "states": states, "named": named})
    params = fixed["variables"]["params"] | {"responder": bindings["params"]["responder"]}
    reader = module.bind({"params": params}, rngs={"dropout": bound.make_rng("dropout")})
    given = fixed["named"]
    return reader, fixed["states"], given | {"past": reader.past(given["states"])}


def label_loss(
    batch: Sequences, reader: tuple[FlowDecoder, jax.Array, Mapping[str, Any]], train: bool
) -> tuple[jax.Array, jax.Array]:
    """Sum of cross-entropies of the labels that are known at entries 2..S of windows, and their
    number.

    Args:
      batch: windows of S entries.
      reader: the model, bound to parameters; [B, S, D] unit flow states, of which the one before an
        entry predicts its label; and what the pass over the windows gave beside its states.
      train: whether dropout is on.
    """
    bound, states, named = reader
    many = batch.label_queries.label.shape[-1]
    # [B, (S - 1)(1 + n)]: all impressions of an entry are predicted from the same state.
    queries = jax.tree.map(lambda x: x[:, 1:].reshape(len(x), -1), batch.label_queries)
    before = jnp.repeat(states[:, :-1], many, axis=1)
    visible = jnp.repeat(named["visible"][:, :-1], many, axis=1)
    labelled = jnp.repeat(within(batch, 1), many, axis=1) & (queries.label != NO_LABEL)
    shown = named["vectors"][queries.item]
    logits = bound.label_logits(
        before, shown, queries.scene, queries.gap, named["past"], visible, train
    )
    return weighted_sum(cross_entropy(logits, queries.label), labelled.astype(jnp.float32))
