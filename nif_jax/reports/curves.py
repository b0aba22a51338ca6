"""AUC over runs that differ in one number, and how many labels a model saves.

Runs whose configs are equal but for one numeric key, such as flow.horizon, are points of a curve.
Runs of one point (other variants, other seeds) are merged.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from nif_jax.reports.plots import STYLE, png, series_style
from nif_jax.reports.results import HISTORIES, ROW_KEYS
from nif_jax.reports.tables import NOT_AVAILABLE, REFERENCE, Table, model_rank
from nif_jax.reports.workdirs import Workdir

LABEL_SHARE = "data.label_share"
SAME = ("rows", "seed", "num_seeds", "init_from", "xla_flags", "data.cache_dir")
"""Keys in which runs of one point may differ."""
_NAMED_KEYS = 3


class Family(NamedTuple):
    """Runs that differ in one numeric key."""

    key: str
    name: str  # the data set and what else distinguishes this family from the others
    rows: pd.DataFrame  # of results.json, with the "value" of the key, rising
    labels: Mapping[float, int | None]  # value, rising -> impressions that rankers train on

    def values(self, history: str) -> dict[str, dict[float, list[float]]]:
        """Model -> value of the key -> AUC of each seed, where it is defined."""
        rows = self.rows[self.rows["history"] == history].dropna(subset="auc")
        found = rows.groupby(["model", "value"])["auc"].agg(list)
        models = set(rows["model"])
        return {name: found[name].to_dict() for name in model_rank(rows["model"]) if name in models}


def differing_keys(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys that do not have the same value in all configs, in their order."""
    keys = dict.fromkeys(key for config in configs for key in config)
    return [key for key in keys if len({repr(config.get(key)) for config in configs}) > 1]


def families(runs: Sequence[Workdir]) -> list[Family]:
    """All families of at least two points among runs."""
    configs = [{k: value for k, value in run.config.items() if k not in SAME} for run in runs]
    keys, found = differing_keys(configs), []
    for key in keys:
        groups: dict[str, list[Workdir]] = {}
        for run, config in zip(runs, configs, strict=True):
            if type(config.get(key)) in (int, float):
                rest = repr([config.get(other) for other in keys if other != key])
                groups.setdefault(rest, []).append(run)
        members = [some for some in groups.values() if len({run.config[key] for run in some}) > 1]
        names = _names([some[0] for some in members], key)
        found += [_family(key, *named) for named in zip(names, members, strict=True)]
    return found


def labels_saved(runs: Sequence[Workdir]) -> Table:
    """Labels with which each model reaches the AUC of the base ranker with the most labels.

    Mean AUC over seeds, linear in the logarithm of the number of labels between the fractions that
    were tried; of several crossings the one with the fewest labels counts.
    """
    lines = []
    for family in families(runs):
        counts = {share: n for share, n in family.labels.items() if n is not None}
        if family.key != LABEL_SHARE or len(counts) < len(family.labels):
            continue
        most = max(counts)
        for history in HISTORIES:
            by_model = family.values(history)
            base = by_model.pop(REFERENCE, {})
            if most not in base:
                continue
            target = statistics.fmean(base[most])
            for model, by_share in by_model.items():
                if len(by_share) < 2:
                    continue
                areas = list(map(statistics.fmean, by_share.values()))
                found = labels_needed([counts[share] for share in by_share], areas, target)
                seeds = sorted({len(areas) for areas in by_share.values()})
                line = {"data set": family.name, "history": history, "model": model}
                line |= {"seeds": "–".join(map(str, seeds)), "AUC to reach": f"{target:.4f}"}
                lines.append(line | _needed_cells(*found, counts[most]))
    return Table.of(lines, labels=4)


def labels_needed(
    labels: Sequence[float], areas: Sequence[float], target: float
) -> tuple[float | None, bool]:
    """The fewest of rising numbers of labels with which areas reach a target, log-linearly.

    None if no number does; True with the first number, since fewer may do.
    """
    reached = next((index for index, area in enumerate(areas) if area >= target), None)
    if not reached:
        return (None, False) if reached is None else (float(labels[0]), True)
    pair = slice(reached - 1, reached + 1)
    return math.exp(np.interp(target, areas[pair], np.log(labels[pair]))), False


@matplotlib.rc_context(fname=STYLE)
def curve_plot(family: Family) -> bytes:
    """A PNG of one panel per kind of history; bars are standard deviations over seeds."""
    values = list(family.labels)
    figure = Figure(figsize=(9.0, 3.8), layout="constrained")
    panels = figure.subplots(1, len(HISTORIES), sharex=True, sharey=True)
    for panel, history in zip(panels, HISTORIES, strict=True):
        for index, (model, by_value) in enumerate(family.values(history).items()):
            means = [statistics.fmean(areas) for areas in by_value.values()]
            bars = [statistics.stdev(a) if len(a) > 1 else 0.0 for a in by_value.values()]
            style = {"markersize": 5, "capsize": 2, **series_style(index)}
            panel.errorbar(list(by_value), means, bars, label=model, **style)
        panel.set(title=f"{history} histories", xlabel=family.key)
        if max(values) >= 10 * min(values) > 0:
            panel.set_xscale("log")
        panel.set_xticks(values, [f"{value:g}" for value in values])
        panel.minorticks_off()
    panels[0].set_ylabel("test AUC")
    handles = max((panel.get_legend_handles_labels() for panel in panels), key=lambda h: len(h[1]))
    figure.legend(*handles, loc="outside lower left", ncols=6)
    return png(figure)


def _needed_cells(labels: float | None, at_most: bool, most: int) -> dict[str, str]:
    columns = ("labels needed", "share of base's", "labels saved")
    if labels is None:
        return dict.fromkeys(columns, NOT_AVAILABLE) | {"labels needed": "not reached"}
    share = labels / most
    below, above = ("≤ ", "≥ ") if at_most else ("", "")
    cells = (f"{below}{labels:,.0f} of {most:,}", f"{below}{share:.1%}", f"{above}{1 - share:.1%}")
    return dict(zip(columns, cells, strict=True))


def _family(key: str, name: str, runs: Sequence[Workdir]) -> Family:
    """A family of runs; of rows that several of its runs have, the first counts."""
    runs = sorted(runs, key=lambda run: run.config[key])
    parts = [pd.DataFrame(run.rows, columns=ROW_KEYS).assign(value=run.config[key]) for run in runs]
    rows = pd.concat(parts).drop_duplicates(["value", "model", "seed", "split", "history"])
    labels: dict[float, int | None] = {}
    for run in runs:
        labels.setdefault(run.config[key], run.dataset.get("impressions", {}).get("train"))
    return Family(key, name, rows, labels)


def _names(runs: Sequence[Workdir], key: str) -> list[str]:
    """The data set of each run; where these are equal, with other keys that differ."""
    leaky = [" (leaky)" if run.config.get("data.split") == "random" else "" for run in runs]
    names = [f"{run.data_name}{sign}" for run, sign in zip(runs, leaky, strict=True)]
    if len(set(names)) == len(names):
        return names
    configs = [run.config for run in runs]
    keys = [k for k in differing_keys(configs) if k not in (*SAME, key)][:_NAMED_KEYS]
    values = [[f"{k}={c[k]}" if k in c else f"no {k}" for k in keys] for c in configs]
    return [f"{name}: {', '.join(some)}" for name, some in zip(names, values, strict=True)]
