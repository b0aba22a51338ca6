"""Tables over many runs, and a Markdown document of them.

`runs` is everywhere label -> results.json, in the order of the lines.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from nif_jax.reports import curves, glossary, tables
from nif_jax.reports.results import HISTORIES

_METRICS = {"auc": "ΔAUC, pt", "gauc": "ΔGAUC, pt", "logloss": "ΔLogLoss", "ece": None,
            "pcoc": None}  # fmt: skip


def overview(
    runs: Mapping[str, Mapping[str, Any]], histories: Sequence[str] = HISTORIES
) -> tables.Table:
    """Data set x model: metrics, and differences from the run's own base with interval and verdict.

    A difference is the mean over seeds, its 95 % interval by paired bootstrap, and what it means:
    "+0.48 [+0.10, +0.86] better".

    Args:
      runs: see module.
      histories: "online", "frozen" or both.
    """
    bounded = any(tables.has_bounds(found["rows"]) for found in runs.values())
    header = ["data set", "split", "run", "history", "model", "seeds"]
    for metric, delta in _METRICS.items():
        header += [tables.METRIC_TITLES[metric], *([f"{delta} vs base"] if delta else [])]
        header += [tables.BAYES_SHARE] if bounded and metric == "auc" else []
    lines = []
    for label, found in runs.items():
        groups = tables.grouped(found["rows"], ("split", "history", "model"))
        compared = {
            (e["split"], e["history"], e["model"], e["metric"]): e
            for e in found.get("differences", []) if e["reference"] == tables.REFERENCE
        }  # fmt: skip
        name = found["run"].get("dataset", {}).get("name", tables.NOT_AVAILABLE)
        for (split, history, model), by_seed in groups.items():
            if history not in histories:
                continue
            cells = [name, _split(found, split), label, history, model, str(len(by_seed))]
            for metric, delta in _METRICS.items():
                cells += tables.metric_cells(by_seed, (metric,))
                if delta and model == tables.REFERENCE:
                    cells.append("–")
                elif delta:
                    cells.append(_difference(compared.get((split, history, model, metric))))
                if bounded and metric == "auc":
                    bounds = (groups.get((split, history, end), {}) for end in tables.BOUNDS)
                    cells.append(tables.spread(tables.bayes_shares(by_seed, *bounds), ".3f"))
            lines.append(cells)
    # Runs of one data set stand together, in the order in which data sets and runs came.
    first = {name: place for place, name in reversed(list(enumerate(line[0] for line in lines)))}
    lines.sort(key=lambda line: (first[line[0]], histories.index(line[3])))
    return tables.Table(header, lines, labels=6)


def config_differences(runs: Mapping[str, Mapping[str, Any]]) -> tables.Table:
    """The keys of the config that are not the same in all runs; "–" where a run has no such key."""
    configs = [found["run"].get("config", {}) for found in runs.values()]
    keys = dict.fromkeys(key for config in configs for key in config)
    rows = [
        [key, *(_plain(key, config[key]) if key in config else "–" for config in configs)]
        for key in keys
    ]
    rows = [row for row in rows if len(set(row[1:])) > 1]
    return tables.Table(["key", *runs], rows, labels=len(runs) + 1)


def environment(runs: Mapping[str, Mapping[str, Any]]) -> tables.Table:
    """What each run ran on and with: versions, devices, commit, data, fingerprint of the test."""
    header = ["run", "data set", "events", "users", "items", "test impressions", "fingerprint",
              "jax", "flax", "devices", "commit", "origin of the data"]  # fmt: skip
    table = tables.Table(header, [], labels=len(header))
    for label, found in runs.items():
        run, data = found["run"], found["run"].get("dataset", {})
        cells = [
            data.get("name"), data.get("events"), data.get("users"), data.get("items"),
            data.get("impressions", {}).get("test"), data.get("test_fingerprint"),
            run.get("jax"), run.get("flax"), ", ".join(run.get("devices", [])) or None,
            (run.get("commit") or "")[:12] or None, data.get("origin"),
        ]  # fmt: skip
        table.rows.append([label, *map(_cell, cells)])
    return table


def selections(runs: Mapping[str, Mapping[str, Any]]) -> tables.Table:
    """Run x seed: which row `selected` is, and what each that it could be had on validation."""
    found = [(label, entry) for label, one in runs.items() for entry in one.get("selection", [])]
    table = tables.selection([entry for _, entry in found])
    rows = [[label, *row] for (label, _), row in zip(found, table.rows, strict=True)]
    return tables.Table(["run", *table.header], rows, labels=table.labels + 1)


def document(
    runs: Mapping[str, Mapping[str, Any]], title: str, command: str, notes: Sequence[str] = ()
) -> str:
    """A Markdown document: overview, labels saved, config differences, and what the words mean.

    Args:
      runs: see module.
      title: its heading.
      command: what makes it again.
      notes: paragraphs below the command.
    """
    command = " ".join(command.splitlines())
    parts = [f"# {tables.escape(title)}", f"    {command}", *notes,
             tables.markdown(overview(runs))]  # fmt: skip
    saved = curves.labels_saved(runs)
    if saved.rows:
        parts += ["## Labels saved at equal AUC", tables.markdown(saved)]
    selected = selections(runs)
    if selected.rows:
        parts += ["## Selected on validation", tables.markdown(selected)]
    differing = config_differences(runs)
    if differing.rows:
        parts += ["## Where the configurations differ", tables.markdown(differing)]
    parts += ["## How to read this", "".join(
        f"- **{term}**: {meaning}\n" for term, meaning in glossary.chosen(parts).items())]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def _difference(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return tables.NOT_AVAILABLE
    mean, interval = tables.difference_cells(entry)
    return f"{mean.partition(' ')[0]} {interval} {entry['verdict']}"


def _split(found: Mapping[str, Any], split: str) -> str:
    """How the data was split; rows say "test", which tells nothing among runs."""
    return tables.split_label(found["run"].get("config", {}).get("data.split", split))


def _plain(key: str, value: Any) -> str:
    if key == "data.split":
        return tables.split_label(value)
    return value if isinstance(value, str) else json.dumps(value)


def _cell(value: Any) -> str:
    if value is None:
        return tables.NOT_AVAILABLE
    return f"{value:,}" if isinstance(value, int) else str(value)
