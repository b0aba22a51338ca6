"""Differences of models on the same impressions, with interval and verdict, within and across runs.

They have the form of "differences" in results.json.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nif_jax.metrics import bootstrap, ctr
from nif_jax.reports import tables
from nif_jax.reports.scores import Scores
from nif_jax.reports.tables import BASELINES, CONTROL, REFERENCE, Table
from nif_jax.reports.workdirs import Workdir
from nif_jax.variants import VARIANTS

Resampled = Mapping[tuple[str, str, int], Mapping[str, np.ndarray]]
"""(model, history, seed) -> metric -> [1 + B], see metrics.bootstrap.resampled_metrics."""


def differences(
    scores: Mapping[int, Scores], split: str, *, unit: str, resamples: int
) -> list[dict[str, Any]]:
    """Each model of a run against base, LightGBM, the strongest baseline and Variant.against.

    `scores` is seed -> scores, `split` as in "rows" of results.json; for `unit` see
    metrics.bootstrap. Raises ValueError for seeds with different impressions.
    """
    if len({one.fingerprint for one in scores.values()}) > 1:
        raise ValueError(f"seeds {list(scores)} were tested on different impressions")
    models = list(dict.fromkeys(model for one in scores.values() for model in one.logits))
    references = [*dict.fromkeys((REFERENCE, CONTROL, strongest_baseline(scores)))]
    references = [name for name in references if name in models]
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
    """Metrics on resamples that are the same for all scores with one fingerprint."""
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
    """Differences of pairs (model, reference), for each history and metric, over common seeds."""
    found = []
    for model, reference in pairs:
        for history in dict.fromkeys(history for name, history, _ in models if name == model):
            keys = [key for key in models if key[:2] == (model, history)]
            seeds = [seed for *_, seed in keys if (reference, history, seed) in references]
            about = {"model": model, "reference": reference, "split": split, "history": history}
            for metric in models[keys[0]] if seeds else ():
                ours = np.stack([models[model, history, seed][metric] for seed in seeds])
                theirs = np.stack([references[reference, history, seed][metric] for seed in seeds])
                difference = bootstrap.difference(metric, ours, theirs)._asdict()
                found.append(about | {"metric": metric, "seeds": len(seeds)} | difference)
    return found


def between_runs(runs: Sequence[Workdir]) -> tuple[Table, list[str]]:
    """Each run against the first one with the same test impressions; and why some could not be.

    A model is compared with the model of its name, or with the base ranker where the first run has
    none of its name, seed by seed. AUC and GAUC are in points of 0.01. Raises WorkdirError for a
    damaged file of scores.
    """
    lines = []
    groups: dict[str, list[Workdir]] = {}
    for run in runs:
        groups.setdefault(run.dataset.get("test_fingerprint", ""), []).append(run)
    why = "it kept no scores of its test impressions; run it again with --mode=evaluate"
    notes = [f"{run.label} cannot be compared: {why}." for run in groups.pop("", [])]
    for first, *others in groups.values():
        if not others:
            why = "no other run has the same test impressions"
            notes.append(f"{first.label} cannot be compared: {why}.")
            continue
        theirs = resample_run(first, first)
        for run in others:
            entries = differences_of_runs(run, first, theirs)
            lines += [_line(entry, run, first) for entry in entries]
            if not entries:
                why = "they have no seed, or no model, in common whose scores both kept"
                notes.append(f"{run.label} cannot be compared with {first.label}: {why}.")
    return Table.of(lines, labels=6), notes


def resample_run(run: Workdir, first: Workdir) -> Resampled:
    """Metrics of a run on the draws of the first: only equal draws can be paired."""
    unit, resamples = (first.config[f"eval.{key}"] for key in ("resample_unit", "resamples"))
    return resample(run.scores(), unit=unit, resamples=resamples)


def differences_of_runs(run: Workdir, first: Workdir, theirs: Resampled) -> list[dict[str, Any]]:
    """The models of one run against those of another, whose resampled metrics are `theirs`."""
    own = resample_run(run, first)
    names = {model for model, _, _ in theirs}
    models = dict.fromkeys(model for model, _, _ in own)
    pairs = [(model, model if model in names else REFERENCE) for model in models]
    split = "random" if run.config.get("data.split") == "random" else "test"
    return compare(own, theirs, pairs, split)


def _line(entry: Mapping[str, Any], run: Workdir, first: Workdir) -> dict[str, str]:
    return {
        "history": entry["history"],
        "metric": tables.difference_title(entry["metric"]),
        "run": f"{run.label} (leaky)" if entry["split"] == "random" else run.label,
        "model": entry["model"],
        "against": f"{entry['reference']} of {first.label}",
        **tables.difference_cells(entry),
    }
