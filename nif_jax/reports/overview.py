"""Tables over many runs, and a Markdown document of them.

`runs` is label -> results.json everywhere, in the order of the lines.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from nif_jax.metrics import bootstrap
from nif_jax.reports import curves, tables
from nif_jax.reports.curves import Runs, config_of
from nif_jax.reports.render import render
from nif_jax.reports.results import HISTORIES
from nif_jax.reports.tables import BAYES_SHARE, METRIC_TITLES, NOT_AVAILABLE, REFERENCE, Table

_METRICS = ("auc", "gauc", "logloss", "ece", "pcoc")


def overview(runs: Runs, histories: Sequence[str] = HISTORIES) -> Table:
    """Data set x model: metrics, and differences from the run's own base with interval and verdict.

    A difference is the mean over seeds, its 95 % interval by paired bootstrap, and the verdict:
    "+0.48 [+0.10, +0.86] better". Runs of one data set stand together.
    """
    compared = {label: tables.comparison_lines(found["rows"]) for label, found in runs.items()}
    bounded = any(BAYES_SHARE in line for some in compared.values() for line in some)
    lines = []
    for label, found in runs.items():
        differences = {
            (tables.split_label(e["split"]), e["history"], e["model"], e["metric"]): e
            for e in found.get("differences", [])
            if e["reference"] == REFERENCE
        }
        name = found["run"].get("dataset", {}).get("name", NOT_AVAILABLE)
        for line in (line for line in compared[label] if line["history"] in histories):
            key = line["split"], line["history"], line["model"]
            # Rows have the split "test", which distinguishes no runs.
            split = tables.split_label(config_of(found).get("data.split", line["split"]))
            cells = {"data set": name, "split": split, "run": label}
            cells |= {column: line[column] for column in ("history", "model", "seeds")}
            for metric in _METRICS:
                cells[METRIC_TITLES[metric]] = line[METRIC_TITLES[metric]]
                if metric in bootstrap.SIGNS:
                    title = f"Δ{tables.difference_title(metric)} vs base"
                    cells[title] = _difference(line["model"], differences.get((*key, metric)))
                if bounded and metric == "auc":
                    cells[BAYES_SHARE] = line.get(BAYES_SHARE, NOT_AVAILABLE)
            lines.append(cells)
    first = list(dict.fromkeys(line["data set"] for line in lines))
    lines.sort(
        key=lambda cells: (first.index(cells["data set"]), histories.index(cells["history"]))
    )
    return Table.of(lines, labels=6)


def config_differences(runs: Runs) -> Table:
    """The keys of the config that are not the same in all runs; "–" where a run has no such key."""
    configs = {label: config_of(run) for label, run in runs.items()}
    lines = [
        {"key": key}
        | {label: _plain(key, c[key]) if key in c else "–" for label, c in configs.items()}
        for key in curves.differing_keys(list(configs.values()))
    ]
    return Table.of(lines, labels=len(runs) + 1)


def environment(runs: Runs) -> Table:
    """Versions, devices, commit, data, and fingerprint of the test impressions of each run."""
    lines = []
    for label, found in runs.items():
        run, data = found["run"], found["run"].get("dataset", {})
        cells = {
            "data set": data.get("name"),
            **{key: data.get(key) for key in ("events", "users", "items")},
            "test impressions": data.get("impressions", {}).get("test"),
            "fingerprint": data.get("test_fingerprint"),
            "jax": run.get("jax"),
            "flax": run.get("flax"),
            "devices": ", ".join(run.get("devices", [])),
            "commit": (run.get("commit") or "")[:12],
            "origin of the data": data.get("origin"),
        }
        texts = {key: f"{c:,}" if isinstance(c, int) else c for key, c in cells.items()}
        lines.append({"run": label} | {key: c or NOT_AVAILABLE for key, c in texts.items()})
    return Table.of(lines, labels=12)


def selections(runs: Runs) -> Table:
    """Run x seed: the selected variant, and the validation metric of each candidate."""
    found = [(label, entry) for label, one in runs.items() for entry in one.get("selection", [])]
    table = tables.selection([entry for _, entry in found])
    rows = [[label, *row] for (label, _), row in zip(found, table.rows, strict=True)]
    return Table(["run", *table.header], rows, labels=table.labels + 1)


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
    if model == REFERENCE:
        return "–"
    if entry is None:
        return NOT_AVAILABLE
    cells = tables.difference_cells(entry)
    mean = cells["difference"].partition(" ")[0]
    return f"{mean} {cells['95 % interval']} {cells['verdict']}"


def _plain(key: str, value: Any) -> str:
    if key == "data.split":
        return tables.split_label(value)
    return value if isinstance(value, str) else json.dumps(value)
