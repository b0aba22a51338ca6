""""differences" of results.json: each model against its references, with interval and verdict."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nif_jax.metrics import bootstrap, ctr
from nif_jax.reports.scores import Scores
from nif_jax.reports.tables import BASELINES, REFERENCE


def differences(
    scores: Mapping[int, Scores], split: str, *, unit: str, resamples: int
) -> list[dict[str, Any]]:
    """Each model of a run against `base`, and against the strongest of BASELINES.

    Strongest is the one with the highest mean AUC on these very impressions. To choose an opponent
    by its test score favours the opponent, so no claim is helped by it.

    Args:
      scores: of each seed.
      split: as in "rows" of results.json.
      unit: see metrics.bootstrap.
      resamples: how many.
    """
    models = list(next(iter(scores.values())).logits)
    references = [name for name in (REFERENCE, strongest_baseline(scores)) if name in models]
    pairs = [(model, reference) for reference in references for model in models
             if model != reference]
    return compare(scores, pairs, split, unit=unit, resamples=resamples)


def strongest_baseline(scores: Mapping[int, Scores], history: str = "frozen") -> str | None:
    """The one of BASELINES with the highest mean AUC over seeds, None where there is none."""
    found: dict[str, list[float]] = {}
    for one in scores.values():
        for model in BASELINES:
            area = ctr.auc(one.label, one.logits[model][history]) if model in one.logits else None
            if area is not None:
                found.setdefault(model, []).append(area)
    return max(found, key=lambda model: float(np.mean(found[model])), default=None)


def compare(
    scores: Mapping[int, Scores],
    pairs: Sequence[tuple[str, str]],
    split: str,
    *,
    unit: str,
    resamples: int,
) -> list[dict[str, Any]]:
    """The differences of pairs (model, reference), for each history and metric.

    Args:
      scores: of each seed; a pair is compared over the seeds that have both.
      pairs: names of models in scores.
      split, unit, resamples: see `differences`.

    Returns:
      Objects of results.DIFFERENCE_KEYS.

    Raises:
      ValueError: seeds with different impressions.
    """
    if len({one.fingerprint for one in scores.values()}) > 1:
        raise ValueError(f"seeds {list(scores)} were tested on different impressions")
    wanted = dict.fromkeys(model for pair in pairs for model in pair)
    keys = [
        (model, history, seed)
        for seed, one in scores.items()
        for model in wanted if model in one.logits
        for history in one.logits[model]
    ]  # fmt: skip
    if not keys:
        return []
    first = next(iter(scores.values()))
    logits = np.stack([scores[seed].logits[model][history] for model, history, seed in keys])
    metrics = bootstrap.resampled_metrics(
        first.label, first.user, logits, unit=unit, resamples=resamples
    )
    place = {key: index for index, key in enumerate(keys)}
    found = []
    for model, reference in pairs:
        for history in dict.fromkeys(history for name, history, _ in keys if name == model):
            seeds = [seed for seed in scores
                     if {(model, history, seed), (reference, history, seed)} <= place.keys()]
            if not seeds:
                continue
            sides = [[place[name, history, seed] for seed in seeds] for name in (model, reference)]
            for metric, values in metrics.items():
                difference = bootstrap.difference(metric, *(values[side] for side in sides))
                found.append(
                    {"model": model, "reference": reference, "split": split, "history": history,
                     "metric": metric, "seeds": len(seeds)} | difference._asdict()
                )  # fmt: skip
    return found
