"""Figures of a run, from plain arrays to PNG files; each function returns the path of its PNG.

Figures are made without pyplot: no global state, no display.
"""

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from nif_jax.data.files import write_whole
from nif_jax.metrics import ctr

# Okabe and Ito's colours, which colour-blind readers can distinguish.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
BLUE, RED, INK, GREY = PALETTE[0], PALETTE[5], "#222222", "#8A8A8A"
STYLE = Path(__file__).parent / "templates" / "figures.mplstyle"
_SERIES = {"color": PALETTE, "marker": "osD^vPX", "linestyle": ("-", "--", "-.", ":")}
_LOSS, _SCORES = "train/loss", ("validation/auc", "validation/hr@10")
_BINS = 15


@matplotlib.rc_context(fname=STYLE)
def training_curves(records: Sequence[Mapping[str, Any]], path: str | os.PathLike[str]) -> Path:
    """Training loss (above) and validation score (below) by step; one column per stage.

    Takes the records of metrics.jsonl. Raises ValueError if none of them holds a loss or a score.
    """
    names = [_LOSS, *_SCORES]
    wide = pd.DataFrame([{"stage": r["stage"], "step": r["step"], **r["values"]} for r in records])
    frame = wide.reindex(columns=["stage", "step", *names]).dropna(subset=names, how="all")
    if frame.empty:
        raise ValueError(f"none of the {len(records)} records holds {names}")
    stages = frame["stage"].unique()
    figure = Figure(figsize=(max(5.0, 3.6 * len(stages)), 5.0), layout="constrained")
    axes = figure.subplots(2, len(stages), squeeze=False, sharex="col")
    for (upper, lower), stage in zip(axes.T, stages, strict=True):
        found = frame[frame["stage"] == stage].set_index("step").sort_index()
        upper.set_title(stage)
        upper.plot(found[_LOSS].dropna(), color=BLUE)
        title = "not evaluated"
        for score in [name for name in _SCORES if found[name].notna().any()][:1]:
            values = found[score].dropna()
            lower.plot(values, color=RED, marker="o", markersize=3.5)
            lower.set_ylabel(score)
            title = f"best {values.max():.4f} at step {values.idxmax():,}"
        lower.set_title(title, fontsize=9, fontweight="normal")
        lower.set_xlabel("step")
        lower.xaxis.set_major_formatter("{x:,.0f}")
    axes[0, 0].set_ylabel(_LOSS)
    return save(figure, path)


@matplotlib.rc_context(fname=STYLE)
def calibration_scores(
    scores: Mapping[str, tuple[np.ndarray, np.ndarray]], path: str | os.PathLike[str]
) -> Path:
    """NIF paper, Figure 3: calibration scores of positives and negatives, one panel per variant.

    Takes variant -> (logits of positives [P], of negatives [M]). The title gives the separation:
    difference of means, and AUC of the score alone. Raises ValueError for no variants, or one
    without positives or negatives.
    """
    if not scores or not all(len(one) and len(other) for one, other in scores.values()):
        raise ValueError(f"each of {list(scores)} needs scores of positives and of negatives")
    everything = np.concatenate([part for pair in scores.values() for part in pair])
    low, high = np.quantile(everything, (0.001, 0.999))  # one outlier must not squeeze the rest
    margin = max(0.02 * (high - low), 1e-3)
    bins = np.linspace(low - margin, high + margin, 61)
    figure, axes = panel_grid(len(scores), len(scores), 5.0 * len(scores), 3.8)
    for axis, (variant, (positive, negative)) in zip(axes, scores.items(), strict=True):
        sides = ((negative, BLUE, "--", "no click"), (positive, RED, "-", "click"))
        for values, color, line, name in sides:
            style = {"bins": bins, "density": True, "color": color}
            axis.hist(values, histtype="stepfilled", alpha=0.25, **style)
            axis.hist(values, histtype="step", linestyle=line, linewidth=1.6, **style)
            axis.plot([], [], color=color, linestyle=line, label=f"{name} ({len(values):,})")
            axis.axvline(np.mean(values), color=color, linestyle=line, linewidth=1)
        labels = np.repeat([1, 0], [len(positive), len(negative)])
        area = ctr.auc(labels, np.concatenate([positive, negative]))
        gap = np.mean(positive) - np.mean(negative)
        axis.set_title(f"{variant}: mean difference {gap:+.3f}, AUC {area:.4f}")
        axis.set_xlabel("calibration score (logit); thin lines are means")
        axis.legend(loc="upper right")
    axes[0].set_ylabel("density (per logit)")
    return save(figure, path)


@matplotlib.rc_context(fname=STYLE)
def auc_by_history(
    buckets: Mapping[str, Sequence[Mapping[str, Any]]], path: str | os.PathLike[str]
) -> Path:
    """AUC of each model by bucket, above the number of impressions; undefined AUCs leave a gap.

    Takes model -> `by_bucket` of nif_jax/metrics/buckets.py by history length. Raises ValueError
    for no models, or models with different limits.
    """
    limits = {tuple((row["lower"], row["upper"]) for row in rows) for rows in buckets.values()}
    if len(limits) != 1:
        raise ValueError(f"models {list(buckets)} need buckets with the same limits, got {limits}")
    names = [_bucket_name(*pair) for pair in limits.pop()]
    figure = Figure(figsize=(max(6.0, 0.9 * len(names) + 2), 4.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    for index, (model, rows) in enumerate(buckets.items()):
        areas = [np.nan if row["auc"] is None else row["auc"] for row in rows]
        upper.plot(areas, label=model, **series_style(index))
    upper.set_ylabel("AUC")
    upper.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    counts = [row["count"] for row in next(iter(buckets.values()))]
    bars = lower.bar(range(len(names)), counts, color="#C8C8C8")
    lower.bar_label(bars, labels=[f"{count:,}" for count in counts], fontsize=8)
    lower.margins(y=0.3)
    lower.yaxis.set_major_formatter("{x:,.0f}")
    lower.set(ylabel="impressions", xlabel="history length (events)")
    lower.set_xticks(range(len(names)), names)
    lower.grid(visible=False)
    return save(figure, path)


@matplotlib.rc_context(fname=STYLE)
def reliability(
    labels: np.ndarray, logits: Mapping[str, np.ndarray], path: str | os.PathLike[str]
) -> Path:
    """Observed click rate against the predicted one, in bins of equal mass, ± 2 standard errors.

    Takes labels [E] of 0 and 1, and model -> finite logits [E]. Raises ValueError for no models,
    and as `metrics.ctr.calibration_bins`.
    """
    if not logits:
        raise ValueError("reliability needs the logits of at least one model")
    found = {model: ctr.calibration_bins(labels, values, _BINS) for model, values in logits.items()}
    columns = min(len(found), 3)
    figure, panels = panel_grid(len(found), columns, max(4.8, 3.6 * columns), 4.2)
    for panel, (model, (predicted, observed, count)) in zip(panels, found.items(), strict=True):
        panel.axline((0, 0), slope=1, color=GREY, linestyle="--", linewidth=1, label="calibrated")
        errors = 2 * np.sqrt(observed * (1 - observed) / count)
        style = {"color": BLUE, "marker": "o", "markersize": 4, "capsize": 2, "linewidth": 1.2}
        panel.errorbar(predicted, observed, yerr=errors, label="bins, ± 2 s.e.", **style)
        ratio = ctr.pcoc(labels, logits[model])
        title = f"{model}: ECE {ctr.ece(labels, logits[model], _BINS):.4f}"
        panel.set_title(title if ratio is None else f"{title}, PCOC {ratio:.3f}", fontsize=10)
        panel.set(xlabel="predicted click rate", ylabel="observed click rate", aspect="equal")
    top = min(1.0, max(panels[0].get_xlim()[1], panels[0].get_ylim()[1]))
    panels[0].set(xlim=(0, top), ylim=(0, top))  # and so all panels
    panels[0].legend(loc="upper left")
    return save(figure, path)


def series_style(index: int) -> dict[str, str]:
    """Colour, marker and line of a series."""
    return {name: choices[index % len(choices)] for name, choices in _SERIES.items()}


def panel_grid(
    count: int, columns: int, width: float, height: float, margin: float = 0.0
) -> tuple[Figure, np.ndarray]:
    """A figure with panels [count] on common axes; its height in inches per line, and a margin."""
    lines = -(-count // columns)
    figure = Figure(figsize=(width, height * lines + margin), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for panel in panels[count:]:
        panel.set_axis_off()
    return figure, panels[:count]


def save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Writes the figure as a PNG, making its folder, and returns where."""
    return write_whole(path, png(figure))


def png(figure: Figure) -> bytes:
    """The figure as a PNG."""
    file = io.BytesIO()
    figure.savefig(file, dpi=150, format="png")
    return file.getvalue()


def _bucket_name(lower: float, upper: float | None) -> str:
    """Lengths as "5", "5–9", and "≥ 20" for the open end."""
    if upper is None:
        return f"≥ {lower:g}"
    return f"{lower:g}" if upper - lower == 1 else f"{lower:g}–{upper - 1:g}"
