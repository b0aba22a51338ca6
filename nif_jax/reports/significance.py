""""differences" of results.json: each model against its references, with interval and verdict."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nif_jax.metrics import bootstrap, ctr
from nif_jax.reports.scores import Scores
from nif_jax.reports.tables import BASELINES, REFERENCE
from nif_jax.variants import VARIANTS

Resampled = Mapping[tuple[str, str, int], Mapping[str, np.ndarray]]
"""(model, history, seed) -> metric -> [1 + B], see metrics.bootstrap.resampled_metrics."""


def differences(
    scores: Mapping[int, Scores], split: str, *, unit: str, resamples: int
) -> list[dict[str, Any]]:
    """Each model of a run against `base`, the strongest of BASELINES, and the rows that it names
    (Row.against): the hybrid against its parts, an ablation against the whole.

    Strongest is the one with the highest mean AUC on these very impressions. To choose an opponent
    by its test score favours the opponent, so no claim is helped by it.

    Args:
      scores: of each seed.
      split: as in "rows" of results.json.
      unit: see metrics.bootstrap.
      resamples: how many.

    Raises:
      ValueError: seeds with different impressions.
    """
    if len({one.fingerprint for one in scores.values()}) > 1:
        raise ValueError(f"seeds {list(scores)} were tested on different impressions")
    models = list(dict.fromkeys(model for one in scores.values() for model in one.logits))
    references = [name for name in (REFERENCE, strongest_baseline(scores)) if name in models]
    pairs = [(model, reference) for reference in references for model in models
             if model != reference]
    pairs += [(model, other) for model in models if model in VARIANTS
              for other in VARIANTS[model].against
              if other in models and other not in references]
    found = resample(scores, unit=unit, resamples=resamples) if pairs else {}
    return compare(found, found, pairs, split)


def strongest_baseline(scores: Mapping[int, Scores], history: str = "frozen") -> str | None:
    """The one of BASELINES with the highest mean AUC over seeds, None where there is none."""
    found: dict[str, list[float]] = {}
    for one in scores.values():
        for model in BASELINES:
            area = ctr.auc(one.label, one.logits[model][history]) if model in one.logits else None
            if area is not None:
                found.setdefault(model, []).append(area)
    return max(found, key=lambda model: float(np.mean(found[model])), default=None)


def resample(scores: Mapping[int, Scores], *, unit: str, resamples: int) -> Resampled:
    """Metrics of every model, history and seed on the same resamples.

    They are the same for all scores with one fingerprint, of whatever workdir.
    """
    found = {}
    for seed, one in scores.items():
        keys = [(model, history, seed) for model, by in one.logits.items() for history in by]
        metrics = bootstrap.resampled_metrics(
            one.label,
            one.user,
            np.stack([one.logits[model][history] for model, history, _ in keys]),
            unit=unit,
            resamples=resamples,
        )
        for index, key in enumerate(keys):
            found[key] = {metric: values[index] for metric, values in metrics.items()}
    return found


def compare(
    models: Resampled, references: Resampled, pairs: Sequence[tuple[str, str]], split: str
) -> list[dict[str, Any]]:
    """The differences of pairs, for each history and metric, over the seeds that both have.

    Args:
      models: of `resample`.
      references: of `resample` on the same impressions; of the same workdir or of another.
      pairs: (a model's name, its reference's name).
      split: as in "rows" of results.json.

    Returns:
      Objects of results.DIFFERENCE_KEYS.
    """
    found = []
    for model, reference in pairs:
        for history in dict.fromkeys(history for name, history, _ in models if name == model):
            seeds = [seed for name, past, seed in models if (name, past) == (model, history)
                     and (reference, history, seed) in references]
            for metric in bootstrap.SIGNS if seeds else ():
                sides = (
                    np.stack([side[name, history, seed][metric] for seed in seeds])
                    for side, name in ((models, model), (references, reference))
                )
                found.append(
                    {"model": model, "reference": reference, "split": split, "history": history,
                     "metric": metric, "seeds": len(seeds)}
                    | bootstrap.difference(metric, *sides)._asdict()
                )  # fmt: skip
    return found
