"""Tables over many runs, and a Markdown document of them.

`runs` is label -> results.json everywhere, in the order of the lines.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from nif_jax.reports import curves, tables
from nif_jax.reports.curves import Runs, config_of
from nif_jax.reports.render import render
from nif_jax.reports.results import HISTORIES

_METRICS = {
    "auc": "ΔAUC, pt",
    "gauc": "ΔGAUC, pt",
    "logloss": "ΔLogLoss",
    "ece": None,
    "pcoc": None,
}


def overview(runs: Runs, histories: Sequence[str] = HISTORIES) -> tables.Table:
    """Data set x model: metrics, and differences from the run's own base with interval and verdict.

    A difference is the mean over seeds, its 95 % interval by paired bootstrap, and the verdict:
    "+0.48 [+0.10, +0.86] better". Runs of one data set stand together.
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
            for e in found.get("differences", [])
            if e["reference"] == tables.REFERENCE
        }
        name = found["run"].get("dataset", {}).get("name", tables.NOT_AVAILABLE)
        for key in (key for key in groups if key[1] in histories):
            # Rows have the split "test", which distinguishes no runs.
            split = tables.split_label(config_of(found).get("data.split", key[0]))
            cells = [name, split, label, *key[1:], str(len(groups[key]))]
            for metric, delta in _METRICS.items():
                cells += tables.metric_cells(groups[key], (metric,))
                cells += [_difference(key[2], compared.get((*key, metric)))] if delta else []
                cells += [tables.bayes_cell(groups, key)] if bounded and metric == "auc" else []
            lines.append(cells)
    first = list(dict.fromkeys(line[0] for line in lines))
    lines.sort(key=lambda line: (first.index(line[0]), histories.index(line[3])))
    return tables.Table(header, lines, labels=6)


def config_differences(runs: Runs) -> tables.Table:
    """The keys of the config that are not the same in all runs; "–" where a run has no such key."""
    configs = list(map(config_of, runs.values()))
    keys = dict.fromkeys(key for config in configs for key in config)
    rows = [[key, *(_plain(key, c[key]) if key in c else "–" for c in configs)] for key in keys]
    rows = [row for row in rows if len(set(row[1:])) > 1]
    return tables.Table(["key", *runs], rows, labels=len(runs) + 1)


def environment(runs: Runs) -> tables.Table:
    """Versions, devices, commit, data, and fingerprint of the test impressions of each run."""
    header = [
        "run",
        "data set",
        "events",
        "users",
        "items",
        "test impressions",
        "fingerprint",
        "jax",
        "flax",
        "devices",
        "commit",
        "origin of the data",
    ]
    rows = []
    for label, found in runs.items():
        run, data = found["run"], found["run"].get("dataset", {})
        cells = [
            *(data.get(key) for key in ("name", "events", "users", "items")),
            data.get("impressions", {}).get("test"),
            data.get("test_fingerprint"),
            run.get("jax"),
            run.get("flax"),
            ", ".join(run.get("devices", [])),
            (run.get("commit") or "")[:12],
            data.get("origin"),
        ]
        texts = (f"{cell:,}" if isinstance(cell, int) else cell for cell in cells)
        rows.append([label, *(text or tables.NOT_AVAILABLE for text in texts)])
    return tables.Table(header, rows, labels=len(header))


def selections(runs: Runs) -> tables.Table:
    """Run x seed: the selected variant, and the validation metric of each candidate."""
    found = [(label, entry) for label, one in runs.items() for entry in one.get("selection", [])]
    table = tables.selection([entry for _, entry in found])
    rows = [[label, *row] for (label, _), row in zip(found, table.rows, strict=True)]
    return tables.Table(["run", *table.header], rows, labels=table.labels + 1)


def document(runs: Runs, title: str, command: str) -> str:
    """A Markdown document: overview, labels saved, config differences, and a glossary."""
    sections = {
        "": overview(runs),
        "Labels saved at equal AUC": curves.labels_saved(runs),
        "Selected on validation": selections(runs),
        "Where the configurations differ": config_differences(runs),
    }
    command = " ".join(command.splitlines())
    return render("runs.md.j2", title=title, command=command, sections=sections)


def _difference(model: str, entry: Mapping[str, Any] | None) -> str:
    if model == tables.REFERENCE:
        return "–"
    if entry is None:
        return tables.NOT_AVAILABLE
    mean, interval = tables.difference_cells(entry)
    return f"{mean.partition(' ')[0]} {interval} {entry['verdict']}"


def _plain(key: str, value: Any) -> str:
    if key == "data.split":
        return tables.split_label(value)
    return value if isinstance(value, str) else json.dumps(value)
