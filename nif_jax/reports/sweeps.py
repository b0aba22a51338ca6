"""results/<sweep>.md and .json: the results of a sweep's finished runs, and their command."""

import dataclasses
import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nif_jax.data.files import write_whole
from nif_jax.reports import curves, overview, sweep_tables, tables, workdirs
from nif_jax.reports.render import render
from nif_jax.reports.results import METRICS, RESULTS_FILE
from nif_jax.reports.sweep_tables import Entry, Runs


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
    entries, made = sweep.entries, provenance(sweep, runs)
    found = {name: run.results for name, run in runs.items()}
    against, notes = sweep_tables.against_references(entries, runs)
    question, *rest = sweep.doc.strip().splitlines()
    # The docstring's command is a pattern; the actual command stands below.
    text = "\n".join(line for line in rest if not line.startswith("    python launch/sweep.py"))
    facts = [
        f"{len(runs)} of {len(runs) + len(sweep.absent)} runs are finished",
        *(f"{name}: {why}" for name, why in sweep.absent.items()),
        f"seeds {', '.join(map(str, made['seeds']))}; finished {made['finished']}; "
        f"{sweep.seconds / 3600:.2f} hours of processes",
        f"commits {', '.join(made['commits']) or 'unknown'}; {made['environment']}",
        *notes,
    ]
    sections = {
        "Click prediction on test": overview.overview(found),
        "Labels saved at equal AUC": curves.labels_saved(found),
        "Differences from the run of reference": against,
        "Best score on validation, for choosing": sweep_tables.validation(runs),
        "Next-item retrieval over the whole catalogue": sweep_tables.retrieval(runs),
        "AUC by bucket, online histories, first seed": sweep_tables.buckets(entries, runs),
        "Configurations": sweep_tables.configurations(entries),
    }
    return render("sweep.md.j2", name=sweep.name, question=question, text=text.strip(),
                  command=sweep.command, facts=facts, sections=sections)  # fmt: skip


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
    return {"sweep": sweep.name, "command": sweep.command, "absent": dict(sweep.absent),
            "seconds": sweep.seconds, **provenance(sweep, runs), "runs": found}  # fmt: skip


def provenance(sweep: Sweep, runs: Runs) -> dict[str, Any]:
    """Seeds, date of the last run, commits and environment; no path and no name of a machine."""
    last = max((entry.workdir / RESULTS_FILE).stat().st_mtime for entry in sweep.entries)
    described = [run.results["run"] for run in runs.values()]
    environments = [f"jax {one.get('jax')}, flax {one.get('flax')}, devices {one.get('devices')}"
                    for one in described]  # fmt: skip
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
        dict(zip(keys, key, strict=True)) | {"seeds": list(by_seed)}
        | {metric: [row[metric] for row in by_seed.values()] for metric in METRICS}
        for key, by_seed in tables.grouped(rows, keys).items()
    ]  # fmt: skip
