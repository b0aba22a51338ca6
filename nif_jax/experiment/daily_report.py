"""What --mode=daily writes of its days: results.json, a Markdown table, and AUC by day."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from nif_jax.config import flatten
from nif_jax.data.files import write_whole
from nif_jax.data.schema import Movelines
from nif_jax.experiment.days import NEVER, RETRAINED, UPDATED
from nif_jax.experiment.outputs import commit
from nif_jax.reports import plots, results, tables

TABLE_FILE, PICTURE_FILE = "daily.md", "plots/auc_by_day.png"
_METRICS = ("auc", "gauc", "logloss")


def write(
    config: ConfigDict,
    lines: Movelines,
    records: Sequence[Mapping[str, Any]],
    workdir: pathlib.Path,
) -> None:
    """Writes results.json, daily.md and the picture, and prints the table.

    Args:
      config: of the whole.
      lines: the log.
      records: of each day and way, in order, see daily.py.
      workdir: of the daily mode.
    """
    rows = [row for record in records for row in record["rows"]]
    described = {
        "config": flatten(config.to_dict()),
        "commit": commit(),
        "jax": jax.__version__,
        "dataset": {"name": lines.name, "origin": lines.origin, "events": lines.num_events},
    }
    days = [{k: v for k, v in record.items() if k != "rows"} for record in records]
    results.write_results(workdir / results.RESULTS_FILE, described, rows, days=days)
    areas = by_model(rows, "auc")
    auc_by_day(areas, workdir / PICTURE_FILE)
    text = to_markdown(rows, days)
    write_whole(workdir / TABLE_FILE, text)
    print(f"{text}\n{workdir / TABLE_FILE}, {workdir / PICTURE_FILE}")


def by_model(rows: Sequence[Mapping[str, Any]], metric: str) -> dict[str, dict[str, float]]:
    """model -> day -> the mean of a metric over seeds, NaN where it is undefined."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        value = np.nan if row[metric] is None else row[metric]
        found.setdefault(row["model"], {}).setdefault(row["split"], []).append(value)
    return {
        model: {day: float(np.mean(values)) for day, values in of_day.items()}
        for model, of_day in found.items()
    }


def to_markdown(rows: Sequence[Mapping[str, Any]], days: Sequence[Mapping[str, Any]]) -> str:
    """A table for each metric, one of the cost, and what the ways come to, as Markdown."""
    parts = []
    for metric in _METRICS:
        found = by_model(rows, metric)
        names = sorted({day for of_day in found.values() for day in of_day})
        table = [
            {"day": day} | {m: _number(of_day.get(day, np.nan)) for m, of_day in found.items()}
            for day in names
        ]
        means = {
            model: _number(float(np.mean([*of_day.values()]))) for model, of_day in found.items()
        }
        text = tables.markdown(tables.Table.of([*table, {"day": "mean"} | means], labels=1))
        parts.append(f"{tables.METRIC_TITLES[metric]}\n\n{text}")
    parts += [f"CPU seconds of this process\n\n{_cost_table(days)}", _summary(rows, days)]
    return "\n".join(parts)


def _number(value: float) -> str:
    return tables.NOT_AVAILABLE if np.isnan(value) else f"{value:.4f}"


def _costs(days: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """day -> way -> CPU seconds."""
    found: dict[str, dict[str, float]] = {}
    for record in days:
        seconds = sum(record["cpu_seconds"].values())
        found.setdefault(record["day"], {})[record["way"]] = seconds
    return found


def _cost_table(days: Sequence[Mapping[str, Any]]) -> str:
    table = []
    for record in days:
        cells = {
            "day": record["day"],
            "way": record["way"],
            "impressions": f"{record['trained']:,}",
        }
        cells |= {name: f"{seconds:.1f}" for name, seconds in record["cpu_seconds"].items()}
        table.append(cells | {"all": f"{sum(record['cpu_seconds'].values()):.1f}"})
    return tables.markdown(tables.Table.of(table, labels=2))


def _summary(rows: Sequence[Mapping[str, Any]], days: Sequence[Mapping[str, Any]]) -> str:
    """Sentences: on how many days an updated model is as good as the others, and its cost."""
    areas, lines = by_model(rows, "auc"), []
    for model in dict.fromkeys(name.partition(",")[0] for name in areas if "," in name):
        updated = areas[f"{model}, {UPDATED}"]
        for way in (NEVER, RETRAINED):
            other = areas[f"{model}, {way}"]
            good = sum(updated[day] >= other[day] for day in updated)
            lines.append(
                f"- {model}: AUC of {UPDATED} at least that of {way} on {good} of {len(updated)} "
                f"days; mean difference {np.mean([updated[d] - other[d] for d in updated]):+.4f}."
            )
    costs = list(_costs(days).values())[1:]  # the first day has one model for all ways
    if costs:
        ratios = [cost[UPDATED] / cost[RETRAINED] for cost in costs]
        total = [sum(cost[way] for cost in costs) for way in (UPDATED, RETRAINED)]
        lines.append(
            f"- CPU seconds of {UPDATED} over {RETRAINED}, after the first day: "
            f"{total[0] / total[1]:.2f} in all, {ratios[-1]:.2f} on the last day."
        )
    return "\n".join(lines) + "\n"


@matplotlib.rc_context(fname=plots.STYLE)
def auc_by_day(areas: Mapping[str, Mapping[str, float]], path: pathlib.Path) -> pathlib.Path:
    """A line for each model. Takes model -> day -> AUC; an undefined AUC leaves a gap."""
    names = sorted({day for of_day in areas.values() for day in of_day})
    figure = Figure(figsize=(max(6.0, 0.6 * len(names) + 3), 4.6), layout="constrained")
    axis = figure.subplots()
    for index, (model, of_day) in enumerate(areas.items()):
        values = [of_day.get(day, np.nan) for day in names]
        style: dict[str, Any] = plots.series_style(index)
        axis.plot(values, label=model, **style)
    axis.set(ylabel="AUC", xlabel="day")
    axis.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return plots.save(figure, path)
