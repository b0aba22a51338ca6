"""A picture of Next Interest Flows among the items, on the two leading principal components."""

import itertools
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure

from nif_jax.reports.plots import BLUE, GREEN, GREY, INK, ORANGE, PINK, RED, SKY, STYLE, save

_CATEGORY_COLORS = (SKY, ORANGE, GREEN, PINK, BLUE)
_HALO = [patheffects.withStroke(linewidth=2.5, foreground="white")]


@matplotlib.rc_context(STYLE)
def flow_map(
    items: np.ndarray,
    flows: np.ndarray,
    next_items: np.ndarray,
    path: str | os.PathLike[str],
    categories: Sequence[str] | None = None,
    histories: np.ndarray | None = None,
    users: Sequence[str] | None = None,
) -> Path:
    """One panel a user: history, predicted flow f_1..f_T as arrows, and the items that came next.

    All vectors are scaled to unit length, since the generator compares them by cosine; the
    components are those of the items.

    Args:
      items: [N, D] item embeddings.
      flows: [P, T, D] predicted flows of P users, in the space of `items`.
      next_items: [P, M] int rows of `items` that the users did take, in order; -1 pads.
      path: where the PNG goes; it is returned.
      categories: [N] names; the five most frequent get a colour. None draws all items grey.
      histories: [P, L, D] vectors of the last history items, oldest first; None draws none.
      users: [P] panel titles.

    Raises:
      ValueError: shapes that do not fit, or D < 2.
    """
    items, flows, next_items = np.asarray(items), np.asarray(flows), np.asarray(next_items)
    if items.ndim != 2 or items.shape[1] < 2 or flows.ndim != 3 or (
        flows.shape[2] != items.shape[1] or len(next_items) != len(flows)
    ):
        raise ValueError(f"items {items.shape}, flows {flows.shape} and next_items "
                         f"{next_items.shape} must be [N, D], [P, T, D] and [P, M], D at least 2")
    center, axes_2d, explained = _components(_unit(items))
    points = (_unit(items) - center) @ axes_2d  # [N, 2]
    columns = 2 if len(flows) == 4 else min(len(flows), 3)
    lines = -(-len(flows) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.9 * lines + 0.5), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for panel in panels[len(flows):]:
        panel.set_axis_off()
    for user, panel in enumerate(panels[:len(flows)]):
        _draw_items(panel, points, categories)
        if histories is not None:
            trail = (_unit(np.asarray(histories[user])) - center) @ axes_2d
            panel.plot(*trail.T, color=GREY, linewidth=0.8, marker=".", markersize=5,
                       label="history")
        _draw_flow(panel, (_unit(flows[user]) - center) @ axes_2d)
        taken = next_items[user][next_items[user] >= 0]
        panel.scatter(*points[taken].T, marker="*", s=130, color=RED, edgecolor="white",
                      linewidth=0.6, zorder=5, label="next items, in order")
        for order, row in enumerate(taken, start=1):
            panel.annotate(str(order), points[row], (5, 4), textcoords="offset points", fontsize=8,
                           color=RED, fontweight="bold", path_effects=_HALO, zorder=6)
        panel.set_title(users[user] if users is not None else f"user {user + 1}")
        panel.set(xlabel=f"component 1 ({explained[0]:.0%} of variance)",
                  ylabel=f"component 2 ({explained[1]:.0%})")
        panel.set_aspect("equal", adjustable="box")
    _draw_key(figure, panels[0], columns + 2)
    return save(figure, path)


def _draw_items(panel: Axes, points: np.ndarray, categories: Sequence[str] | None) -> None:
    """The catalogue as pale dots; the rarer categories stay grey."""
    style = {"s": 7, "alpha": 0.45, "linewidths": 0}
    if categories is None:
        panel.scatter(*points.T, color=GREY, label="items", **style)
        return
    names = np.asarray([str(category) for category in categories])
    top = [name for name, _ in Counter(names.tolist()).most_common(len(_CATEGORY_COLORS))]
    others = ~np.isin(names, top)
    if others.any():
        panel.scatter(*points[others].T, color="#C8C8C8", label="other categories", **style)
    for name, color in zip(top, _CATEGORY_COLORS, strict=False):
        panel.scatter(*points[names == name].T, color=color, label=name, **style)


def _draw_flow(panel: Axes, flow: np.ndarray) -> None:
    """Arrows from each predicted state to the next, the first and last of them named."""
    for start, end in itertools.pairwise(flow):
        panel.annotate("", end, start, zorder=4, arrowprops={
            "arrowstyle": "-|>", "color": INK, "linewidth": 1.4, "shrinkA": 2, "shrinkB": 2})
    panel.plot(*flow.T, linestyle="", marker="o", markersize=4, color=INK, zorder=4,
               label="predicted flow")
    for index in sorted({0, len(flow) - 1}):
        panel.annotate(f"$f_{{{index + 1}}}$", flow[index], (-5, -12), textcoords="offset points",
                       fontsize=10, path_effects=_HALO, zorder=6, parse_math=True)


def _draw_key(figure: Figure, panel: Axes, columns: int) -> None:
    """One legend below all panels; the dots of the map would be too small and pale for it."""
    legend = figure.legend(*panel.get_legend_handles_labels(), loc="outside lower center",
                           ncols=columns, fontsize=9)
    for handle in legend.legend_handles:
        handle.set_alpha(1.0)
        if isinstance(handle, PathCollection):
            handle.set_sizes([max(30.0, *handle.get_sizes())])


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors at length 1; a zero vector stays zero."""
    vectors = vectors.astype(np.float64)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def _components(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean [D], two leading components [D, 2], their shares of the variance [2]."""
    center = vectors.mean(axis=0)
    variance, axes = np.linalg.eigh(np.cov(vectors, rowvar=False))
    axes = axes[:, [-1, -2]]
    # An eigenvector's sign is arbitrary; fixed, the same items give the same picture.
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), [0, 1]])
    return center, axes, variance[[-1, -2]] / max(variance.sum(), 1e-12)
