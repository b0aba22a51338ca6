"""A picture of Next Interest Flows among the items, on the two leading principal components."""

import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from sklearn.preprocessing import normalize

from nif_jax.reports.plots import GREY, INK, PALETTE, RED, STYLE, panel_grid, save

_CATEGORY_COLORS = [PALETTE[index] for index in (4, 1, 2, 3, 0)]
_LABEL: dict[str, Any] = {
    "textcoords": "offset points",
    "zorder": 6,
    "path_effects": [patheffects.withStroke(linewidth=2.5, foreground="white")],
}


@matplotlib.rc_context(fname=STYLE)
def flow_map(
    items: np.ndarray,
    flows: np.ndarray,
    next_items: np.ndarray,
    path: str | os.PathLike[str],
    categories: Sequence[str] | None,
    histories: np.ndarray,
    users: Sequence[str],
) -> Path:
    """One panel per user: history, predicted flow f_1..f_T as arrows, and the items that came next.

    All vectors are scaled to unit length, since the generator compares them by cosine; the
    components are those of the items. Raises ValueError for shapes that do not fit, or D < 2.

    Args:
      items: [N, D] item embeddings.
      flows: [P, T, D] predicted flows of P users.
      next_items: [P, M] rows of `items` that came next, in order; -1 pads.
      path: of the PNG; it is returned.
      categories: [N] names; the five most frequent get a colour. None draws all items grey.
      histories: [P, L, D] vectors of the last history items, oldest first.
      users: [P] panel titles.
    """
    items, flows, next_items = np.asarray(items), np.asarray(flows), np.asarray(next_items)
    fit = items.ndim == 2 and items.shape[1] >= 2 and flows.ndim == 3
    if not fit or flows.shape[2] != items.shape[1] or len(next_items) != len(flows):
        raise ValueError(
            f"items {items.shape}, flows {flows.shape} and next_items "
            f"{next_items.shape} must be [N, D], [P, T, D] and [P, M], D at least 2"
        )
    plane = PCA(n_components=2, svd_solver="covariance_eigh").fit(_unit(items))
    points = plane.transform(_unit(items))  # [N, 2]
    first, second = plane.explained_variance_ratio_
    columns = 2 if len(flows) == 4 else min(len(flows), 3)
    figure, panels = panel_grid(len(flows), columns, 4.2 * columns, 3.9, margin=0.5)
    for user, panel in enumerate(panels):
        _draw_items(panel, points, categories)
        history = plane.transform(_unit(histories[user]))
        style: dict[str, Any] = {"color": GREY, "linewidth": 0.8, "marker": ".", "markersize": 5}
        panel.plot(*history.T, label="history", **style)
        _draw_flow(panel, plane.transform(_unit(flows[user])))
        _draw_next(panel, points[next_items[user][next_items[user] >= 0]])
        panel.set_title(users[user])
        panel.set_xlabel(f"component 1 ({first:.0%} of variance)")
        panel.set_ylabel(f"component 2 ({second:.0%})")
        panel.set_aspect("equal", adjustable="box")
    _draw_legend(figure, panels[0], columns)
    return save(figure, path)


def _draw_items(panel: Axes, points: np.ndarray, categories: Sequence[str] | None) -> None:
    """The catalogue as pale dots; the rarer categories stay grey."""
    style: dict[str, Any] = {"s": 7, "alpha": 0.45, "linewidths": 0}
    if categories is None:
        panel.scatter(*points.T, color=GREY, label="items", **style)
        return
    names = pd.Series([str(category) for category in categories])
    top = names.value_counts().index[: len(_CATEGORY_COLORS)]
    others = ~names.isin(top).to_numpy()
    if others.any():
        panel.scatter(*points[others].T, color="#C8C8C8", label="other categories", **style)
    for name, color in zip(top, _CATEGORY_COLORS, strict=False):
        panel.scatter(*points[names == name].T, color=color, label=name, **style)


def _draw_flow(panel: Axes, flow: np.ndarray) -> None:
    """Arrows from each predicted state to the next, the first and last of them named."""
    arrow = {"arrowstyle": "-|>", "color": INK, "linewidth": 1.4, "shrinkA": 2, "shrinkB": 2}
    for start, end in itertools.pairwise(flow):
        panel.annotate("", end, start, zorder=4, arrowprops=arrow)
    panel.plot(*flow.T, "o", markersize=4, color=INK, zorder=4, label="predicted flow")
    for index in sorted({0, len(flow) - 1}):
        name = f"$f_{{{index + 1}}}$"
        panel.annotate(name, flow[index], (-5, -12), fontsize=10, parse_math=True, **_LABEL)


def _draw_next(panel: Axes, points: np.ndarray) -> None:
    """Numbered stars at the items that came next."""
    star: dict[str, Any] = {"marker": "*", "s": 130, "edgecolor": "white", "linewidth": 0.6}
    panel.scatter(*points.T, color=RED, label="next items, in order", zorder=5, **star)
    style: dict[str, Any] = {"fontsize": 8, "fontweight": "bold", **_LABEL, "color": RED}
    for order, point in enumerate(points, start=1):
        panel.annotate(str(order), point, (5, 4), **style)


def _draw_legend(figure: Figure, panel: Axes, columns: int) -> None:
    """One legend below all panels, with larger and darker dots than the map has."""
    entries = panel.get_legend_handles_labels()
    legend = figure.legend(*entries, loc="outside lower center", ncols=columns + 2, fontsize=9)
    for handle in filter(None, legend.legend_handles):
        handle.set_alpha(1.0)
        if isinstance(handle, PathCollection):
            handle.set_sizes([max(30.0, *handle.get_sizes())])


def _unit(vectors: np.ndarray) -> np.ndarray:
    return normalize(np.asarray(vectors, np.float64))
