"""Tables over many runs, in the order of the runs."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from nif_jax.metrics import bootstrap
from nif_jax.reports import tables
from nif_jax.reports.curves import differing_keys
from nif_jax.reports.results import HISTORIES
from nif_jax.reports.tables import BAYES_SHARE, METRIC_TITLES, NOT_AVAILABLE, REFERENCE, Table
from nif_jax.reports.workdirs import Workdir

_METRICS = ("auc", "gauc", "rank", "logloss", "ece", "pcoc")


def overview(runs: Sequence[Workdir], histories: Sequence[str] = HISTORIES) -> Table:
    """Data set x model: metrics, and differences from the run's own base with interval and verdict.

    A difference is the mean over seeds, its 95 % interval by paired bootstrap, and the verdict:
    "+0.48 [+0.10, +0.86] better". Runs of one data set stand together.
    """
    compared = [(run, line) for run in runs for line in tables.comparison(run.rows).lines()]
    bounded = any(BAYES_SHARE in line for _, line in compared)
    against_base = {
        (run.label, entry["history"], entry["model"], entry["metric"]): entry
        for run in runs
        for entry in run.results.get("differences", [])
        if entry["reference"] == REFERENCE
    }
    lines = []
    for run, found in compared:
        # Rows have the split "test", which distinguishes no runs.
        split = tables.split_label(run.config.get("data.split", found["split"]))
        line = {"data set": run.data_name, "split": split, "run": run.label}
        line |= {column: found[column] for column in ("history", "model", "seeds")}
        for metric in _METRICS:
            line[METRIC_TITLES[metric]] = found[METRIC_TITLES[metric]]
            if metric in bootstrap.SIGNS:
                entry = against_base.get((run.label, found["history"], found["model"], metric))
                title = f"Δ{tables.difference_title(metric)} vs base"
                line[title] = "–" if found["model"] == REFERENCE else _difference(entry)
            if bounded and metric == "auc":
                line[BAYES_SHARE] = found.get(BAYES_SHARE, NOT_AVAILABLE)
        lines.append(line)
    lines = [line for line in lines if line["history"] in histories]
    first = [run.data_name for run in runs]
    lines.sort(key=lambda line: (first.index(line["data set"]), histories.index(line["history"])))
    return Table.of(lines, labels=6)


def _difference(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return NOT_AVAILABLE
    cells = tables.difference_cells(entry)
    mean = cells["difference"].partition(" ")[0]
    return f"{mean} {cells['95 % interval']} {cells['verdict']}"


def run_differences(runs: Sequence[Workdir]) -> Table:
    """What differs between runs: keys of the config, versions, devices, commit, and data."""
    described = {}
    for run in runs:
        parts = {key: value for key, value in run.results["run"].items() if key != "config"}
        data = {f"dataset.{key}": value for key, value in parts.pop("dataset", {}).items()}
        described[run.label] = {**run.config, **parts, **data}
    lines = []
    for key in differing_keys(list(described.values())):
        line = {"key": key}
        for label, one in described.items():
            value = one.get(key, "–")
            line[label] = value if isinstance(value, str) else json.dumps(value)
        if key == "data.split":
            line = {label: tables.split_label(text) for label, text in line.items()}
        lines.append(line)
    return Table.of(lines, labels=len(runs) + 1)


def section(runs: Sequence[Workdir], name: str) -> Table:
    """The table of "selection" or "retrieval" of all runs; what a run lacks is empty there."""
    parts = [getattr(tables, name)(run.results.get(name, [])) for run in runs]
    return tables.join(parts, [run.label for run in runs])


def buckets(runs: Sequence[Workdir]) -> Table:
    """AUC by bucket of each property, models side by side, where a bucket has impressions."""
    lines = []
    parts = [(run, part) for run in runs for part in run.results.get("buckets", {}).items()]
    for run, (name, by_model) in parts:
        for same in zip(*by_model.values(), strict=True):
            lower, upper, count = (same[0][key] for key in ("lower", "upper", "count"))
            line = {"run": run.label, "property": name.replace("_", " ")}
            line["bucket"] = f"{lower} and up" if upper is None else f"{lower} and below {upper}"
            line["impressions"] = str(count)
            for model, bucket in zip(by_model, same, strict=True):
                line[model] = tables.spread([bucket["auc"]], ".4f")
            lines += [line] if count else []
    return Table.of(lines, labels=3)


def validation(runs: Sequence[Workdir]) -> Table:
    """The best validation metric of each ranker, which its step was selected by."""
    lines = []
    for run in runs:
        metric = run.config["train.metric"]
        name = f"validation/{metric}"
        values = [(r["stage"], r["seed"], r["values"].get(name)) for r in run.records]
        frame = pd.DataFrame(values, columns=["model", "seed", "best"]).dropna()
        best = frame.groupby(["model", "seed"])["best"].max()
        for model in dict.fromkeys(row["model"] for row in run.rows):
            if model in best.index.get_level_values("model"):
                line = {"run": run.label, "model": model, "seeds": str(len(best[model]))}
                lines.append(line | {"metric": metric, "best": tables.spread(best[model], ".4f")})
    return Table.of(lines, labels=4)
