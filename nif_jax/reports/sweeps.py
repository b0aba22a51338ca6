"""results/<sweep>.md and .json: the results of a sweep's finished runs, and their command."""

import dataclasses
import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from nif_jax.data.files import write_whole
from nif_jax.reports import across, curves, overview, tables, workdirs
from nif_jax.reports.render import render
from nif_jax.reports.results import METRICS, RESULTS_FILE
from nif_jax.reports.tables import Table
from nif_jax.reports.workdirs import Workdir

Runs = Mapping[str, Workdir]
"""Name of a run -> its workdir, in the order of the tables."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """A finished run."""

    name: str  # in the tables
    text: str  # its config, as --config takes it
    workdir: Path
    reference: str = ""  # name of the run that it is compared with
    buckets: bool = False  # whether its AUC by bucket (length of history, age of item) is shown


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A sweep as far as it is finished."""

    name: str  # of its files
    doc: str  # its docstring
    command: str  # the command that runs it
    entries: Sequence[Entry]  # its finished runs
    absent: Mapping[str, str]  # name of a run without results -> why
    seconds: float  # run time of all processes, summed


def write(sweep: Sweep, output: Path) -> list[Path]:
    """Writes <output>/<name>.md and <output>/<name>.json, each whole or not at all.

    Raises WorkdirError for files of a run that cannot be read; names them.
    """
    runs = {entry.name: workdirs.read(entry.workdir, entry.name) for entry in sweep.entries}
    texts = {
        f"{sweep.name}.md": document(sweep, runs),
        f"{sweep.name}.json": json.dumps(record(sweep, runs), allow_nan=False) + "\n",
    }
    return [write_whole(output / name, text) for name, text in texts.items()]


def document(sweep: Sweep, runs: Runs) -> str:
    """The Markdown of a sweep: question, command, provenance, tables, glossary."""
    found = {name: run.results for name, run in runs.items()}
    against, notes = against_references(sweep.entries, runs)
    question, *rest = sweep.doc.strip().splitlines()
    # The docstring's command is a pattern; the actual command stands below.
    text = "\n".join(line for line in rest if not line.startswith("    python launch/sweep.py"))
    configurations = [[entry.name, entry.text] for entry in sweep.entries]
    sections = {
        "Click prediction on test": overview.overview(found),
        "Labels saved at equal AUC": curves.labels_saved(found),
        "Differences from the run of reference": against,
        "Best score on validation, for choosing": validation(runs),
        "Next-item retrieval over the whole catalogue": retrieval(runs),
        "AUC by bucket, online histories, first seed": buckets(sweep.entries, runs),
        "Configurations": Table(["run", "--config"], configurations, labels=2),
    }
    return render(
        "sweep.md.j2",
        sweep=sweep,
        question=question,
        text=text.strip(),
        notes=notes,
        made=provenance(sweep, runs),
        sections=sections,
    )


def record(sweep: Sweep, runs: Runs) -> dict[str, Any]:
    """The same as JSON: the config of each run, and metrics with a value for each seed."""
    found = {
        entry.name: {
            "config": entry.text,
            "dataset": runs[entry.name].dataset,
            "rows": _by_seed(runs[entry.name].results["rows"]),
            "retrieval": runs[entry.name].results.get("retrieval", []),
            "buckets": runs[entry.name].results.get("buckets", {}),
        }
        for entry in sweep.entries
    }
    return {
        "sweep": sweep.name,
        "command": sweep.command,
        "absent": dict(sweep.absent),
        "seconds": sweep.seconds,
        **provenance(sweep, runs),
        "runs": found,
    }


def provenance(sweep: Sweep, runs: Runs) -> dict[str, Any]:
    """Seeds, date of the last run, commits and environment; no path and no name of a machine."""
    last = max((entry.workdir / RESULTS_FILE).stat().st_mtime for entry in sweep.entries)
    described = [run.results["run"] for run in runs.values()]
    environments = [
        f"jax {one.get('jax')}, flax {one.get('flax')}, devices {one.get('devices')}"
        for one in described
    ]
    return {
        "finished": datetime.datetime.fromtimestamp(last, datetime.UTC).date().isoformat(),
        "seeds": sorted({row["seed"] for run in runs.values() for row in run.results["rows"]}),
        "commits": list(dict.fromkeys(one["commit"] for one in described if one.get("commit"))),
        "environment": "; ".join(dict.fromkeys(environments)),
    }


def _by_seed(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows that differ in their seed only as one, with a list of values in order of "seeds"."""
    keys = ("model", "split", "history")
    return [
        dict(zip(keys, key, strict=True))
        | {"seeds": list(by_seed)}
        | {metric: [row[metric] for row in by_seed.values()] for metric in METRICS}
        for key, by_seed in tables.grouped(rows, keys).items()
    ]


def against_references(entries: Sequence[Entry], runs: Runs) -> tuple[Table, list[str]]:
    """Each run's models minus those of its reference, with interval and verdict; and notes.

    Raises WorkdirError for a damaged file of scores.
    """
    merged, notes = Table([], [], 0), []
    for reference in dict.fromkeys(entry.reference for entry in entries):
        others = [runs[entry.name] for entry in entries if entry.reference == reference]
        if reference in runs:
            found = across.between([runs[reference], *others])
            rows = [*merged.rows, *found.table.rows, *found.others.rows]
            merged = found.table._replace(rows=rows)
            notes += found.notes
    return merged, notes


def validation(runs: Runs) -> Table:
    """The best validation metric of each ranker, which its step was selected by."""
    table = Table(["run", "model", "seeds", "metric", "best"], [], labels=4)
    for name, run in runs.items():
        metric = run.config["train.metric"]
        best = (
            pd.DataFrame(
                [
                    (r["stage"], r["seed"], r["values"].get(f"validation/{metric}"))
                    for r in run.records
                ],
                columns=["model", "seed", "best"],
            )
            .dropna()
            .groupby(["model", "seed"])["best"]
            .max()
        )
        for model in dict.fromkeys(row["model"] for row in run.results["rows"]):
            if model in best.index.get_level_values("model"):
                text = tables.spread(best[model], ".4f")
                table.rows.append([name, model, str(len(best[model])), metric, text])
    return table


def retrieval(runs: Runs) -> Table:
    """tables.retrieval of all runs that have one; a metric that one lacks is empty there."""
    parts = {
        name: tables.retrieval(run.results["retrieval"])
        for name, run in runs.items()
        if run.results.get("retrieval")
    }
    frames = [
        pd.DataFrame(table.rows, columns=table.header).assign(run=name)
        for name, table in parts.items()
    ]
    if not frames:
        return Table([], [], 0)
    joined = pd.concat(frames).fillna("").set_index("run").reset_index()
    return Table(list(joined.columns), joined.to_numpy().tolist(), labels=5)


def buckets(entries: Sequence[Entry], runs: Runs) -> Table:
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
    return Table(["run", "property", "bucket", "impressions", *models], rows, labels=3)
