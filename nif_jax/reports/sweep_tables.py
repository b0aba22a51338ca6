"""Tables that only the runs of a sweep have.

`runs` is everywhere name of a run -> its workdir, read, in the order of the tables.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from nif_jax.reports import across, tables
from nif_jax.reports.workdirs import Workdir

Runs = Mapping[str, Workdir]


@dataclasses.dataclass(frozen=True)
class Entry:
    """A finished run.

    Attributes:
      name: its line in the tables.
      text: its config, as --config takes it.
      workdir: its folder.
      reference: name of the run that it is compared with, or "".
      buckets: whether its AUC by bucket (length of history, age of the item) is shown.
    """

    name: str
    text: str
    workdir: Path
    reference: str = ""
    buckets: bool = False


def configurations(entries: Sequence[Entry]) -> tables.Table:
    """What each run is."""
    rows = [[entry.name, entry.text] for entry in entries]
    return tables.Table(["run", "--config"], rows, labels=2)


def against_references(entries: Sequence[Entry], runs: Runs) -> tuple[tables.Table, list[str]]:
    """Each run's models minus those of its reference, with interval and verdict; and notes.

    Raises:
      WorkdirError: a damaged file of scores.
    """
    merged, notes = tables.Table([], [], 0), []
    for reference in dict.fromkeys(entry.reference for entry in entries):
        others = [runs[entry.name] for entry in entries if entry.reference == reference]
        if reference in runs:
            found = across.between([runs[reference], *others])
            merged = found.table._replace(
                rows=[*merged.rows, *found.table.rows, *found.others.rows]
            )
            notes += found.notes
    return merged, notes


def validation(runs: Runs) -> tables.Table:
    """The validation metric that each ranker's step was chosen by, at that step."""
    table = tables.Table(["run", "model", "seeds", "metric", "best"], [], labels=4)
    for name, run in runs.items():
        metric, best = run.config["train.metric"], {}
        for record in run.records:
            value = record["values"].get(f"validation/{metric}")
            if value is not None:
                by_seed = best.setdefault(record["stage"], {})
                by_seed[record["seed"]] = max(value, by_seed.get(record["seed"], value))
        for model in dict.fromkeys(row["model"] for row in run.results["rows"]):
            values = list(best.get(model, {}).values())
            if values:
                best_text = tables.spread(values, ".4f")
                table.rows.append([name, model, str(len(values)), metric, best_text])
    return table


def retrieval(runs: Runs) -> tables.Table:
    """tables.retrieval of all runs that have one; a metric that one lacks is empty there."""
    parts = {name: tables.retrieval(run.results["retrieval"])
             for name, run in runs.items() if run.results.get("retrieval")}  # fmt: skip
    header = list(dict.fromkeys(title for table in parts.values() for title in table.header))
    labels = max((table.labels for table in parts.values()), default=0)
    stacked = tables.Table(["run", *header], [], labels + 1)
    for name, table in parts.items():
        for row in table.rows:
            cells = dict(zip(table.header, row, strict=True))
            stacked.rows.append([name, *(cells.get(title, "") for title in header)])
    return stacked


def buckets(entries: Sequence[Entry], runs: Runs) -> tables.Table:
    """AUC by bucket, models side by side, of the runs that ask for it."""
    chosen = {e.name: runs[e.name].results.get("buckets", {}) for e in entries if e.buckets}
    models = list(dict.fromkeys(m for one in chosen.values() for by in one.values() for m in by))
    table = tables.Table(["run", "property", "bucket", "impressions", *models], [], labels=3)
    for name, one in chosen.items():
        for prop, by_model in one.items():
            for index, first in enumerate(next(iter(by_model.values()))):
                if not first["count"]:
                    continue
                aucs = [by_model[m][index]["auc"] if m in by_model else None for m in models]
                upper = "up" if first["upper"] is None else f"below {first['upper']}"
                table.rows.append([
                    name, prop.replace("_", " "), f"{first['lower']} and {upper}",
                    str(first["count"]), *(tables.spread([auc], ".4f") for auc in aucs),
                ])  # fmt: skip
    return table
