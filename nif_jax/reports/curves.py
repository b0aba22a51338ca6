"""AUC over runs that differ in one number, and how many labels a model saves.

Runs whose configs are equal but for one numeric key are points of a curve: AUC by
config.data.label_share, by flow.horizon, and so on. Runs of one point (other variants, other
seeds) are merged. `runs` is label -> results.json everywhere.
"""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from nif_jax.reports.plots import STYLE, png, series_style
from nif_jax.reports.results import HISTORIES
from nif_jax.reports.tables import NOT_AVAILABLE, REFERENCE, Table, model_rank, split_label

Runs = Mapping[str, Mapping[str, Any]]

LABEL_SHARE = "data.label_share"
SAME = ("rows", "seed", "num_seeds", "init_from", "xla_flags", "data.cache_dir")
"""Keys in which runs of one point may differ."""
_NAMED_KEYS = 3


@dataclasses.dataclass(frozen=True)
class Family:
    """Runs that differ in one numeric key."""

    key: str
    name: str  # the data set and what else distinguishes this family from the others
    points: Mapping[float, Sequence[Mapping[str, Any]]]  # value of the key, rising -> rows there
    labels: Mapping[float, int | None]  # value of the key -> impressions that rankers train on

    def values(self, history: str) -> dict[str, dict[float, list[float]]]:
        """Model -> value of the key -> AUC of each seed, where it is defined."""
        found: dict[str, dict[float, list[float]]] = {}
        for value, rows in self.points.items():
            for row in rows:
                if row["history"] == history and row["auc"] is not None:
                    by_value = found.setdefault(row["model"], {})
                    by_value.setdefault(value, []).append(row["auc"])
        return {model: found[model] for model in model_rank(found) if model in found}


def config_of(run: Mapping[str, Any]) -> Mapping[str, Any]:
    """The flat config of a results.json."""
    return run["run"].get("config", {})


def differing_keys(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys that do not have the same value in all configs, in their order."""
    keys = dict.fromkeys(key for config in configs for key in config)
    return [key for key in keys if len({repr(config.get(key)) for config in configs}) > 1]


def families(runs: Runs) -> list[Family]:
    """All families of at least two points among runs."""
    configs = {
        label: {key: value for key, value in config_of(run).items() if key not in SAME}
        for label, run in runs.items()
    }
    keys, found = differing_keys(list(configs.values())), []
    for key in keys:
        groups: dict[str, list[str]] = {}
        for label, config in configs.items():
            if type(config.get(key)) in (int, float):
                rest = repr([config.get(other) for other in keys if other != key])
                groups.setdefault(rest, []).append(label)
        members = [
            [runs[label] for label in labels]
            for labels in groups.values()
            if len({configs[label][key] for label in labels}) > 1
        ]
        names = _names([group[0] for group in members], key)
        found += [_family(key, *named) for named in zip(names, members, strict=True)]
    return found


def labels_saved(runs: Runs) -> Table:
    """Labels with which each model reaches the AUC of the base ranker with the most labels.

    Mean AUC over seeds, linear in the logarithm of the number of labels between the fractions that
    were tried; of several crossings the one with the fewest labels counts.
    """
    header = [
        "data set",
        "history",
        "model",
        "seeds",
        "AUC to reach",
        "labels needed",
        "share of base's",
        "labels saved",
    ]
    table = Table(header, [], labels=4)
    swept = [f for f in families(runs) if f.key == LABEL_SHARE and None not in f.labels.values()]
    for family, history in ((family, history) for family in swept for history in HISTORIES):
        by_model, most = family.values(history), max(family.points)
        if most not in by_model.get(REFERENCE, {}):
            continue
        labels = {k: v for k, v in family.labels.items() if v is not None}  # none is, see above
        target = statistics.fmean(by_model[REFERENCE][most])
        for model, by_share in by_model.items():
            if model == REFERENCE or len(by_share) < 2:
                continue
            counts = [labels[share] for share in by_share]
            needed = labels_needed(counts, list(map(statistics.fmean, by_share.values())), target)
            seeds = "–".join(map(str, sorted({len(areas) for areas in by_share.values()})))
            cells = _needed_cells(*needed, labels[most])
            table.rows.append([family.name, history, model, seeds, f"{target:.4f}", *cells])
    return table


def labels_needed(
    labels: Sequence[float], areas: Sequence[float], target: float
) -> tuple[float | None, bool]:
    """The fewest of rising numbers of labels with which areas reach a target, log-linearly.

    None if no number does; True with the first number, since fewer may do.
    """
    if areas[0] >= target:
        return float(labels[0]), True
    for index in range(1, len(labels)):
        if areas[index] >= target:
            pair = slice(index - 1, index + 1)
            return math.exp(np.interp(target, areas[pair], np.log(labels[pair]))), False
    return None, False


@matplotlib.rc_context(fname=STYLE)
def curve_plot(family: Family) -> bytes:
    """A PNG of one panel per kind of history; bars are standard deviations over seeds.

    The horizontal axis is logarithmic where values span a factor of ten.
    """
    values = list(family.points)
    figure = Figure(figsize=(9.0, 3.8), layout="constrained")
    panels = figure.subplots(1, len(HISTORIES), sharex=True, sharey=True)
    for panel, history in zip(panels, HISTORIES, strict=True):
        for index, (model, by_value) in enumerate(family.values(history).items()):
            panel.errorbar(
                list(by_value),
                list(map(statistics.fmean, by_value.values())),
                [statistics.stdev(a) if len(a) > 1 else 0.0 for a in by_value.values()],
                markersize=5,
                capsize=2,
                label=model,
                **series_style(index),
            )
        panel.set(title=f"{history} histories", xlabel=family.key)
        if min(values) > 0 and max(values) >= 10 * min(values):
            panel.set_xscale("log")
        panel.set_xticks(values, [f"{value:g}" for value in values])
        panel.minorticks_off()
    panels[0].set_ylabel("test AUC")
    handles = max((panel.get_legend_handles_labels() for panel in panels), key=lambda h: len(h[1]))
    figure.legend(*handles, loc="outside lower left", ncols=6)
    return png(figure)


def _needed_cells(labels: float | None, at_most: bool, most: int) -> tuple[str, str, str]:
    if labels is None:
        return "not reached", NOT_AVAILABLE, NOT_AVAILABLE
    below, above = ("≤ ", "≥ ") if at_most else ("", "")
    return (
        f"{below}{labels:,.0f} of {most:,}",
        f"{below}{labels / most:.1%}",
        f"{above}{1 - labels / most:.1%}",
    )


def _family(key: str, name: str, runs: Sequence[Mapping[str, Any]]) -> Family:
    """A family of runs; of rows that several of its runs have, the first counts."""
    points: dict[float, dict[tuple, Mapping[str, Any]]] = {}
    labels: dict[float, int | None] = {}
    for run in sorted(runs, key=lambda run: config_of(run)[key]):
        value = config_of(run)[key]
        rows = points.setdefault(value, {})
        for row in run["rows"]:
            rows.setdefault((row["model"], row["seed"], row["split"], row["history"]), row)
        counted = run["run"].get("dataset", {}).get("impressions", {})
        labels.setdefault(value, counted.get("train"))
    return Family(key, name, {value: list(r.values()) for value, r in points.items()}, labels)


def _names(runs: Sequence[Mapping[str, Any]], key: str) -> list[str]:
    """The data set of each run; where these are equal, with other keys that differ."""
    names = []
    for run in runs:
        split = config_of(run).get("data.split", "")
        leaky = split_label(split).removeprefix(split).strip()
        names.append(" ".join(filter(None, (run["run"].get("dataset", {}).get("name"), leaky))))
    if len(set(names)) == len(names):
        return names
    keys = [k for k in differing_keys(list(map(config_of, runs))) if k not in (*SAME, key)]
    more = " ..." if len(keys) > _NAMED_KEYS else ""
    described = [
        ", ".join(
            f"{k}={config_of(run)[k]}" if k in config_of(run) else f"no {k}"
            for k in keys[:_NAMED_KEYS]
        )
        for run in runs
    ]
    return [f"{name}: {text}{more}" for name, text in zip(names, described, strict=True)]
