"""Kills smoke runs at random moments, starts them again, and compares what they end with.

    python -m benchmarks.kills --kills=50
    python -m benchmarks.kills --kills=20 --signal=TERM

Runs are processes of `python -m nif_jax.main`, killed by SIGKILL at a uniform moment of the time
that an undisturbed run takes, data preparation and imports included. After SIGTERM, a run has to
exit with status 0 within 30 s, or has not begun. A workdir that ends is compared with that run's,
array by array of its best checkpoints and figure by figure of results.json, and the next one
begins. The cache of prepared data is new for each workdir, compiled programs are shared.
"""

import argparse
import os
import pathlib
import shutil
import signal
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


GRACE_SECONDS = 30.0
"""From SIGTERM to the end of a run."""


def command(config: str, workdir: pathlib.Path) -> list[str]:
    """Of a run."""
    return [sys.executable, "-m", "nif_jax.main", f"--config={config}", f"--workdir={workdir}"]


def run(
    config: str,
    workdir: pathlib.Path,
    cache: pathlib.Path,
    seconds: float,
    number: signal.Signals = signal.SIGKILL,
) -> bool:
    """Runs the command, sends a signal after so many seconds, and returns whether it ended before.

    Raises:
      RuntimeError: it failed; the message has what it printed.
      subprocess.TimeoutExpired: it goes on after the signal.
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
            process.send_signal(number)
            status = process.wait(GRACE_SECONDS)
            if status == -number:  # SIGTERM: while it imports
                return False
            ended = False
        else:
            ended = True
        if status:
            output.seek(0)
            raise RuntimeError(f"exit status {status}:\n{output.read()[-3000:]}")
    return ended


def require_equal(whole: pathlib.Path, workdir: pathlib.Path) -> int:
    """How many arrays were compared; AssertionError if anything differs."""
    assert measured(whole) == measured(workdir)
    count = 0
    for best in sorted((whole / "seed_0").glob("*/best")):
        one, other = (best_parameters(w / "seed_0" / best.parent.name) for w in (whole, workdir))
        jax.tree.map(np.testing.assert_array_equal, one, other)
        count += len(jax.tree.leaves(one))
    return count


def try_kills(
    name: str,
    kills: int,
    number: signal.Signals,
    rng: np.random.Generator,
    folder: pathlib.Path,
) -> None:
    """Prints a line for each kill and for each workdir that ends."""
    config, whole = CONFIGS[name], folder / f"{name}-whole"
    run(config, whole, folder / "cache-whole", 1e9)  # compiles
    shutil.rmtree(whole)
    begin = time.perf_counter()
    run(config, whole, folder / "cache-whole", 1e9)
    seconds = time.perf_counter() - begin
    print(f"{name}: {seconds:.1f} s undisturbed", flush=True)
    done, tried = 0, 0
    while done < kills:
        tried += 1
        workdir, cache, own = folder / f"{name}-{tried}", folder / f"cache-{name}-{tried}", 0
        # The last start is not killed, so that every workdir ends.
        while not run(
            config, workdir, cache, float(rng.uniform(0, seconds)) if done < kills else 1e9, number
        ):
            done, own = done + 1, own + 1
            print(f"{name}, workdir {tried}: kill {done}", flush=True)
        arrays = require_equal(whole, workdir)
        print(f"{name}, workdir {tried}: {own} kills, {arrays} equal arrays", flush=True)
        shutil.rmtree(workdir)
        shutil.rmtree(cache)


def main(arguments: argparse.Namespace) -> None:
    """Kills runs of each config."""
    rng, number = np.random.default_rng(arguments.seed), signal.Signals[f"SIG{arguments.signal}"]
    with tempfile.TemporaryDirectory() as folder:
        for name in CONFIGS:
            try_kills(name, arguments.kills // len(CONFIGS), number, rng, pathlib.Path(folder))
    print(f"{arguments.kills} kills: all arrays and figures are equal")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="in all")
    parser.add_argument("--signal", choices=["KILL", "TERM"], default="KILL")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    main(parser.parse_args())
