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
    compared = {label: tables.comparison(found["rows"]).lines() for label, found in runs.items()}
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


def run_differences(runs: Runs) -> Table:
    """What differs between runs: keys of the config, versions, devices, commit, and data."""
    described = {}
    for label, found in runs.items():
        run = {
            key: value for key, value in found["run"].items() if key not in ("config", "dataset")
        }
        data = found["run"].get("dataset", {})
        described[label] = {**config_of(found), **run}
        described[label] |= {f"dataset.{key}": value for key, value in data.items()}
    lines = [
        {"key": key}
        | {label: _plain(key, one[key]) if key in one else "–" for label, one in described.items()}
        for key in curves.differing_keys(list(described.values()))
    ]
    return Table.of(lines, labels=len(runs) + 1)


def selections(runs: Runs) -> Table:
    """Run x seed: the selected variant, and the validation metric of each candidate."""
    parts = [tables.selection(found.get("selection", [])) for found in runs.values()]
    return tables.join(parts, runs)


def document(runs: Runs, title: str, command: str) -> str:
    """A Markdown document: overview, labels saved, config differences, and a glossary."""
    sections = {
        "": overview(runs),
        "Labels saved at equal AUC": curves.labels_saved(runs),
        "Selected on validation": selections(runs),
        "Where the runs differ": run_differences(runs),
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
