"""The bounds of a data set whose law is known: what no model beats in expectation.

Both bounds know the users' true interests at the moment of the event, which a model has to infer
from a noisy past, so a model that uses its input perfectly stays below them too.
"""

import functools
from collections.abc import Mapping

import numpy as np

from nif_jax.data import sources
from nif_jax.data.simulator import World, sigmoid
from nif_jax.metrics import ctr, retrieval
from nif_jax.stages import next_item
from nif_jax.stages.context import Context
from nif_jax.training.scoring import Scorer, ScoringPlan

BAYES = "bayes"
"""What tables call the bound."""
_CHUNK = 32  # rows whose next-item law is held at once


def load_world(run: Context) -> World:
    """The law of the run's data; raises DataError where it is not known."""
    config = run.config
    return sources.world(
        config.data.source, run.dataset.movelines, seed=config.data.seed, **config.source
    )


def ranking_metrics(run: Context, plan: ScoringPlan) -> dict[str, float | None] | None:
    """metrics.ctr.evaluate of the true log odds of a plan's rows; None where they are not known."""
    lines = run.dataset.movelines
    if lines.truth is None:
        return None
    rows = plan.rows
    return ctr.evaluate(lines.label[rows], lines.truth[rows], lines.user[rows])


def next_item_ranks(run: Context, plan: ScoringPlan, context: int) -> Mapping[str, np.ndarray]:
    """What comes next, in the order of the true law; {} where that is not known.

    The order has the highest expected HR@k and NDCG@k of all that do not know the item: by
    P(i | interests, scene, time) for "all" targets, by that times the click's probability for
    "positive" ones; exact but for a quadrature error of about 1e-6. As for models, the last
    `context` items of the user do not count.

    Returns:
      {"all", "positive"} -> [R] rank of each row's item; a positive row is ranked in both orders.
    """
    lines, source = run.dataset.movelines, run.config.data.source
    if lines.truth is None or sources.find(source).world is None:
        return {}
    world, rows = load_world(run), plan.rows

    def past(params, variables, constants, batch):
        del params, variables, constants
        return {"seen": batch[2]}

    gather = functools.partial(next_item.gather_next, context, context)
    nothing = run.parallel.replicate(({}, {}))
    seen = Scorer(past, gather, run.place(), run.parallel)(plan, *nothing)["seen"]
    user, scene, time = lines.user[rows], lines.scene[rows] - 1, lines.time[rows]
    items = np.arange(lines.num_items)[None]
    ranks: dict[str, list[np.ndarray]] = {"all": [], "positive": []}
    for start in range(0, len(rows), _CHUNK):
        part = slice(start, start + _CHUNK)
        at = user[part], scene[part], time[part]
        shown = world.next_item(*at)
        clicked = shown * sigmoid(world.log_odds(*at, np.repeat(items, len(shown), axis=0)))
        for targets, law in (("all", shown), ("positive", clicked)):
            found = retrieval.ranks_from_scores(law, lines.item[rows[part]] - 1, seen[part] - 1)
            ranks[targets].append(np.asarray(found))
    return {targets: np.concatenate(found) for targets, found in ranks.items()}
