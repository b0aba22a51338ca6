"""The variant `selected`: of a run's other variants the best one on validation, seed by seed.

A part that does harm on a data set is turned off by it: the candidates are the base ranker and what
adds flow, TSP or cohorts, and test scores are not looked at. Ours, not the papers'.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from nif_jax.data.schema import require_choice
from nif_jax.variants import NOT_SELECTED, SELECTED

METRICS = {
    "train": ("auc", "gauc", "gauc_positives", "ndcg@5", "rank"),
    "pretrain": ("quality", "hr@10", "hr@50", "ndcg@10", "ndcg@50", "mrr", "label_auc"),
    "tokenize": ("r2", "usage"),
}
"""section -> validation metrics that its stages can be chosen by; more is better of each."""


def require_metrics(config: ConfigDict) -> None:
    """Raises ConfigError for a metric that no stage of its section can be chosen by."""
    for section, metrics in METRICS.items():
        if section in config:
            require_choice(f"{section}.metric", config[section].metric, metrics)


def validation_metrics(config: ConfigDict, stages: Mapping[str, Any]) -> dict[str, float]:
    """variant -> config.train.metric on validation, of those that `selected` is chosen among.

    Args:
      config: of the run.
      stages: variant -> Trained.
    """
    names = dict.fromkeys(name for name in config.rows if name not in NOT_SELECTED)
    return {name: stages[name].metrics[config.train.metric] for name in names}


def select(config: ConfigDict, stages: Mapping[str, Any]) -> str:
    """The variant with the best metric; of equal ones the first in config.rows.

    Variants whose calibrated log loss on validation is worse than the base's are left out: a better
    order of the impressions is not worth worse probabilities. If no candidate is left (the base
    need not be one), the metric decides among all.
    """
    found = validation_metrics(config, stages)
    limit = stages["base"].calibration.log_loss
    fair = [name for name in found if stages[name].calibration.log_loss <= limit]
    return max(fair or found, key=found.__getitem__)


def record(config: ConfigDict, seed: int, stages: Mapping[str, Any]) -> dict[str, Any]:
    """A seed's entry of "selection" in results.json."""
    return {
        "seed": seed,
        "selected": stages[SELECTED].name,
        "metric": config.train.metric,
        "validation": validation_metrics(config, stages),
    }
