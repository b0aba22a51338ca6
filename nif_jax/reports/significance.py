""" "differences" of results.json: each model against its references, with interval and verdict."""

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
    """Each model of a run against `base`, the strongest of BASELINES, and its own references.

    The last are those of the variant registry (Row.against): the hybrid against its parts, an
    ablation against the whole. `scores` is seed -> scores, `split` as in "rows" of results.json;
    for `unit` see metrics.bootstrap. Raises ValueError for seeds with different impressions.
    """
    if len({one.fingerprint for one in scores.values()}) > 1:
        raise ValueError(f"seeds {list(scores)} were tested on different impressions")
    models = list(dict.fromkeys(model for one in scores.values() for model in one.logits))
    references = [name for name in (REFERENCE, strongest_baseline(scores)) if name in models]
    pairs = [(model, other) for other in references for model in models if model != other]
    for model in (model for model in models if model in VARIANTS):
        own = (name for name in VARIANTS[model].against if name in models)
        pairs += [(model, other) for other in own if other not in references]
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
        keys = [(model, history) for model, own in one.logits.items() for history in own]
        logits = np.stack([one.logits[model][history] for model, history in keys])
        metrics = bootstrap.resampled_metrics(
            one.label, one.user, logits, unit=unit, resamples=resamples
        )
        for index, key in enumerate(keys):
            found[*key, seed] = {metric: values[index] for metric, values in metrics.items()}
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
            about = {"model": model, "reference": reference, "split": split, "history": history}
            for metric in bootstrap.SIGNS if seeds else ():
                ours = np.stack([models[model, history, seed][metric] for seed in seeds])
                theirs = np.stack([references[reference, history, seed][metric] for seed in seeds])
                difference = bootstrap.difference(metric, ours, theirs)._asdict()
                found.append(about | {"metric": metric, "seeds": len(seeds)} | difference)
    return found
