"""Differences between workdirs, where their test impressions are the same.

AUC and GAUC are in points of 0.01.
"""

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
        resampled = _resample(first, first)
        for other in others:
            _add(found, other, first, resampled)
    return found


def differences(
    run: Workdir, reference: Workdir, resampled: significance.Resampled | None = None
) -> list[dict[str, Any]]:
    """The models of one run against those of another, as in "differences" of results.json.

    Args:
      run: whose models are compared.
      reference: with its models of the same name, or its base ranker; its config says what is
        drawn and how often, since only equal draws can be paired.
      resampled: of the reference's scores, if they have been resampled already.

    Returns:
      Nothing where the test impressions differ, or no seed is common to both.

    Raises:
      WorkdirError: a damaged file of scores.
    """
    prints = [one.dataset.get("test_fingerprint") for one in (run, reference)]
    if None in prints or len(set(prints)) > 1:
        return []
    theirs = _resample(reference, reference) if resampled is None else resampled
    own = _resample(run, reference)
    names = {model for model, _, _ in theirs}
    pairs = [(model, model if model in names else REFERENCE)
             for model in dict.fromkeys(model for model, _, _ in own)]
    split = "random" if run.config.get("data.split") == "random" else "test"
    return significance.compare(own, theirs, pairs, split)


def _add(
    found: Across, run: Workdir, reference: Workdir, resampled: significance.Resampled
) -> None:
    """Adds the lines of one run, or a note why there are none."""
    entries = differences(run, reference, resampled)
    if not entries:
        found.notes.append(f"{run.label} cannot be compared with {reference.label}: they have no "
                           "seed, or no model, in common whose scores both kept.")
    for entry in entries:
        table = found.table if entry["metric"] == "auc" else found.others
        label = f"{run.label} (leaky)" if entry["split"] == "random" else run.label
        table.rows.append([
            entry["history"], tables.difference_title(entry["metric"]), label, entry["model"],
            f"{entry['reference']} of {reference.label}", str(entry["seeds"]),
            *tables.difference_cells(entry), entry["verdict"],
        ])  # fmt: skip


def _resample(run: Workdir, reference: Workdir) -> significance.Resampled:
    config = reference.config
    return significance.resample(
        run.scores(), unit=config["eval.resample_unit"], resamples=config["eval.resamples"]
    )
