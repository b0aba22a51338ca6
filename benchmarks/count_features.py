"""Time and memory of the count features of a log.

    python -m benchmarks.count_features [--events=1e6]

A simulated log of 30 days with 100 events a user and an item, three item features and five scenes.
"""

import resource
import time

import numpy as np
from absl import app, flags

from benchmarks import common
from nif_jax.data import row_statistics, splits
from nif_jax.data.histories import visible_rows
from nif_jax.data.schema import Movelines

flags.DEFINE_float("events", 1e6, "Events of the log.")
FLAGS = flags.FLAGS
DAY = 86_400


def make_log(events: int) -> Movelines:
    """Uniform times and users, items with a long tail."""
    rng = np.random.default_rng(0)
    users = items = max(1, events // 100)
    user, seconds = np.sort(rng.integers(0, users, events)), rng.integers(0, 30 * DAY, events)
    item = 1 + np.minimum((items * rng.random(events) ** 3).astype(np.int32), items - 1)
    features = {"brand": max(1, items // 10), "category": 30, "author": max(1, items // 3)}
    return Movelines(
        name="simulated",
        origin="",
        user_offsets=np.searchsorted(user, np.arange(users + 1)),
        item=item.astype(np.int32),
        scene=rng.integers(1, 6, events).astype(np.int32),
        action=np.ones(events, np.int32),
        time=seconds[np.lexsort((seconds, user))],
        label=rng.integers(0, 2, events).astype(np.int8),
        item_features={
            name: np.append(0, rng.integers(1, 1 + values, items)).astype(np.int32)[:, None]
            for name, values in features.items()
        },
        user_features={},
        vocabulary={},
        titles=np.array([""] * items, object),
        counts={},
    )


def main(argv: list[str]) -> None:
    """Prints seconds of wall and processor time, and bytes of the result per event."""
    del argv
    lines = make_log(int(FLAGS.events))
    split = splits.assign_splits(lines, "temporal_global", 0.8, 0.1, 0)
    bounds = visible_rows(lines, split, "order")
    sampled, shard = np.zeros(lines.num_events, bool), [np.arange(lines.num_events)]
    begin, used = time.perf_counter(), time.process_time()
    found = row_statistics.row_statistics(
        lines, lines.label, sampled, split, bounds, shard, range(1), lines.num_events
    )
    seconds, used = time.perf_counter() - begin, time.process_time() - used
    size = sum(array.nbytes for array in found.arrays.values()) / lines.num_events
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{common.machine()}, {lines.num_events:,} events, {len(found.fitted.names)} statistics")
    print(f"{seconds:.1f} s, {used:.1f} s of processor time; {size:.0f} bytes per event")
    print(f"peak memory of the process {peak:.2f} GiB")


if __name__ == "__main__":
    app.run(main)
