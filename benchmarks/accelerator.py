"""What an accelerator does with our train steps: times by batch and width, MFU, the largest table.

    python -m benchmarks.accelerator [--quick] [--parts=ranker,generator,table,mfu] \\
        [--output=accelerator.json]

One device, under 9 minutes; with --quick tiny sizes, under 3 minutes on a CPU. Prints a Markdown
table and writes --output. Each part is a process with a time limit: a part that fails or runs out
of time is reported, with what it had measured, and the next one starts.

- ranker: 10^5 users and items in dense tables, L = 50, one pass a step.
- generator: the whole loss of a default run, exact InfoNCE over 10,000 items, windows of 128.
- table: rows of width 32 (users and items, half each) that train sparsely; the first size that fits
  of those that are tried, from the memory of the device downwards.
- mfu: generators of about 100M parameters beside 20,000 items, windows of 256, bfloat16, without
  dropout; first without roll-outs for the velocity loss, whose few positions fill no device.

A step's time is that of several dispatches of K steps, each of which takes over the buffers of the
one before; the host waits once, after the last. FLOPs are those of matrix products, counted from
the float32 program (benchmarks/matmuls.py). MFU is their rate over the device's peak in bfloat16
(nif_jax/training/profile.py), for float32 too.
"""

import json
import pathlib
import sys
import time

from absl import app, flags

from benchmarks import common
from benchmarks.accelerator_parts import run_part, run_process, table
from configs.common import FAST_COMPILATION
from nif_jax.training.devices import processes

flags.DEFINE_bool("quick", False, "Tiny sizes, to test the command.")
flags.DEFINE_list("parts", ["ranker", "generator", "table", "mfu"], "What to measure, in order.")
flags.DEFINE_string("output", "accelerator.json", "Where the figures go.")
flags.DEFINE_string("part", None, "Internal: measure this part in this process.")
flags.DEFINE_float("seconds", 500, "Time of all parts together, or of --part.")
flags.FLAGS.set_default("cores", 0)
FLAGS = flags.FLAGS

SHARES = {"ranker": 0.25, "generator": 0.2, "table": 0.2, "mfu": 0.35}
"""Of the time that is left for the parts to be run; what one does not use is left to the next."""
flags.register_validator(
    "parts", lambda names: set(names) <= set(SHARES), f"choose from {', '.join(SHARES)}"
)


def main(argv: list[str]) -> None:
    """Runs the parts, prints the table, and writes the figures."""
    del argv
    common.pin()
    if FLAGS.part:
        if FLAGS.quick:
            processes.set_compiler_flags(FAST_COMPILATION)
        run_part(FLAGS.part, FLAGS.seconds, FLAGS.quick)
        return
    end, parts = time.monotonic() + FLAGS.seconds, {}
    for place, name in enumerate(FLAGS.parts):
        left = end - time.monotonic()
        own = left * SHARES[name] / sum(SHARES[other] for other in FLAGS.parts[place:])
        command = [sys.executable, "-m", "benchmarks.accelerator", f"--part={name}"]
        command += [f"--seconds={0.8 * own}", f"--quick={FLAGS.quick}", f"--cores={FLAGS.cores}"]
        rows, error = run_process(command, own)
        parts[name] = {"rows": rows, "error": error}
    print(table(parts))
    pathlib.Path(FLAGS.output).write_text(json.dumps(parts, indent=2) + "\n")


if __name__ == "__main__":
    app.run(main)
