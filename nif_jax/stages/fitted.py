"""Variants that are not trained by gradients: closed forms, and trees of another library."""

import numpy as np

from nif_jax.data import splits
from nif_jax.data.counters import Queries
from nif_jax.data.dataset import Dataset
from nif_jax.data.schema import NO_LABEL
from nif_jax.data.statistics import Statistics
from nif_jax.models.baselines.interface import Examples, FitData
from nif_jax.models.baselines.registry import baseline_class
from nif_jax.stages.context import Context
from nif_jax.variants import VARIANTS, variant_config


def fit_baseline(run: Context, name: str) -> dict | None:
    """Parameters of a variant that is not trained by gradients, None for every other one."""
    if VARIANTS[name].model == "ranker":
        return None
    config = variant_config(run.config, name)
    found = run.dataset.statistics.get(config.ranker.statistics)
    statistics = found and found.fitted
    return baseline_class(VARIANTS[name].model).fit(
        FitData(
            train=_examples(run.dataset, splits.TRAIN, statistics),
            validation=_examples(run.dataset, splits.VALIDATION, statistics),
            num_items=run.dataset.movelines.num_items,
            statistics=statistics,
            settings=config.baselines,
            seed=run.seed,
        )
    )


def _examples(data: Dataset, period: int, statistics: Statistics | None) -> Examples:
    """The labelled impressions of a period, with rolling histories."""
    lines = data.movelines
    chosen = data.trained if period == splits.TRAIN else data.split == period
    rows = np.flatnonzero(chosen & (lines.label != NO_LABEL))
    user, item, scene = lines.user[rows], lines.item[rows], lines.scene[rows]
    values = None
    if statistics is not None:
        later = np.full(len(rows), period != splits.TRAIN)
        unknown = None if lines.order_only is None else lines.order_only[rows]
        seen = data.visible[rows].astype(np.int64)
        queries = Queries(user, seen, lines.time[rows], item, scene, later, unknown)
        values = statistics.values(queries)
    profile = {name: ids[user] for name, ids in lines.user_features.items()}
    return Examples(item, scene, profile, values, lines.label[rows])
