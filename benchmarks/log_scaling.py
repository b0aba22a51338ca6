"""Preparation of large logs, and later starts: time, memory and disk against the number of events.

    python -m benchmarks.log_scaling --quick
    python -m benchmarks.log_scaling --events=20000000 --events=100000000 --folder=/big/disk

A simulated log (Parquet, 100 events a user, one item in 300 events, three scenes) is prepared in a
process of its own with an empty cache ("cold") and read again ("second"). Two more processes train
the base ranker (`CONFIG`) up to the end of its first step: the first one lays the log out for
training and compiles ("lay out"), and the next one finds both in the cache ("train"). Each is
measured without imports, whose time is printed apart: wall and CPU time, peak of the resident
memory, of its private part (RssAnon) and of pages of mapped files (RssFile), files in the cache.
"prepare again" over "second start" is how often a start without a cache takes the CPU time of one
with it. --quick: 3 million events, which is no large log (data.ranges.LARGE), under 5 minutes.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable

QUICK = 3_000_000
CONFIG = "ranker.statistics=none,data.split=temporal_global"
"""Of the base ranker that is trained. Count features are computed in memory."""
STARTS = {"cold": "read", "second": "read", "lay out": "train", "train": "train"}


def generate(events: int, path: pathlib.Path, rows: int = 1 << 20) -> None:
    """Writes a log: uniform users and times, popular items, 30 % positives; `rows` a row group."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    users, items = max(events // 100, 10), max(events // 300, 10)
    scenes = np.array(["home", "search", "cart"])
    names = ("user_id", "item_id", "timestamp", "label", "scene")
    types = (pa.int64(), pa.int64(), pa.int64(), pa.int8(), pa.string())
    schema = pa.schema(list(zip(names, types, strict=True)))
    with pq.ParquetWriter(path, schema) as writer:
        for first in range(0, events, rows):
            count = min(rows, events - first)
            columns = (
                rng.integers(0, users, count),
                (items * rng.random(count) ** 2).astype(np.int64),
                1_600_000_000 + rng.integers(0, 10**7, count),
                (rng.random(count) < 0.3).astype(np.int8),
                scenes[rng.integers(0, 3, count)],
            )
            writer.write_table(pa.table(list(columns), schema=schema))


def start(path: pathlib.Path, cache_dir: pathlib.Path, until: str) -> dict[str, float]:
    """Seconds and memory of a run up to where the log is read, or to the end of its first step."""
    begin, peaks = time.process_time(), _watch_memory()
    from benchmarks import common
    from configs import base
    from nif_jax.data.preparation.cache import load_movelines
    from nif_jax.data.storage import enable_compilation_cache

    imported, wall = time.process_time(), time.perf_counter()
    if until == "read":
        load_movelines("files", seed=0, cache_dir=str(cache_dir), path=str(path))
    else:
        enable_compilation_cache(cache_dir / "programs")
        text = f"{CONFIG},data.cache_dir={cache_dir}"
        run = common.make_run(base.get_config, text, f"files,source.path={path}")
        common.stepper(run, "base", None, run.config.train.steps_per_dispatch)()
    return {
        "import": imported - begin,
        "cpu": time.process_time() - imported,
        "wall": time.perf_counter() - wall,
    } | peaks()


def _watch_memory() -> Callable[[], dict[str, float]]:
    """A call that ends the watch, and returns peaks of MiB of this process.

    ru_maxrss counts the process that started this one too.
    """
    done = threading.Event()
    peaks = dict.fromkeys(("VmHWM", "RssAnon", "RssFile"), 0.0)

    def watch() -> None:
        while True:
            ended = done.wait(0.05)
            status = pathlib.Path("/proc/self/status").read_text()
            for name in peaks:
                found = int(status.partition(f"{name}:")[2].split()[0]) / 1024
                peaks[name] = max(peaks[name], found)
            if ended:
                return

    watcher = threading.Thread(target=watch)
    watcher.start()

    def end() -> dict[str, float]:
        done.set()
        watcher.join()
        return peaks

    return end


def measure(*arguments: object, watched: pathlib.Path) -> dict[str, float]:
    """What a child process of this script measures, with the peak of MiB in a folder."""
    command = [sys.executable, "-m", "benchmarks.log_scaling", *map(str, arguments)]
    done, sizes = threading.Event(), [0]

    def watch() -> None:
        while not done.wait(0.2):
            sizes.append(_size(watched))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    finally:
        done.set()
        watcher.join()
    return json.loads(found or "{}") | {"disk": max(sizes) / 2**20}


def _size(folder: pathlib.Path) -> int:
    """Bytes of the files below a folder, of those that are still there."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(path, name)).st_size
            except FileNotFoundError:
                continue
    return total


def compare(events: int, folder: pathlib.Path) -> None:
    """Prints a line per start, and ratios."""
    log, cache_dir = folder / "log.parquet", folder / "cache"
    measure("--generate", events, log, watched=folder)
    print(f"{events:,} events, Parquet of {log.stat().st_size / 2**20:,.0f} MiB")
    names = ("CPU s", "wall s", "import s", "MiB", "private", "mapped", "disk MiB")
    print(f"{'start':10s} " + " ".join(f"{name:>8s}" for name in names))
    found = {}
    for name, until in STARTS.items():
        row = found[name] = measure("--start", log, cache_dir, until, watched=cache_dir)
        seconds = " ".join(f"{row[key]:8.2f}" for key in ("cpu", "wall", "import"))
        sizes = ("VmHWM", "RssAnon", "RssFile", "disk")
        print(f"{name:10s} {seconds} " + " ".join(f"{row[k]:8,.0f}" for k in sizes), flush=True)
    print(f"kept in the cache: {_size(cache_dir) / 2**20:,.0f} MiB")
    print(f"prepare again / second start: {found['cold']['cpu'] / found['second']['cpu']:.1f}")


def main(arguments: argparse.Namespace) -> None:
    """Measures every number of events; a child does one step of it."""
    if arguments.generate:
        events, path = arguments.generate
        generate(int(events), pathlib.Path(path))
    elif arguments.start:
        path, cache_dir, until = arguments.start
        print(json.dumps(start(pathlib.Path(path), pathlib.Path(cache_dir), until)))
    else:
        for events in [QUICK] if arguments.quick else arguments.events or [QUICK, 10_000_000]:
            with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
                compare(events, pathlib.Path(folder))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"{QUICK:,} events alone")
    parser.add_argument("--events", type=int, action="append", help="of a log; may be repeated")
    parser.add_argument("--folder", help="of the logs and caches, which are removed at the end")
    parser.add_argument("--generate", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--start", nargs=3, help=argparse.SUPPRESS)
    main(parser.parse_args())
