"""Tables that only the runs of a sweep have.

`runs` is name of a run -> its Workdir everywhere, in the order of the tables.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from nif_jax.reports import across, tables
from nif_jax.reports.workdirs import Workdir

Runs = Mapping[str, Workdir]


@dataclasses.dataclass(frozen=True)
class Entry:
    """A finished run."""

    name: str  # in the tables
    text: str  # its config, as --config takes it
    workdir: Path
    reference: str = ""  # name of the run that it is compared with
    buckets: bool = False  # whether its AUC by bucket (length of history, age of item) is shown


def configurations(entries: Sequence[Entry]) -> tables.Table:
    """The config of each run."""
    return tables.Table(["run", "--config"], [[e.name, e.text] for e in entries], labels=2)


def against_references(entries: Sequence[Entry], runs: Runs) -> tuple[tables.Table, list[str]]:
    """Each run's models minus those of its reference, with interval and verdict; and notes.

    Raises WorkdirError for a damaged file of scores.
    """
    merged, notes = tables.Table([], [], 0), []
    for reference in dict.fromkeys(entry.reference for entry in entries):
        others = [runs[entry.name] for entry in entries if entry.reference == reference]
        if reference in runs:
            found = across.between([runs[reference], *others])
            rows = [*merged.rows, *found.table.rows, *found.others.rows]
            merged = found.table._replace(rows=rows)
            notes += found.notes
    return merged, notes


def validation(runs: Runs) -> tables.Table:
    """The best validation metric of each ranker, which its step was selected by."""
    table = tables.Table(["run", "model", "seeds", "metric", "best"], [], labels=4)
    for name, run in runs.items():
        metric = run.config["train.metric"]
        best = pd.DataFrame(
            [(r["stage"], r["seed"], r["values"].get(f"validation/{metric}")) for r in run.records],
            columns=["model", "seed", "best"],
        ).dropna().groupby(["model", "seed"])["best"].max()  # fmt: skip
        for model in dict.fromkeys(row["model"] for row in run.results["rows"]):
            if model in best.index.get_level_values("model"):
                text = tables.spread(best[model], ".4f")
                table.rows.append([name, model, str(len(best[model])), metric, text])
    return table


def retrieval(runs: Runs) -> tables.Table:
    """tables.retrieval of all runs that have one; a metric that one lacks is empty there."""
    parts = {name: tables.retrieval(run.results["retrieval"])
             for name, run in runs.items() if run.results.get("retrieval")}  # fmt: skip
    frames = [pd.DataFrame(table.rows, columns=table.header).assign(run=name)
              for name, table in parts.items()]  # fmt: skip
    if not frames:
        return tables.Table([], [], 0)
    joined = pd.concat(frames).fillna("").set_index("run").reset_index()
    return tables.Table(list(joined.columns), joined.to_numpy().tolist(), labels=5)


def buckets(entries: Sequence[Entry], runs: Runs) -> tables.Table:
    """AUC by bucket, models side by side, of the entries with `buckets`."""
    chosen = {e.name: runs[e.name].results.get("buckets", {}) for e in entries if e.buckets}
    models = list(dict.fromkeys(m for one in chosen.values() for by in one.values() for m in by))
    rows = []
    for name, prop, by_model in ((n, p, by) for n, one in chosen.items() for p, by in one.items()):
        for index, first in enumerate(next(iter(by_model.values()))):
            if not first["count"]:
                continue
            aucs = [by_model[m][index]["auc"] if m in by_model else None for m in models]
            upper = "up" if first["upper"] is None else f"below {first['upper']}"
            cells = [name, prop.replace("_", " "), f"{first['lower']} and {upper}"]
            aucs = (tables.spread([auc], ".4f") for auc in aucs)
            rows.append([*cells, str(first["count"]), *aucs])
    return tables.Table(["run", "property", "bucket", "impressions", *models], rows, labels=3)
