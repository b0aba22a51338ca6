"""AUC by buckets of a property of the impression."""

from collections.abc import Sequence

import numpy as np

from nif_jax.data.schema import Movelines
from nif_jax.metrics import ctr


def by_bucket(
    labels: np.ndarray,
    logits: np.ndarray,
    values: np.ndarray,
    edges: Sequence[float] | np.ndarray | np.ndarray,
) -> list[dict[str, float | int | None]]:
    """AUC by a property of the impression, such as history length or item age.

    Args:
      labels: [E] of 0 and 1.
      logits: [E] in any monotone unit.
      values: [E] the property.
      edges: rising lower limits. Bucket i holds edges[i] <= value < edges[i + 1]; the last has no
        upper limit, so no impression is lost.

    Returns:
      One {"lower", "upper", "count", "auc"} a bucket, empty ones too; "upper" of the last is None,
      and "auc" is None (with a warning unless empty) for one class.

    Raises:
      ValueError: as `ctr.auc`; edges that do not rise; a value below edges[0] or not comparable.
    """
    labels, logits = ctr.checked("by_bucket", labels, logits)
    values, edges = np.asarray(values, np.float64), np.asarray(edges, np.float64)
    if values.shape != labels.shape:
        raise ValueError(f"by_bucket: values has shape {values.shape}, labels {labels.shape}")
    if not len(edges) or not np.isfinite(edges).all() or not (np.diff(edges) > 0).all():
        raise ValueError(
            f"by_bucket: edges must be finite and rising, got {edges.tolist()}; the "
            "last bucket is open, so leave infinity out"
        )
    if not (values >= edges[0]).all():
        raise ValueError(
            f"by_bucket: values reach down to {values.min()}, below the first edge "
            f"{edges[0]}; add a lower edge"
        )
    bucket = np.searchsorted(edges, values, side="right") - 1
    limits = [int(edge) if edge.is_integer() else edge for edge in edges.tolist()]
    rows = []
    for index, (lower, upper) in enumerate(zip(limits, [*limits[1:], None], strict=True)):
        inside = bucket == index
        count = int(inside.sum())
        name = f"auc of the bucket from {lower} to {upper}"
        value = ctr.auc(labels[inside], logits[inside], name) if count else None
        rows.append({"lower": lower, "upper": upper, "count": count, "auc": value})
    return rows


def item_ages(movelines: Movelines, is_event: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """[R] days since the first event of each row's item, of whichever user; 0 before it.

    Args:
      movelines: the store.
      is_event: [E] bool; a sampled negative is none.
      rows: [R] of the store.
    """
    first = np.full(movelines.num_items + 1, np.iinfo(np.int64).max)
    np.minimum.at(first, movelines.item[is_event], movelines.time[is_event])
    seconds = movelines.time[rows] - np.minimum(first[movelines.item[rows]], movelines.time[rows])
    return seconds / 86_400
