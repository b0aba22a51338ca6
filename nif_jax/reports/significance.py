""" "differences" of results.json: each model against its references, with interval and verdict."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nif_jax.metrics import bootstrap, ctr
from nif_jax.reports.scores import Scores
from nif_jax.reports.tables import BASELINES, CONTROL, REFERENCE
from nif_jax.variants import VARIANTS

Resampled = Mapping[tuple[str, str, int], Mapping[str, np.ndarray]]
"""(model, history, seed) -> metric -> [1 + B], see metrics.bootstrap.resampled_metrics."""


def differences(
    scores: Mapping[int, Scores], split: str, *, unit: str, resamples: int
) -> list[dict[str, Any]]:
    """Each model of a run against `base`, LightGBM, the strongest baseline and its own references.

    The last are those of the variant registry (Row.against): the hybrid against its parts, an
    ablation against the whole. Raises ValueError for seeds with different impressions.

    Args:
      scores: of each seed.
      split: as in "rows" of results.json.
      unit: see metrics.bootstrap.
      resamples: how many.
    """
    if len({one.fingerprint for one in scores.values()}) > 1:
        raise ValueError(f"seeds {list(scores)} were tested on different impressions")
    models = list(dict.fromkeys(model for one in scores.values() for model in one.logits))
    references = [*dict.fromkeys((REFERENCE, CONTROL, strongest_baseline(scores)))]
    references = [name for name in references if name in models]
    pairs = [(model, other) for other in references for model in models if model != other]
    pairs += [
        (model, other)
        for model in models
        if model in VARIANTS
        for other in VARIANTS[model].against
        if other in models and other not in references
    ]
    found = resample(scores, unit=unit, resamples=resamples) if pairs else {}
    return compare(found, found, pairs, split)


def strongest_baseline(scores: Mapping[int, Scores], history: str = "frozen") -> str | None:
    """The one of BASELINES with the highest mean AUC over seeds, None where there is none.

    To choose a reference by its test score favours the reference, so it helps no claim.
    """
    found: dict[str, list[float]] = {}
    for model, one in ((model, one) for one in scores.values() for model in BASELINES):
        area = ctr.auc(one.label, one.logits[model][history]) if model in one.logits else None
        if area is not None:
            found.setdefault(model, []).append(area)
    return max(found, key=lambda model: float(np.mean(found[model])), default=None)


def resample(scores: Mapping[int, Scores], *, unit: str, resamples: int) -> Resampled:
    """Metrics of every model, history and seed on the same resamples.

    They are the same for all scores with one fingerprint, also of several workdirs.
    """
    found = {}
    for seed, one in scores.items():
        logits = {
            (model, history, seed): values
            for model, by_history in one.logits.items()
            for history, values in by_history.items()
        }
        metrics = bootstrap.resampled_metrics(
            one.label, one.user, np.stack(list(logits.values())), unit=unit, resamples=resamples
        )
        for index, key in enumerate(logits):
            found[key] = {metric: values[index] for metric, values in metrics.items()}
    return found


def compare(
    models: Resampled, references: Resampled, pairs: Sequence[tuple[str, str]], split: str
) -> list[dict[str, Any]]:
    """ "differences" of pairs (model, reference), for each history and metric.

    Seeds are those that both have. The references are resampled on the same impressions, and may
    be of another workdir.
    """
    found = []
    for model, reference in pairs:
        for history in dict.fromkeys(history for name, history, _ in models if name == model):
            seeds = [
                seed
                for name, past, seed in models
                if (name, past) == (model, history) and (reference, history, seed) in references
            ]
            for metric in bootstrap.SIGNS if seeds else ():
                sides = (
                    np.stack([side[name, history, seed][metric] for seed in seeds])
                    for side, name in ((models, model), (references, reference))
                )
                found.append(
                    {
                        "model": model,
                        "reference": reference,
                        "split": split,
                        "history": history,
                        "metric": metric,
                        "seeds": len(seeds),
                    }
                    | bootstrap.difference(metric, *sides)._asdict()
                )
    return found
