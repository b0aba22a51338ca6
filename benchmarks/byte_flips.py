"""Flips single bits of a finished workdir, of its stages, and of prepared data; counts outcomes.

    python -m benchmarks.byte_flips --flips=40

Each flip is at a random byte of all files together. Then the same command trains and evaluates
again. A finished workdir is printed without reading its stages, so results.json is deleted before
bits of stages are flipped. "same" are equal results, a name is an error that main prints as one
line. Other results end in "OTHER RESULTS", tracebacks in "TRACEBACK", and a crash of the
interpreter ends this script: all three are faults. TensorBoard's event files are left out, because
nothing reads them.
"""

import argparse
import collections
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable

import numpy as np
from absl import logging

from nif_jax.experiment import runner
from tests.bad_input import workdir_cases

OTHER, TRACEBACK = "OTHER RESULTS", "TRACEBACK"


def files_below(folder: pathlib.Path) -> list[pathlib.Path]:
    """Files that a run reads."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return [path for path in found if "tensorboard" not in path.parts and path.stat().st_size]


def try_flips(
    folder: pathlib.Path, flips: int, seed: int, restore: Callable, attempt: Callable
) -> collections.Counter:
    """Counts of (mode, outcome) over flips.

    Args:
      folder: of the files; `restore` fills it.
      flips: how many.
      seed: of their places.
      restore: () -> None, makes the folder as it was.
      attempt: mode -> outcome.
    """
    rng = np.random.default_rng(seed)
    counts: collections.Counter[tuple[str, str]] = collections.Counter()
    for _ in range(flips):
        restore()
        files = files_below(folder)
        ends = np.cumsum([path.stat().st_size for path in files])
        place = int(rng.integers(ends[-1]))
        number = int(np.searchsorted(ends, place, side="right"))
        at, bit = place - int(ends[number - 1] if number else 0), int(rng.integers(8))
        workdir_cases.flip(files[number], at, bit)
        where = f"{files[number].relative_to(folder)}, byte {at}, bit {bit}"
        for mode in ("train", "evaluate"):
            found = attempt(mode)
            counts[mode, found] += 1
            print(f"{where}: {mode}: {found}", flush=True)
    return counts


def main(arguments: argparse.Namespace) -> int:
    """Prints the counts; returns 1 if there is a fault."""
    logging.set_verbosity(logging.FATAL)
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        os.environ["NIF_JAX_CACHE"] = str(folder / "cache")
        workdir_cases.write_tables(folder)
        config, whole, workdir = workdir_cases.get_config(folder), folder / "whole", folder / "run"
        runner.run(config, whole, "train")
        expected = workdir_cases.measured(whole)
        prepared, kept = folder / "cache" / "prepared", folder / "prepared"
        shutil.copytree(prepared, kept)

        def restore() -> None:
            for source, target in ((whole, workdir), (kept, prepared)):
                shutil.rmtree(target, ignore_errors=True)
                shutil.copytree(source, target)

        def attempt(mode: str) -> str:
            try:
                return workdir_cases.outcome(config, workdir, mode, expected)
            except AssertionError:
                return OTHER
            except Exception as error:  # noqa: BLE001  counted as a fault
                return f"{TRACEBACK} of {type(error).__name__}: {error}"

        counts = {
            name: try_flips(place, arguments.flips, arguments.seed, restore, attempt)
            for name, place in (("workdir", workdir), ("prepared data", prepared))
        }
        (whole / "results.json").unlink()
        counts["stages"] = try_flips(
            workdir / "seed_0", arguments.flips, arguments.seed, restore, attempt
        )
    for name, found in counts.items():
        for (mode, what), count in sorted(found.items()):
            print(f"{name}, {mode}: {count} {what}")
    faults = [what for found in counts.values() for _, what in found]
    return int(any(what.startswith((OTHER, TRACEBACK)) for what in faults))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flips", type=int, default=40, help="of each kind of files")
    parser.add_argument("--seed", type=int, default=0, help="of the places")
    raise SystemExit(main(parser.parse_args()))
