"""results/<sweep>.md and .json: what a sweep's finished runs measured, and what makes them."""

import dataclasses
import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nif_jax.data.files import write_whole
from nif_jax.reports import curves, glossary, overview, sweep_tables, tables, workdirs
from nif_jax.reports.results import METRICS, RESULTS_FILE
from nif_jax.reports.sweep_tables import Entry, Runs


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A sweep as far as it is finished.

    Attributes:
      name: of its files.
      doc: its docstring.
      command: what makes it.
      entries: its finished runs.
      absent: name of a run without results -> why.
      seconds: what its runs took, one after the other.
    """

    name: str
    doc: str
    command: str
    entries: Sequence[Entry]
    absent: Mapping[str, str]
    seconds: float


def write(sweep: Sweep, output: Path) -> list[Path]:
    """Writes <output>/<name>.md and <output>/<name>.json, each whole or not at all.

    Raises:
      WorkdirError: a run's files cannot be read; names them.
    """
    runs = {entry.name: workdirs.read(entry.workdir, entry.name) for entry in sweep.entries}
    texts = {
        f"{sweep.name}.md": document(sweep, runs),
        f"{sweep.name}.json": json.dumps(record(sweep, runs), allow_nan=False) + "\n",
    }
    return [write_whole(output / name, text) for name, text in texts.items()]


def document(sweep: Sweep, runs: Runs) -> str:
    """The Markdown of a sweep: question, command, what it was made with, tables, their words."""
    entries, made = sweep.entries, provenance(sweep, runs)
    found = {name: run.results for name, run in runs.items()}
    against, notes = sweep_tables.against_references(entries, runs)
    question, *rest = sweep.doc.strip().splitlines()
    # The docstring's command is a pattern; what was called stands below.
    said = "\n".join(line for line in rest if not line.startswith("    python launch/sweep.py"))
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
    parts = [f"# {tables.escape(sweep.name)}: {question}", said.strip(), f"    {sweep.command}",
             "\n".join(f"- {tables.escape(fact)}" for fact in facts)]  # fmt: skip
    for title, table in sections.items():
        if table.rows:
            parts += [f"## {title}", tables.markdown(table).rstrip()]
    words = [f"- **{term}**: {meaning}" for term, meaning in glossary.chosen(parts).items()]
    return "\n\n".join([*filter(None, parts), "## How to read this", "\n".join(words)]) + "\n"


def record(sweep: Sweep, runs: Runs) -> dict[str, Any]:
    """The same as JSON: of each run its config, and metrics with a value for each seed."""
    keys = ("model", "split", "history")
    found = {
        entry.name: {
            "config": entry.text,
            "dataset": runs[entry.name].dataset,
            "rows": _by_seed(runs[entry.name].results["rows"], keys, METRICS),
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
    said = [run.results["run"] for run in runs.values()]
    return {
        "finished": datetime.datetime.fromtimestamp(last, datetime.UTC).date().isoformat(),
        "seeds": sorted({row["seed"] for run in runs.values() for row in run.results["rows"]}),
        "commits": list(dict.fromkeys(one["commit"] for one in said if one.get("commit"))),
        "environment": "; ".join(dict.fromkeys(
            f"jax {one.get('jax')}, flax {one.get('flax')}, devices {one.get('devices')}"
            for one in said
        )),
    }  # fmt: skip


def _by_seed(
    rows: Sequence[Mapping[str, Any]], keys: Sequence[str], names: Sequence[str]
) -> list[dict[str, Any]]:
    """Rows that differ in their seed only as one, with a list of values in order of "seeds"."""
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        label = tuple(row[key] for key in keys)
        group = groups.setdefault(label, dict(zip(keys, label, strict=True)))
        for name, value in [("seeds", row["seed"]), *((name, row[name]) for name in names)]:
            group.setdefault(name, []).append(value)
    return list(groups.values())
