"""results/<sweep>.md and .json: what a sweep's finished runs measured, and what makes them."""

import dataclasses
import datetime
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nif_jax.metrics.writer import METRICS_FILE, read_metrics
from nif_jax.reports import tables
from nif_jax.reports.results import HISTORIES, METRICS, RESULTS_FILE, read_results

Found = Mapping[str, Mapping[str, Any]]
"""Name of a run -> its results.json, in the order of the tables."""


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
    """Writes <output>/<name>.md and <output>/<name>.json, each whole or not at all."""
    found = {entry.name: read_results(entry.workdir) for entry in sweep.entries}
    output.mkdir(parents=True, exist_ok=True)
    texts = {
        f"{sweep.name}.md": document(sweep, found),
        f"{sweep.name}.json": json.dumps(record(sweep, found), allow_nan=False) + "\n",
    }
    for name, text in texts.items():
        temporary = output / f"{name}.tmp"
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, output / name)
    return [output / name for name in texts]


def document(sweep: Sweep, found: Found) -> str:
    """The Markdown of a sweep."""
    made = provenance(sweep, found)
    question, _, rest = sweep.doc.strip().partition("\n")
    sections = {
        "Click prediction on test": comparison(found),
        "Against the run of reference": differences(sweep.entries, found),
        "Best validation score, by which settings are chosen": validation(sweep.entries, found),
        "Next-item retrieval over the whole catalogue": retrieval(found),
        "AUC by bucket, online histories, first seed": buckets(sweep.entries, found),
    }
    facts = [
        f"made by `{sweep.command}`",
        f"{len(found)} of {len(found) + len(sweep.absent)} runs are finished",
        *(f"{name}: {why}" for name, why in sweep.absent.items()),
        f"seeds {', '.join(map(str, made['seeds']))}; finished {made['finished']}; "
        f"{sweep.seconds / 3600:.2f} hours of processes",
        f"commits {', '.join(made['commits']) or 'unknown'}; {made['environment']}",
    ]
    parts = [f"# {sweep.name}: {question}", rest.strip(), "\n".join(f"- {f}" for f in facts)]
    for title, table in sections.items():
        if table.rows:
            parts += [f"## {title}", tables.markdown(table).rstrip()]
    return "\n\n".join(filter(None, parts)) + "\n"


def record(sweep: Sweep, found: Found) -> dict[str, Any]:
    """The same as JSON: of each run its config, and metrics with a value for each seed."""
    runs = {}
    for entry in sweep.entries:
        one = found[entry.name]
        runs[entry.name] = {
            "config": entry.text,
            "dataset": one["run"].get("dataset"),
            "rows": _by_seed(one["rows"], ("model", "split", "history"), METRICS),
            "retrieval": one.get("retrieval", []),
            "buckets": one.get("buckets", {}),
        }
    return {"sweep": sweep.name, "command": sweep.command, "absent": dict(sweep.absent),
            "seconds": sweep.seconds, **provenance(sweep, found), "runs": runs}  # fmt: skip


def provenance(sweep: Sweep, found: Found) -> dict[str, Any]:
    """Seeds, date of the last run, commits and environment; no path and no name of a machine."""
    last = max((entry.workdir / RESULTS_FILE).stat().st_mtime for entry in sweep.entries)
    runs = [one["run"] for one in found.values()]
    return {
        "finished": datetime.datetime.fromtimestamp(last, datetime.UTC).date().isoformat(),
        "seeds": sorted({row["seed"] for one in found.values() for row in one["rows"]}),
        "commits": list(dict.fromkeys(run["commit"] for run in runs if run.get("commit"))),
        "environment": "; ".join(dict.fromkeys(
            f"jax {run.get('jax')}, flax {run.get('flax')}, devices {run.get('devices')}"
            for run in runs
        )),
    }  # fmt: skip


def comparison(found: Found) -> tables.Table:
    """tables.comparison of all runs, one below the other."""
    return _stacked({name: tables.comparison(one["rows"]) for name, one in found.items()})


def retrieval(found: Found) -> tables.Table:
    """tables.retrieval of all runs that have one."""
    return _stacked({name: tables.retrieval(one["retrieval"])
                     for name, one in found.items() if one.get("retrieval")})  # fmt: skip


def differences(entries: Sequence[Entry], found: Found) -> tables.Table:
    """A run's models minus the same models of its reference, mean ± sd over the seeds of both.

    Both score the same test impressions, so the difference is taken seed by seed. AUC and GAUC are
    in points (0.01).
    """
    header = ["run", "minus", "history", "model", "seeds", "ΔAUC, pt", "ΔGAUC, pt", "ΔLogLoss"]
    table = tables.Table(header, [], labels=5)
    forms = {"auc": (100, "+.2f"), "gauc": (100, "+.2f"), "logloss": (1, "+.4f")}
    for entry in entries:
        if entry.reference not in found:
            continue
        own, other = (_rows(found[name]["rows"]) for name in (entry.name, entry.reference))
        for history in HISTORIES:
            for model in dict.fromkeys(row["model"] for row in found[entry.name]["rows"]):
                pairs = [(row, other[key]) for key, row in own.items()
                         if key[:2] == (history, model) and key in other]  # fmt: skip
                if not pairs:
                    continue
                cells = [
                    tables.spread([_minus(a[name], b[name], scale) for a, b in pairs], form)
                    for name, (scale, form) in forms.items()
                ]
                names = [entry.name, entry.reference, history, model, str(len(pairs))]
                table.rows.append([*names, *cells])
    return table


def validation(entries: Sequence[Entry], found: Found) -> tables.Table:
    """The validation metric that each ranker's step was chosen by, at that step."""
    table = tables.Table(["run", "model", "seeds", "metric", "best"], [], labels=4)
    for entry in entries:
        one = found[entry.name]
        metric = one["run"]["config"]["train.metric"]
        best: dict[str, dict[int, float]] = {}
        for line in read_metrics(entry.workdir / METRICS_FILE):
            value = line["values"].get(f"validation/{metric}")
            if value is not None:
                by_seed = best.setdefault(line["stage"], {})
                by_seed[line["seed"]] = max(value, by_seed.get(line["seed"], value))
        for model in dict.fromkeys(row["model"] for row in one["rows"]):
            values = list(best.get(model, {}).values())
            if values:
                table.rows.append([entry.name, model, str(len(values)), metric,
                                   tables.spread(values, ".4f")])  # fmt: skip
    return table


def buckets(entries: Sequence[Entry], found: Found) -> tables.Table:
    """AUC by bucket, models side by side, of the runs that ask for it."""
    chosen = {e.name: found[e.name].get("buckets", {}) for e in entries if e.buckets}
    models = list(dict.fromkeys(m for one in chosen.values() for by in one.values() for m in by))
    table = tables.Table(["run", "property", "bucket", "impressions", *models], [], labels=3)
    for name, one in chosen.items():
        for prop, by_model in one.items():
            for index, first in enumerate(next(iter(by_model.values()))):
                if first["count"]:
                    aucs = [by_model[m][index]["auc"] if m in by_model else None for m in models]
                    upper = "up" if first["upper"] is None else f"below {first['upper']}"
                    table.rows.append([
                        name, prop.replace("_", " "), f"{first['lower']} and {upper}",
                        str(first["count"]), *(tables.spread([auc], ".4f") for auc in aucs),
                    ])  # fmt: skip
    return table


def _stacked(parts: Mapping[str, tables.Table]) -> tables.Table:
    """Tables below each other, the run's name first; a column that one lacks is empty there."""
    header = list(dict.fromkeys(name for table in parts.values() for name in table.header))
    labels = max((table.labels for table in parts.values()), default=0)
    stacked = tables.Table(["run", *header], [], labels + 1)
    for name, table in parts.items():
        for row in table.rows:
            cells = dict(zip(table.header, row, strict=True))
            stacked.rows.append([name, *(cells.get(column, "") for column in header)])
    return stacked


def _rows(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str, int], Mapping[str, Any]]:
    """(history, model, seed) -> row."""
    return {(row["history"], row["model"], row["seed"]): row for row in rows}


def _minus(value: float | None, reference: float | None, scale: float) -> float | None:
    return None if value is None or reference is None else scale * (value - reference)


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
