"""AUC by a number that was swept: a line a model, with the spread of its seeds."""

import statistics

import matplotlib
from matplotlib.figure import Figure

from nif_jax.reports.curves import Family
from nif_jax.reports.plots import LINES, MARKERS, PALETTE, STYLE, png
from nif_jax.reports.results import HISTORIES


@matplotlib.rc_context(STYLE)
def curve_plot(family: Family) -> bytes:
    """A PNG of two panels, online and frozen histories; bars are standard deviations over seeds.

    The horizontal axis is logarithmic where values span a factor of ten.
    """
    values = list(family.points)
    figure = Figure(figsize=(9.0, 3.8), layout="constrained")
    panels = figure.subplots(1, len(HISTORIES), sharex=True, sharey=True)
    for panel, history in zip(panels, HISTORIES, strict=True):
        for index, (model, by_value) in enumerate(family.values(history).items()):
            panel.errorbar(
                list(by_value),
                [statistics.fmean(areas) for areas in by_value.values()],
                [statistics.stdev(a) if len(a) > 1 else 0.0 for a in by_value.values()],
                color=PALETTE[index % len(PALETTE)], marker=MARKERS[index % len(MARKERS)],
                linestyle=LINES[index % len(LINES)], markersize=5, capsize=2, label=model,
            )  # fmt: skip
        panel.set_title(f"{history} histories")
        panel.set_xlabel(family.key)
        if min(values) > 0 and max(values) >= 10 * min(values):
            panel.set_xscale("log")
        panel.set_xticks(values, [f"{value:g}" for value in values])
        panel.minorticks_off()
    panels[0].set_ylabel("test AUC")
    handles = max((panel.get_legend_handles_labels() for panel in panels), key=lambda h: len(h[1]))
    figure.legend(*handles, loc="outside lower left", ncols=6)
    return png(figure)
