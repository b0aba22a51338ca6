"""Cross-stage initialisation: copying parameters between models by path and shape."""

from typing import Any

import flax.traverse_util
import numpy as np


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
