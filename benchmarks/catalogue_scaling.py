"""How a train step depends on the number of items and users, and the memory that training takes.

    python -m benchmarks.catalogue_scaling [--quick] [--rounds=7] [--cores=1]

Ranker: batch 1024, L = 50, as many users as items, ids drawn uniformly, so that nearly all of the
52,000 look-ups of a step are of different rows. Generator: 16 rows of 54 events, in-batch or
uniform negatives, label head. Sizes take turns; a time is the CPU time of a step. Memory is the
peak of a process that trains tables of items and users, which have half of the rows each, saves
them as an evaluation does, and restores them.
"""

import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

from absl import app, flags

from benchmarks import built_steps, checkpoint_memory, common
from nif_jax.training.devices.base import Devices

flags.DEFINE_integer("rounds", 7, "Counted rounds.")
flags.DEFINE_bool("quick", False, "Fewer rounds and sizes, and not the memory at 1e7 rows.")
flags.DEFINE_float("memory", 0, "Only this: memory of training so many rows, 0 = the whole page.")
flags.DEFINE_string("folder", None, "Of the checkpoints, which are removed.")
FLAGS = flags.FLAGS

SPARSE_ROWS = 100_000


def stepper(items: int, make: Callable, *settings, parallel: Devices | None = None):
    """A call that takes four steps and returns milliseconds of CPU a step, and [the state]."""
    import jax

    call, state, arguments = built_steps.start(items, make(items, *settings), parallel)

    def run() -> float:
        begin = time.process_time()
        state[0], measured = call(state[0], *arguments)
        jax.block_until_ready((state[0], measured))
        return 250 * (time.process_time() - begin)

    return run, state


def peak_gib() -> float:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def memory(rows: int) -> None:
    """Trains a table of items and one of users, half of the rows each, saves and restores them as
    the loop does, and prints the peak after each."""

    def report(what: str) -> None:
        each = peak_gib() * 2**30 / (rows * 32)
        print(f"{what:10s} peak {peak_gib():.2f} GiB, {each:.1f} bytes a parameter", flush=True)

    print(f"{rows:,} rows x 32")
    run, state = stepper(rows // 2, built_steps.ranker, SPARSE_ROWS)
    for _ in range(3):
        run()
    report("train")
    with tempfile.TemporaryDirectory(dir=FLAGS.folder) as folder:
        checkpoint_memory.save_and_restore(pathlib.Path(folder), state, report)


def page(sizes, dense, rounds: int) -> None:
    """Prints a step's time by size, and over that of the first."""
    import numpy as np

    makers: dict[str, tuple[Callable, tuple]] = {
        "ranker": (built_steps.ranker, ()),
        "generator, in_batch": (built_steps.generator, ("in_batch",)),
        "generator, uniform": (built_steps.generator, ("uniform",)),
    }
    if FLAGS.quick:
        del makers["generator, uniform"]
    print(f"{common.machine()}, {rounds} rounds of 4 steps")
    print(f"{'step':22s}{'items':>10s} {'tables':8s}{'ms':>8s}   over the first, median (range)")
    for name, (make, settings) in makers.items():
        kinds = [(n, SPARSE_ROWS) for n in sizes] + [(n, 0) for n in dense]
        runs = [stepper(n, make, least, *settings)[0] for n, least in kinds]
        for run in runs:
            run()
        times = np.array([[run() for run in runs] for _ in range(rounds)])
        for (n, least), own in zip(kinds, times.T, strict=True):
            kind = "sparse" if 0 < least <= n else "dense"
            ratio = common.paired_ratio(own.tolist(), times[:, 0].tolist())
            print(f"{name:22s}{n:10,d} {kind:8s}{np.median(own):8.1f}   {ratio}", flush=True)


def main(argv: list[str]) -> None:
    """Prints times by size, dense for comparison, and the peak memory of large tables."""
    del argv
    common.pin()
    if FLAGS.memory:
        memory(int(FLAGS.memory))
        return
    for rows in (200_000, 2_000_000) if FLAGS.quick else (200_000, 2_000_000, 10_000_000):
        command = [sys.executable, "-m", "benchmarks.catalogue_scaling", f"--memory={rows}"]
        subprocess.run(command, check=True)
    if FLAGS.quick:
        page((10_000, 1_000_000), (), 3)
    else:
        page((10_000, 100_000, 1_000_000), (100_000, 1_000_000), FLAGS.rounds)


if __name__ == "__main__":
    app.run(main)
