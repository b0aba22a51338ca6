"""Differences between workdirs with the same test impressions; AUC and GAUC in points of 0.01."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from nif_jax.reports import significance, tables
from nif_jax.reports.tables import REFERENCE, Table
from nif_jax.reports.workdirs import Workdir


class Across(NamedTuple):
    """Tables of differences."""

    table: Table  # in AUC
    others: Table  # in the other metrics
    notes: list[str]  # which runs could not be compared, and why


def between(runs: Sequence[Workdir]) -> Across:
    """Each run against the first one that has the same test impressions.

    A model is compared with the model of its name, or with the base ranker where the first run has
    none of its name, seed by seed. Raises WorkdirError for a damaged file of scores.
    """
    lines, notes = [], []
    groups: dict[str, list[Workdir]] = {}
    for run in runs:
        if "test_fingerprint" in run.dataset:
            groups.setdefault(run.dataset["test_fingerprint"], []).append(run)
        else:
            notes.append(
                f"{run.label} cannot be compared: it kept no scores of its test "
                "impressions; run it again with --mode=evaluate."
            )
    for first, *others in groups.values():
        if not others:
            notes.append(
                f"{first.label} cannot be compared: no other run has the same test impressions."
            )
            continue
        resampled = _resample(first, first)
        for run in others:
            entries = differences(run, first, resampled)
            lines += [(entry["metric"], _line(entry, run, first)) for entry in entries]
            if not entries:
                notes.append(
                    f"{run.label} cannot be compared with {first.label}: they have no seed, "
                    "or no model, in common whose scores both kept."
                )
    in_auc = Table.of((line for metric, line in lines if metric == "auc"), labels=6)
    others = Table.of((line for metric, line in lines if metric != "auc"), labels=6)
    return Across(in_auc, others, notes)


def differences(
    run: Workdir, reference: Workdir, resampled: significance.Resampled | None = None
) -> list[dict[str, Any]]:
    """The models of one run against those of another, as in "differences" of results.json.

    The reference's config sets unit and number of resamples, since only equal draws can be paired;
    `resampled` are its scores. Empty where the test impressions differ, or no seed is common.
    """
    prints = {one.dataset.get("test_fingerprint") for one in (run, reference)}
    if None in prints or len(prints) > 1:
        return []
    theirs = resampled or _resample(reference, reference)
    own = _resample(run, reference)
    names = {model for model, _, _ in theirs}
    models = dict.fromkeys(model for model, _, _ in own)
    pairs = [(model, model if model in names else REFERENCE) for model in models]
    split = "random" if run.config.get("data.split") == "random" else "test"
    return significance.compare(own, theirs, pairs, split)


def _line(entry: dict[str, Any], run: Workdir, first: Workdir) -> dict[str, str]:
    return {
        "history": entry["history"],
        "metric": tables.difference_title(entry["metric"]),
        "run": f"{run.label} (leaky)" if entry["split"] == "random" else run.label,
        "model": entry["model"],
        "against": f"{entry['reference']} of {first.label}",
        **tables.difference_cells(entry),
    }


def _resample(run: Workdir, reference: Workdir) -> significance.Resampled:
    unit, resamples = (reference.config[f"eval.{key}"] for key in ("resample_unit", "resamples"))
    return significance.resample(run.scores(), unit=unit, resamples=resamples)
