"""Figures of a run, from plain arrays to PNG files.

Colours are Okabe and Ito's, which colour-blind readers can tell apart, and series differ in marker
or line style too. Figures are made without pyplot: no global state, no display.
"""

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from nif_jax.data.files import write_whole
from nif_jax.metrics import ctr

BLUE, ORANGE, GREEN, PINK, SKY, RED, YELLOW = PALETTE = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442"
)
INK, GREY = "#222222", "#8A8A8A"
MARKERS = "osD^vPX"
LINES = ("-", "--", "-.", ":")
STYLE = {
    "font.size": 10, "axes.titlesize": 11, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.edgecolor": GREY,
    "axes.axisbelow": True, "grid.color": "#E6E6E6", "legend.frameon": False, "text.color": INK,
    "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK, "axes.titlepad": 8.0,
    "text.parse_math": False,  # a $ in a name is no mathematics
}
_DPI = 150


@matplotlib.rc_context(STYLE)
def training_curves(
    records: Sequence[Mapping[str, Any]],
    path: str | os.PathLike[str],
    loss: str = "train/loss",
    scores: Sequence[str] = ("validation/auc", "validation/hr@10"),
) -> Path:
    """Training loss (above) and validation score (below) by step; one column a stage.

    Args:
      records: of metrics.jsonl (`metrics.writer.read_metrics`).
      path: where the PNG goes; it is returned.
      loss: name of the training loss.
      scores: names of validation scores; a stage shows the first one it has.

    Raises:
      ValueError: no record holds any of these names.
    """
    stages = [stage for stage in dict.fromkeys(r["stage"] for r in records)
              if any(len(_series(records, stage, name)[0]) for name in (loss, *scores))]
    if not stages:
        raise ValueError(f"none of the {len(records)} records holds {[loss, *scores]}")
    figure = Figure(figsize=(max(5.0, 3.6 * len(stages)), 5.0), layout="constrained")
    axes = figure.subplots(2, len(stages), squeeze=False, sharex="col")
    for (upper, lower), stage in zip(axes.T, stages, strict=True):
        upper.set_title(stage)
        upper.plot(*_series(records, stage, loss), color=BLUE)
        score = next((name for name in scores if len(_series(records, stage, name)[0])), None)
        if score is None:
            lower.text(0.5, 0.5, "not evaluated", color=GREY, ha="center",
                       transform=lower.transAxes)
            lower.set_yticks([])
        else:
            steps, values = _series(records, stage, score)
            best = int(np.argmax(values))
            lower.plot(steps, values, color=RED, marker="o", markersize=3.5)
            lower.set_ylabel(score)
            lower.set_title(f"best {values[best]:.4f} at step {steps[best]:,}", fontsize=9,
                            fontweight="normal")
        lower.set_xlabel("step")
        lower.xaxis.set_major_formatter("{x:,.0f}")
    axes[0, 0].set_ylabel(loss)
    return save(figure, path)


@matplotlib.rc_context(STYLE)
def calibration_scores(
    scores: Mapping[str, tuple[np.ndarray, np.ndarray]], path: str | os.PathLike[str]
) -> Path:
    """NIF paper, Figure 3: calibration scores of positives and negatives, one panel a variant.

    The title gives the separation: difference of means, and AUC of the score alone.

    Args:
      scores: variant -> (scores of positives [P], of negatives [M]), logits; "TSP off" first, then
        "TSP on", are drawn left to right.
      path: where the PNG goes; it is returned.

    Raises:
      ValueError: no variants, or one without positives or negatives.
    """
    if not scores or not all(len(one) and len(other) for one, other in scores.values()):
        raise ValueError(f"each of {list(scores)} needs scores of positives and of negatives")
    everything = np.concatenate([part for pair in scores.values() for part in pair])
    low, high = np.quantile(everything, (0.001, 0.999))  # one outlier must not squeeze the rest
    margin = max(0.02 * (high - low), 1e-3)
    bins = np.linspace(low - margin, high + margin, 61)
    figure = Figure(figsize=(5.0 * len(scores), 3.8), layout="constrained")
    axes = figure.subplots(1, len(scores), squeeze=False, sharex=True, sharey=True)[0]
    for axis, (variant, (positive, negative)) in zip(axes, scores.items(), strict=True):
        for values, color, line, name in ((negative, BLUE, "--", "no click"),
                                          (positive, RED, "-", "click")):
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


@matplotlib.rc_context(STYLE)
def auc_by_history(
    buckets: Mapping[str, Sequence[Mapping[str, float | int | None]]],
    path: str | os.PathLike[str],
    xlabel: str = "history length (events)",
) -> Path:
    """AUC of each model by bucket, above the number of impressions; undefined AUCs leave a gap.

    Args:
      buckets: model -> `metrics.ctr.by_bucket`, all with the same limits.
      path: where the PNG goes; it is returned.
      xlabel: the property and its unit.

    Raises:
      ValueError: no models, or models with different limits.
    """
    limits = {tuple((row["lower"], row["upper"]) for row in rows) for rows in buckets.values()}
    if len(limits) != 1:
        raise ValueError(f"models {list(buckets)} need buckets with the same limits, got {limits}")
    names = [_bucket_name(*pair) for pair in limits.pop()]
    figure = Figure(figsize=(max(6.0, 0.9 * len(names) + 2), 4.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    for index, (model, rows) in enumerate(buckets.items()):
        areas = [np.nan if row["auc"] is None else row["auc"] for row in rows]
        upper.plot(areas, color=PALETTE[index % len(PALETTE)], marker=MARKERS[index % len(MARKERS)],
                   linestyle=LINES[index % len(LINES)], label=model)
    upper.set_ylabel("AUC")
    upper.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    counts = [row["count"] for row in next(iter(buckets.values()))]
    bars = lower.bar(range(len(names)), counts, color="#C8C8C8")
    lower.bar_label(bars, labels=[f"{count:,}" for count in counts], fontsize=8)
    lower.margins(y=0.3)
    lower.set_ylabel("impressions")
    lower.yaxis.set_major_formatter("{x:,.0f}")
    lower.set_xticks(range(len(names)), names)
    lower.set_xlabel(xlabel)
    lower.grid(visible=False)
    return save(figure, path)


@matplotlib.rc_context(STYLE)
def reliability(
    labels: np.ndarray,
    logits: Mapping[str, np.ndarray],
    path: str | os.PathLike[str],
    bins: int = 15,
) -> Path:
    """Observed click rate against the predicted one, in bins of equal mass, ± 2 standard errors.

    Args:
      labels: [E] of 0 and 1.
      logits: model -> [E], finite; a panel each.
      path: where the PNG goes; it is returned.
      bins: how many.

    Raises:
      ValueError: no models; as `metrics.ctr.calibration_bins`.
    """
    if not logits:
        raise ValueError("reliability needs the logits of at least one model")
    found = {model: ctr.calibration_bins(labels, values, bins) for model, values in logits.items()}
    errors = {model: 2 * np.sqrt(observed * (1 - observed) / count)
              for model, (_, observed, count) in found.items()}
    top = min(1.0, 1.1 * max(max(predicted.max(), (observed + errors[model]).max())
                             for model, (predicted, observed, _) in found.items()))
    columns = min(len(found), 3)
    lines = -(-len(found) // columns)
    figure = Figure(figsize=(max(4.8, 3.6 * columns), 4.2 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for panel in panels[len(found):]:
        panel.set_axis_off()
    for panel, (model, (predicted, observed, count)) in zip(panels, found.items(), strict=False):
        panel.plot([0, top], [0, top], color=GREY, linestyle="--", linewidth=1, label="calibrated")
        panel.errorbar(predicted, observed, yerr=errors[model], color=BLUE, marker="o",
                       markersize=4, capsize=2, linewidth=1.2, label=f"{len(count)} bins, ± 2 s.e.")
        ratio = ctr.pcoc(labels, logits[model])
        panel.set_title(f"{model}: ECE {ctr.ece(labels, logits[model], bins):.4f}"
                        + ("" if ratio is None else f", PCOC {ratio:.3f}"))
        panel.set(xlim=(0, top), ylim=(0, top), aspect="equal", xlabel="predicted click rate",
                  ylabel="observed click rate")
    panels[0].legend(loc="upper left")
    return save(figure, path)


def save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Writes the figure as a PNG, making its folder, and returns where."""
    return write_whole(path, png(figure))


def png(figure: Figure) -> bytes:
    """The figure as a PNG."""
    file = io.BytesIO()
    figure.savefig(file, dpi=_DPI, format="png")
    return file.getvalue()


def _series(
    records: Sequence[Mapping[str, Any]], stage: str, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of a measurement in a stage, by step, undefined ones left out."""
    points = sorted((r["step"], r["values"][name]) for r in records
                    if r["stage"] == stage and r["values"].get(name) is not None)
    steps, values = zip(*points, strict=True) if points else ((), ())
    return np.asarray(steps, int), np.asarray(values, float)


def _bucket_name(lower: float, upper: float | None) -> str:
    """Whole numbers as "5–9", others as "[0.5, 1)", the open end as "≥ 20"."""
    if upper is None:
        return f"≥ {lower:g}"
    if float(lower).is_integer() and float(upper).is_integer():
        return f"{lower:g}" if upper - lower == 1 else f"{lower:g}–{upper - 1:g}"
    return f"[{lower:g}, {upper:g})"
