"""Step 1: the base ranker F_0."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from nif_jax.data.sampling import ImpressionPlan
from nif_jax.data.windows import Impressions, gather_impressions
from nif_jax.losses.ctr import cross_entropy, weighted_sum
from nif_jax.models.baselines.interface import Baseline
from nif_jax.models.embed import ItemEmbed
from nif_jax.models.flow import unit
from nif_jax.models.initialize import init_params
from nif_jax.models.ranker import Ranker
from nif_jax.stages.candidates import for_candidates
from nif_jax.stages.context import Context
from nif_jax.stages.ranking import make_ranker, make_ranking_stage, statistics_arrays
from nif_jax.stages.step_counts import per_device
from nif_jax.training.stage import Aux, Stage


def gather_rows(length: int) -> Callable[[Any, Any], Impressions]:
    """(arrays, index) -> Impressions with histories of `length`."""

    def gather(arrays, index):
        return gather_impressions(
            arrays["store"], index, length, statistics=arrays.get("statistics")
        )

    return gather


def loss(model: Ranker | Baseline, params, variables, constants, batch: Impressions, rng, step):
    """Sum of cross-entropies, see Stage.loss_fn."""
    logits, _ = model.apply(
        {"params": params}, batch, constants["items"], train=step is not None, rngs={"dropout": rng}
    )
    total, weight = weighted_sum(cross_entropy(logits, batch.label), batch.weight)
    return total, Aux(weight, variables, {})


def predict(
    model: Ranker | Baseline, params, variables, constants, batch: Impressions
) -> dict[str, jax.Array]:
    """{"logit", "calibration"}, [B] each."""
    del variables
    logits, named = model.apply({"params": params}, batch, constants["items"])
    return {"logit": logits, "calibration": named["calibration"]}


def predict_candidates(
    model: Ranker | Baseline,
    params,
    variables,
    constants,
    batch: Impressions,
    candidates: jax.Array,
    owner: jax.Array | None = None,
) -> dict[str, jax.Array]:
    """What `predict` gives, [C], of candidates; see `for_candidates`."""
    many = for_candidates(batch, candidates, owner)
    return predict(model, params, variables, constants, many)


def init(model: Ranker | Baseline, rng: jax.Array, batch: Impressions, constants):
    """Parameters for batches like this one; a ranker has no variables."""
    inputs = jax.eval_shape(lambda: (batch, constants["items"]))
    return init_params(model, rng, *inputs), {}


def make(run: Context) -> Stage:
    """The stage `base`."""
    run = run.for_stage("base")
    model = make_ranker(run)
    gather = gather_rows(run.config.data.history_length)
    return make_ranking_stage(
        run,
        "base",
        init=functools.partial(init, model),
        gather=gather,
        loss_fn=functools.partial(loss, model),
        predict=functools.partial(predict, model),
        gather_scores=gather,
        plan=ImpressionPlan(run.dataset, per_device(run, run.config.train), run.seed),
        data=run.place(statistics_arrays(run)),
        predict_candidates=functools.partial(predict_candidates, model),
    )


def item_vectors(run: Context, base_params: Any) -> np.ndarray:
    """[N + 1, D] unit item vectors of the base ranker, the control of the generator's."""
    model = ItemEmbed(dict(run.dataset.item_sizes), run.config.ranker.dim)
    table = jax.jit(functools.partial(model.apply, method="table"))
    return np.asarray(unit(table({"params": base_params["items"]}, run.items)))
