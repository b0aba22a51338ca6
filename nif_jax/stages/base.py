"""Step 1: the base ranker F_0, and what all rankers have in common."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax

from nif_jax.data.windows import Impressions, gather_impressions
from nif_jax.losses.ctr import cross_entropy, weighted_sum
from nif_jax.models.initialize import init_params
from nif_jax.models.ranker import Ranker
from nif_jax.training.stage import Aux, Stage


def gather_rows(length: int) -> Callable[[Any, Any], Impressions]:
    """(arrays, index) -> Impressions with histories of `length`."""

    def gather(arrays, index):
        return gather_impressions(arrays["store"], index, length)

    return gather


def loss(model: Ranker, params, variables, frozen, batch: Impressions, rng, step):
    """Sum of cross-entropies, see Stage.loss_fn."""
    logits, _ = model.apply(
        {"params": params}, batch, frozen["items"], train=step is not None, rngs={"dropout": rng}
    )
    total, weight = weighted_sum(cross_entropy(logits, batch.label), batch.weight)
    return total, Aux(weight, variables, {})


def predict(model: Ranker, params, variables, frozen, batch: Impressions) -> dict[str, jax.Array]:
    """{"logit", "calibration"}, [B] each."""
    del variables
    logits, named = model.apply({"params": params}, batch, frozen["items"])
    return {"logit": logits, "calibration": named["calibration"]}


def init(model: Ranker, rng: jax.Array, batch: Impressions, frozen):
    """Parameters for batches like this one; a ranker has no variables."""
    inputs = jax.eval_shape(lambda: (batch, frozen["items"]))
    return init_params(model, rng, *inputs), {}


def make_stage(
    model: Ranker,
    *,
    length: int,
    plan: Any,
    optimizer: Any,
    evaluate: Callable,
    metric: str,
    config: Mapping[str, Any],
) -> Stage:
    """The stage `base`; arguments as in Stage."""
    return Stage(
        name="base",
        init=functools.partial(init, model),
        gather=gather_rows(length),
        loss_fn=functools.partial(loss, model),
        plan=plan,
        evaluate=evaluate,
        optimizer=optimizer,
        metric=metric,
        config=config,
    )
