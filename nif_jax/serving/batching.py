"""Arrays of any length in calls of few lengths, so that a program is compiled a few times only."""

import bisect
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from nif_jax.requests.encode import Encoded

SIZES = (1, 16, 128, 512)
"""Lengths that arrays are padded to; what is longer is cut. In a larger call each row takes longer:
intermediate arrays leave the cache, and malloc returns their memory after each call."""
MOST_REQUESTS = 128
"""Requests of a call; each may have many candidates, and windows of the generator."""


def size_of(count: int) -> int:
    """The smallest of SIZES that holds `count`."""
    return SIZES[bisect.bisect_left(SIZES, count)]


def padded(tree: Any, size: int) -> Any:
    """Leaves [n, ...] with zeros behind, [size, ...]."""

    def pad(x: np.ndarray) -> np.ndarray:
        if len(x) == size:
            return x
        whole = np.zeros((size, *x.shape[1:]), x.dtype)
        whole[: len(x)] = x
        return whole

    return jax.tree.map(pad, tree)


def in_sizes(tree: Any) -> Iterator[tuple[Any, int]]:
    """Padded pieces of leaves [n, ...] of requests, and how much of each is real."""
    count, most = len(jax.tree.leaves(tree)[0]), MOST_REQUESTS
    for begin in range(0, count, most):
        end = min(begin + most, count)
        part = jax.tree.map(lambda x, b=begin, e=end: x[b:e], tree)
        yield padded(part, size_of(end - begin)), end - begin


def pieces(encoded: Encoded) -> Iterator[tuple[Encoded, int]]:
    """Padded pieces of SIZES[-1] candidates and MOST_REQUESTS requests at most, and the candidates
    of each.

    Candidates are in the order of their requests.
    """
    owner, begin, most = encoded.owner, 0, SIZES[-1]
    while begin < len(owner):
        first = int(owner[begin])
        end = min(begin + most, int(np.searchsorted(owner, first + MOST_REQUESTS)))
        last = int(owner[end - 1]) + 1
        rows, groups = size_of(end - begin), size_of(last - first)
        yield _piece(encoded, slice(begin, end), slice(first, last), rows, groups), end - begin
        begin = end


def _piece(encoded: Encoded, rows: slice, groups: slice, num_rows: int, num_groups: int) -> Encoded:
    windows = encoded.windows
    if windows is not None:
        each = len(windows.item) // len(encoded.entries)
        chosen = slice(groups.start * each, groups.stop * each)
        windows = padded(jax.tree.map(lambda x: x[chosen], windows), num_groups * each)
    of_groups = (encoded.batch._replace(pair=None), encoded.entries)
    batch, entries = padded(jax.tree.map(lambda x: x[groups], of_groups), num_groups)
    of_rows = (encoded.owner - groups.start, encoded.item, encoded.statistics)
    owner, item, statistics = padded(jax.tree.map(lambda x: x[rows], of_rows), num_rows)
    return Encoded(batch, entries, windows, owner, item, statistics)
