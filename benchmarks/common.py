"""What the benchmarks share: one core, a data set of MovieLens-100K's size, interleaved timing."""

import os
import time
from collections.abc import Callable, Mapping

import numpy as np


def use_one_core() -> int:
    """Pins this process to one core; call it before JAX starts. Returns the core."""
    core = min(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    return core


def interleave(
    candidates: Mapping[str, Callable[[], None]], rounds: int
) -> dict[str, list[float]]:
    """Seconds of each call, A B C A B C ...: drift of the machine falls on all alike.

    Each callable has to block until its work is done; one uncounted round compiles and warms up.
    """
    for run in candidates.values():
        run()
    seconds = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, run in candidates.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def paired_ratio(one: list[float], other: list[float]) -> str:
    """Median, and range, of one / other over the rounds."""
    ratio = np.array(one) / np.array(other)
    return f"{np.median(ratio):.3f} ({ratio.min():.3f}-{ratio.max():.3f})"
