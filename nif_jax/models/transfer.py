"""Copying parameters between models: by path and shape, and rows of tables by their value."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.traverse_util
import jax
import numpy as np
import pandas as pd

from nif_jax.data.vocabulary import first_row
from nif_jax.models.embed import table_name


def transplant(source: Any, target: Any) -> tuple[Any, list[str], list[str]]:
    """Starts `target` from `source` wherever a leaf of equal path and shape stands in both.

    Args:
      source: parameters to take.
      target: parameters to start from otherwise.

    Returns:
      The new parameters, the paths copied, and the paths of both that differ in shape.
    """
    found = flax.traverse_util.flatten_dict(source, sep="/")
    result = flax.traverse_util.flatten_dict(target, sep="/")
    shared = [path for path in result if path in found]
    copied = [path for path in shared if np.shape(found[path]) == np.shape(result[path])]
    result |= {path: found[path] for path in copied}
    skipped = [path for path in shared if path not in copied]
    return flax.traverse_util.unflatten_dict(result, sep="/"), copied, skipped


class Rows(NamedTuple):
    """How many rows of a table were copied from another run, are new here, or exist only there."""

    copied: int
    new: int
    dropped: int


def values_of(path: str, values: Mapping[str, np.ndarray]) -> str | None:
    """The key of the values of a table's rows; None for parameters that are no such table.

    Args:
      path: of the parameter, with "/" between modules.
      values: see vocabulary.row_values.
    """
    *_, module, name = ("", *path.split("/"))
    if name in ("scene", "action"):
        return name
    group = {"items": "item", "user": "user"}.get(module)
    keys = {key.partition("/")[0] + "/" + table_name(key.partition("/")[2]): key for key in values}
    return keys.get(f"{group}/{name}")


def resized(
    params: Any,
    here: Mapping[str, np.ndarray],
    there: Mapping[str, np.ndarray],
    rows: Mapping[str, int],
) -> Any:
    """The shapes that another run's parameters have to have, for `copy_by_value`.

    Args:
      params: those of this run.
      here: values of the rows of this run's tables, see vocabulary.row_values.
      there: those of the other run; tables that it has not are left out.
      rows: path -> rows of the other run's arrays. Tables may have rows behind their last value.
    """
    shapes = flax.traverse_util.flatten_dict(params, sep="/")
    for path, table in tuple(shapes.items()):
        key = values_of(path, here)
        if key is not None and key not in there:
            del shapes[path]
        elif key is not None:
            length = max(first_row(key) + len(there[key]), rows.get(path, 0))
            shapes[path] = jax.ShapeDtypeStruct((length, *table.shape[1:]), table.dtype)
    return flax.traverse_util.unflatten_dict(shapes, sep="/")


def copy_by_value(
    source: Any,
    target: Any,
    here: Mapping[str, np.ndarray],
    there: Mapping[str, np.ndarray],
) -> tuple[Any, dict[str, Rows]]:
    """`source`, with the rows of tables numbered as in `target`.

    A row of a value that both have is copied, whatever its number, as are the rows before the first
    value (padding, unknown). A value that only `target` has keeps its initial row.

    Args:
      source: parameters of the other run, of the shapes of `resized`.
      target: initial parameters of this run.
      here, there: see `resized`.

    Returns:
      The parameters, and table -> numbers of rows.
    """
    found = flax.traverse_util.flatten_dict(source, sep="/")
    result = flax.traverse_util.flatten_dict(target, sep="/")
    counts = {}
    for path, table in result.items():
        key = values_of(path, here)
        if key is None:
            result[path] = found[path]
            continue
        old, new = there.get(key, np.empty(0, object)), here[key]
        place = pd.Index(old).get_indexer(new)
        known = np.flatnonzero(place >= 0)
        if path in found:
            table, first = np.array(table), first_row(key)
            table[:first] = found[path][:first]
            table[first + known] = found[path][first + place[known]]
            result[path] = table
        counts[path] = Rows(len(known), len(new) - len(known), len(old) - len(known))
    return flax.traverse_util.unflatten_dict(result, sep="/"), counts
