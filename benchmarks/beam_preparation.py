"""Preparation by Apache Beam and in one process: equal files, and the CPU time of both.

    python -m benchmarks.beam_preparation --events=1000000 --workers=2

A simulated log (benchmarks/log_scaling.py, 16 row groups) is prepared by DirectRunner with worker
processes and by one process, into two empty caches. CPU time is that of the process and its
children, imports included. The script ends with an error if a file differs.
"""

import argparse
import os
import pathlib
import resource
import subprocess
import sys
import tempfile

from benchmarks.log_scaling import generate

CONFIG = "configs/base.py"
LOCAL = """
from configs import base
from nif_jax.data.preparation.cache import configured, load_movelines
load_movelines(**configured(base.get_config({text!r})))
"""


def run(command: list[str]) -> float:
    """CPU seconds of a process and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, env=os.environ | {"JAX_PLATFORMS": "cpu"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def files(cache: pathlib.Path) -> dict[str, bytes]:
    """Path -> bytes of prepared data."""
    found = sorted((cache / "prepared").rglob("*"))
    return {str(path.relative_to(cache)): path.read_bytes() for path in found if path.is_file()}


def main() -> None:
    """Prints CPU seconds of both ways."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=float, default=1e6)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        generate(int(given.events), folder / "log.parquet", rows=-(-int(given.events) // 16))
        text = f"files,source.path={folder / 'log.parquet'},data.cache_dir={folder}/"
        command = [sys.executable, "-m", "nif_jax.data.preparation.beam"]
        command += [f"--config={CONFIG}:{text}beam", "--runner=DirectRunner"]
        command += ["--direct_running_mode=multi_processing"]
        seconds = run([*command, f"--direct_num_workers={given.workers}"])
        local = run([sys.executable, "-c", LOCAL.format(text=f"{text}local")])
        if files(folder / "beam") != files(folder / "local"):
            sys.exit("error: the files differ")
        print(f"{given.events:,.0f} events, equal files; CPU seconds:")
        print(f"Beam, {given.workers} workers: {seconds:.1f}; one process: {local:.1f}")


if __name__ == "__main__":
    main()
