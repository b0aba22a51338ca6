"""results/<sweep>.md: the results of a sweep's finished runs, and the command that runs it."""

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from nif_jax.data.files import write_whole
from nif_jax.reports import across, curves, overview, tables, workdirs
from nif_jax.reports.render import render
from nif_jax.reports.results import RESULTS_FILE
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

    name: str  # of its file
    doc: str  # its docstring
    command: str  # the command that runs it
    entries: Sequence[Entry]  # its finished runs
    absent: Mapping[str, str]  # name of a run without results -> why
    seconds: float  # run time of all processes, summed


def write(sweep: Sweep, output: Path) -> Path:
    """Writes <output>/<name>.md, whole or not at all, and returns where.

    Raises WorkdirError for files of a run that cannot be read; names them.
    """
    runs = {entry.name: workdirs.read(entry.workdir, entry.name) for entry in sweep.entries}
    return write_whole(output / f"{sweep.name}.md", document(sweep, runs))


def document(sweep: Sweep, runs: Runs) -> str:
    """The Markdown of a sweep: question, command, provenance, tables, glossary."""
    found = {name: run.results for name, run in runs.items()}
    against, notes = against_references(sweep.entries, runs)
    question, *rest = sweep.doc.strip().splitlines()
    # The docstring's command is a pattern; the actual command stands below.
    text = "\n".join(line for line in rest if not line.startswith("    python launch/sweep.py"))
    configurations = [{"run": entry.name, "--config": entry.text} for entry in sweep.entries]
    sections = {
        "Click prediction on test": overview.overview(found),
        "Labels saved at equal AUC": curves.labels_saved(found),
        "Differences from the run of reference": against,
        "Best score on validation, for choosing": validation(runs),
        "Next-item retrieval over the whole catalogue": retrieval(runs),
        "AUC by bucket, online histories, first seed": buckets(sweep.entries, runs),
        "Configurations": Table.of(configurations, labels=2),
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
            merged = Table(found.table.header or merged.header, rows, found.table.labels)
            notes += found.notes
    return merged, notes


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
    """tables.retrieval of all runs that have one; a metric that one lacks is empty there."""
    lines = []
    for name, run in runs.items():
        table = tables.retrieval(run.results.get("retrieval", []))
        lines += [{"run": name} | dict(zip(table.header, row, strict=True)) for row in table.rows]
    return Table.of(lines, labels=5)


def buckets(entries: Sequence[Entry], runs: Runs) -> Table:
    """AUC by bucket, models side by side, of the entries with `buckets`."""
    lines = []
    for name in (entry.name for entry in entries if entry.buckets):
        for what, by_model in runs[name].results.get("buckets", {}).items():
            for index, first in enumerate(next(iter(by_model.values()))):
                upper = "up" if first["upper"] is None else f"below {first['upper']}"
                line = {"run": name, "property": what.replace("_", " ")}
                line |= {"bucket": f"{first['lower']} and {upper}"}
                line |= {"impressions": str(first["count"])}
                for model, found in by_model.items():
                    line[model] = tables.spread([found[index]["auc"]], ".4f")
                if first["count"]:
                    lines.append(line)
    return Table.of(lines, labels=3)
