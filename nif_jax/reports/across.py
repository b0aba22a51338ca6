"""Differences between workdirs, where their test impressions are the same."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from nif_jax.reports import significance, tables
from nif_jax.reports.tables import REFERENCE, Table
from nif_jax.reports.workdirs import Workdir


class Across(NamedTuple):
    """Attributes:
    table: differences in AUC.
    others: in the other metrics.
    notes: which runs could not be compared, and why.
    """

    table: Table
    others: Table
    notes: list[str]


def between(runs: Sequence[Workdir]) -> Across:
    """Each run against the first one that has the same test impressions.

    A model is compared with the model of its name, or with the base ranker where the first run has
    none of its name, seed by seed.

    Args:
      runs: in the order of the tables.

    Raises:
      WorkdirError: a damaged file of scores.
    """
    groups: dict[str, list[Workdir]] = {}
    notes = []
    for run in runs:
        if "test_fingerprint" in run.dataset:
            groups.setdefault(run.dataset["test_fingerprint"], []).append(run)
        else:
            notes.append(f"{run.label} cannot be compared: it kept no scores of its test "
                         "impressions; run it again with --mode=evaluate.")
    header = ["history", "metric", "run", "model", "against", "seeds", "difference",
              "95 % interval", "verdict"]  # fmt: skip
    found = Across(Table(header, [], 6), Table(header, [], 6), notes)
    for first, *others in groups.values():
        if not others:
            notes.append(f"{first.label} cannot be compared: no other run has the same test "
                         "impressions.")
            continue
        reference = _resample(first, first)
        for other in others:
            _compare(found, first, reference, other)
    return found


def _compare(
    found: Across, first: Workdir, reference: significance.Resampled, other: Workdir
) -> None:
    """Adds the lines of one run, or a note why there are none."""
    models = _resample(other, first)
    there = {model for model, _, _ in reference}
    pairs = [(model, model if model in there else REFERENCE)
             for model in dict.fromkeys(model for model, _, _ in models)]
    split = "random" if other.config.get("data.split") == "random" else "test"
    entries = significance.compare(models, reference, pairs, split)
    if not entries:
        found.notes.append(f"{other.label} cannot be compared with {first.label}: they have no "
                           "seed, or no model, in common whose scores both kept.")
    for entry in entries:
        table = found.table if entry["metric"] == "auc" else found.others
        label = f"{other.label} (leaky)" if split == "random" else other.label
        table.rows.append([
            entry["history"], tables.METRIC_TITLES[entry["metric"]], label, entry["model"],
            f"{entry['reference']} of {first.label}", str(entry["seeds"]),
            *tables.difference_cells(entry), entry["verdict"],
        ])  # fmt: skip


def _resample(run: Workdir, first: Workdir) -> significance.Resampled:
    """With the settings of the first run, since resamples are the same in equal numbers only."""
    settings: dict[str, Any] = {
        name: first.config[f"eval.{key}"]
        for name, key in (("unit", "resample_unit"), ("resamples", "resamples"))
    }
    return significance.resample(run.scores(), **settings)
