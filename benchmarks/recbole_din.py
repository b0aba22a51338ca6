"""Training throughput of `base` and `din` beside DIN of RecBole, a PyTorch library of rankers.

    python3.11 -m venv peers
    peers/bin/pip install torch==2.13.0 numpy==1.26.4 pandas==2.1.4 scipy==1.11.4 \
        scikit-learn==1.4.2 pyyaml tqdm colorlog==4.7.2 colorama==0.4.4 tensorboard thop tabulate \
        plotly texttable psutil
    peers/bin/pip install --no-deps recbole==1.2.1
    python -m benchmarks.recbole_din --recbole_python=peers/bin/python [--rounds=7]

One core; in every round each takes its steps, one after the other. Batches have 1,024 rows of
MovieLens-100K's size and histories of 50. RecBole reads the ml-100k that it brings, with embeddings
of 16, and an attention and a tower of 128 and 64 units. Ours are as configured (D = 32, actions in
the history, count features); "equal attention" is `din` with an attention of 128 and 64 units.
"""

import os
import pathlib
import subprocess
import sys
from collections.abc import Callable

from absl import app, flags

from benchmarks import common, recbole_steps

flags.DEFINE_string("recbole_python", None, "Python of an environment with RecBole.", required=True)
flags.DEFINE_integer("rounds", 7, "Counted rounds.")
flags.DEFINE_integer("steps", 8, "Steps of a round.")
FLAGS = flags.FLAGS

# For PyTorch's allocator; its training is slower without them.
ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "34359738368",
    "MALLOC_TOP_PAD_": "268435456",
    "OMP_NUM_THREADS": "1",
}


class RecBole:
    """A process that takes steps of RecBole's DIN when called."""

    def __init__(self, python: str, steps: int):
        script = str(pathlib.Path(recbole_steps.__file__))
        self._process = subprocess.Popen(
            [python, script, str(steps)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | ALLOCATOR,
        )
        self._expect("ready")

    def __call__(self) -> None:
        print("go", file=self._process.stdin, flush=True)
        self._expect("")

    def _expect(self, text: str) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(text):
                return
        sys.exit(f"RecBole's process ended with status {self._process.wait()}; see above")


def main(argv: list[str]) -> None:
    """Prints examples/s of each model, and its rate over RecBole's."""
    del argv
    common.pin()
    import numpy as np  # after the pin, as all that starts JAX

    from configs import nif
    from nif_jax.stages.outputs import GeneratorOutputs

    size = f"train.batch_size={recbole_steps.BATCH}"
    run = common.make_run(nif.get_config, size)
    wide = common.make_run(nif.get_config, f"{size},ranker.attention=128+64")
    candidates: dict[str, Callable[[], None]] = {
        "DIN of RecBole": RecBole(FLAGS.recbole_python, FLAGS.steps),
        "base": common.stepper(run, "base", None, FLAGS.steps),
        "din": common.stepper(run, "din", GeneratorOutputs(), FLAGS.steps),
        "din, equal attention": common.stepper(wide, "din", GeneratorOutputs(), FLAGS.steps),
    }
    seconds = common.interleave(candidates, FLAGS.rounds)
    examples = FLAGS.steps * recbole_steps.BATCH
    print(f"{common.machine()}, {FLAGS.rounds} rounds of {FLAGS.steps} steps")
    print(f"{'model':24s} {'examples/s':>11s}   rate / RecBole's, median (range)")
    for name, values in seconds.items():
        ratio = common.paired_ratio(seconds["DIN of RecBole"], values)
        print(f"{name:24s} {examples / np.median(values):11,.0f}   {ratio}")


if __name__ == "__main__":
    app.run(main)
