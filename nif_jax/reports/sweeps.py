"""results/<sweep>.md: the results of a sweep's finished runs, and the command that runs it."""

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from nif_jax.data.files import write_whole
from nif_jax.reports import curves, overview, significance, tables, workdirs
from nif_jax.reports.render import render
from nif_jax.reports.results import RESULTS_FILE
from nif_jax.reports.tables import Table
from nif_jax.reports.workdirs import Workdir

Runs = Mapping[str, Workdir]
"""Name of a run -> its workdir, in the order of the tables."""


class Entry(NamedTuple):
    """A finished run of a sweep."""

    name: str  # in the tables
    text: str  # its config, as --config takes it
    workdir: Path
    reference: str = ""  # name of the run that it is compared with
    buckets: bool = False  # whether its AUC by bucket (length of history, age of item) is shown


def write(path: Path, entries: Sequence[Entry], *, doc: str, **about: Any) -> Path:
    """Writes the Markdown of a sweep, whole or not at all: question, provenance, tables, glossary.

    Raises WorkdirError for files of a run that cannot be read; names them.

    Args:
      path: of the file; it is returned.
      entries: the finished runs.
      doc: docstring of the sweep.
      **about: `command` that runs it; `absent`, name of a run without results -> why; `seconds`,
        run time of all processes.
    """
    runs = {entry.name: workdirs.read(entry.workdir, entry.name) for entry in entries}
    found = {name: run.results for name, run in runs.items()}
    against, notes = against_references(entries, runs)
    question, *rest = doc.strip().splitlines()
    # The docstring's command is a pattern; the actual command stands below.
    text = "\n".join(line for line in rest if not line.startswith("    python launch/sweep.py"))
    configurations = [{"run": entry.name, "--config": entry.text} for entry in entries]
    sections = {
        "Click prediction on test": overview.overview(found),
        "Labels saved at equal AUC": curves.labels_saved(found),
        "Differences from the run of reference": against,
        "Best score on validation, for choosing": validation(runs),
        "Next-item retrieval over the whole catalogue": retrieval(runs),
        "AUC by bucket, online histories, first seed": buckets(entries, runs),
        "Configurations": Table.of(configurations, labels=2),
    }
    about |= {"name": path.stem, "question": question, "text": text.strip(), "notes": notes}
    about |= {"finished": len(entries), "made": provenance(runs), "sections": sections}
    return write_whole(path, render("sweep.md.j2", **about))


def provenance(runs: Runs) -> dict[str, Any]:
    """Seeds, date of the last run, commits and environment; no path and no name of a machine."""
    last = max((run.path / RESULTS_FILE).stat().st_mtime for run in runs.values())
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


def against_references(entries: Sequence[Entry], runs: Runs) -> tuple[Table, list[str]]:
    """Each run's models minus those of its reference, with interval and verdict; and notes.

    Raises WorkdirError for a damaged file of scores.
    """
    parts, notes = [], []
    for reference in dict.fromkeys(entry.reference for entry in entries):
        others = [runs[entry.name] for entry in entries if entry.reference == reference]
        if reference in runs:
            found = significance.between_runs([runs[reference], *others])
            parts += [found.auc, found.others]
            notes += found.notes
    return tables.join(parts), notes


def validation(runs: Runs) -> Table:
    """The best validation metric of each ranker, which its step was selected by."""
    lines = []
    for name, run in runs.items():
        metric = run.config["train.metric"]
        found = pd.DataFrame(
            [(r["stage"], r["seed"], r["values"].get(f"validation/{metric}")) for r in run.records],
            columns=["model", "seed", "best"],
        )
        best = found.dropna().groupby(["model", "seed"])["best"].max()
        for model in dict.fromkeys(row["model"] for row in run.results["rows"]):
            if model in best.index.get_level_values("model"):
                line = {"run": name, "model": model, "seeds": str(len(best[model]))}
                lines.append(line | {"metric": metric, "best": tables.spread(best[model], ".4f")})
    return Table.of(lines, labels=4)


def retrieval(runs: Runs) -> Table:
    """tables.retrieval of all runs; a metric that one lacks is empty there."""
    parts = [tables.retrieval(run.results.get("retrieval", [])) for run in runs.values()]
    return tables.join(parts, runs)


def buckets(entries: Sequence[Entry], runs: Runs) -> Table:
    """tables.buckets of the entries with `buckets`."""
    names = [entry.name for entry in entries if entry.buckets]
    return tables.join(
        [tables.buckets(runs[name].results.get("buckets", {})) for name in names], names
    )
