"""Kills smoke runs at random moments, starts them again, and compares what they end with.

    python -m benchmarks.kills --kills=50

Runs are processes of `python -m nif_jax.main`, killed by SIGKILL at a uniform moment of the time
that an undisturbed run takes, data preparation and imports included. A workdir that ends is
compared with that run's, array by array of its best checkpoints and figure by figure of
results.json, and the next one begins. The cache of prepared data is new for each workdir, compiled
programs are shared.
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np

from tests.bad_input.workdir_cases import measured
from tests.end_to_end.runs import TINY_HYBRID, TINY_NIF, best_parameters

CONFIGS = {
    "nif": f"configs/nif.py:{TINY_NIF},rows=base+amen",
    "hybrid": f"configs/hybrid.py:{TINY_HYBRID},rows=base+hybrid",
}


def command(config: str, workdir: pathlib.Path) -> list[str]:
    """Of a run."""
    return [sys.executable, "-m", "nif_jax.main", f"--config={config}", f"--workdir={workdir}"]


def run(config: str, workdir: pathlib.Path, cache: pathlib.Path, seconds: float) -> bool:
    """Runs the command for at most so many seconds; returns whether it ended by itself.

    Raises:
      RuntimeError: it failed; the message has what it printed.
    """
    programs = cache.parent / "programs"
    environment = os.environ | {
        "NIF_JAX_CACHE": str(cache),
        "JAX_COMPILATION_CACHE_DIR": str(programs),
    }
    with (cache.parent / "output").open("w+") as output:
        process = subprocess.Popen(
            command(config, workdir), env=environment, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return False
        if status:
            output.seek(0)
            raise RuntimeError(f"exit status {status}:\n{output.read()[-3000:]}")
    return True


def require_equal(whole: pathlib.Path, workdir: pathlib.Path) -> int:
    """How many arrays were compared; AssertionError if anything differs."""
    assert measured(whole) == measured(workdir)
    count = 0
    for best in sorted((whole / "seed_0").glob("*/best")):
        one, other = (best_parameters(w / "seed_0" / best.parent.name) for w in (whole, workdir))
        jax.tree.map(np.testing.assert_array_equal, one, other)
        count += len(jax.tree.leaves(one))
    return count


def try_kills(name: str, kills: int, rng: np.random.Generator, folder: pathlib.Path) -> None:
    """Prints a line for each kill and for each workdir that ends."""
    config, whole = CONFIGS[name], folder / f"{name}-whole"
    run(config, whole, folder / "cache-whole", 1e9)  # compiles
    shutil.rmtree(whole)
    begin = time.perf_counter()
    run(config, whole, folder / "cache-whole", 1e9)
    seconds = time.perf_counter() - begin
    print(f"{name}: {seconds:.1f} s undisturbed", flush=True)
    done, number = 0, 0
    while done < kills:
        number += 1
        workdir, cache, own = folder / f"{name}-{number}", folder / f"cache-{name}-{number}", 0
        # The last start is not killed, so that every workdir ends.
        while not run(
            config, workdir, cache, float(rng.uniform(0, seconds)) if done < kills else 1e9
        ):
            done, own = done + 1, own + 1
            print(f"{name}, workdir {number}: kill {done}", flush=True)
        arrays = require_equal(whole, workdir)
        print(f"{name}, workdir {number}: {own} kills, {arrays} equal arrays", flush=True)
        shutil.rmtree(workdir)
        shutil.rmtree(cache)


def main(arguments: argparse.Namespace) -> None:
    """Kills runs of each config."""
    rng = np.random.default_rng(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        for name in CONFIGS:
            try_kills(name, arguments.kills // len(CONFIGS), rng, pathlib.Path(folder))
    print(f"{arguments.kills} kills: all arrays and figures are equal")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="in all")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    main(parser.parse_args())
