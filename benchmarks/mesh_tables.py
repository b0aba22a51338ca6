"""What tables take on each device of a mesh, and the largest ones that train within a memory.

    python -m benchmarks.mesh_tables [--gib=12] [--cores=0]

A table of items and one of users, half of the rows each, width 32, with AdamW's moments, are
trained by the step of the ranker (see catalogue_scaling) on forced CPU devices, which share one
process. First, the bytes that each device holds by the number of devices along "model". Then, the
rows that train on one device within an eighth of --gib (by a line through two peaks, which a third
run checks), and the peak of a process of 8 devices that trains 6 times as many.
"""

import os
import re
import subprocess
import sys

from absl import app, flags

from benchmarks import built_steps, common
from benchmarks.catalogue_scaling import SPARSE_ROWS, peak_gib, stepper
from configs.common import FAST_COMPILATION

flags.DEFINE_float("gib", 12, "Memory of all 8 devices.")
flags.DEFINE_integer("rows", 0, "Only this: rows of one run, 0 = the whole page.")
flags.DEFINE_integer("devices", 1, "With --rows: devices along model.")
FLAGS = flags.FLAGS

PROBES = (400_000, 1_200_000)
TIMES = 6


def measure(rows: int, devices: int) -> None:
    """Trains 12 steps; prints bytes of tables and moments on each device, and the peak in GiB."""
    import jax

    from configs import base
    from nif_jax.training.devices.mesh import Mesh

    rules = base.get_config("synthetic").mesh.rules
    mesh = Mesh(1, devices, rules)
    call, state = stepper(rows // 2, built_steps.ranker, SPARSE_ROWS, parallel=mesh)
    for _ in range(3):
        call()
    held = dict.fromkeys(jax.devices(), 0)
    for path, x in jax.tree_util.tree_leaves_with_path(state[0]):
        if re.search(r"\['(items|user)'\]", jax.tree_util.keystr(path)):
            for part in x.addressable_shards:
                held[part.device] += part.data.nbytes
    assert len(set(held.values())) == 1, held
    print(f"{held[jax.devices()[0]]} {peak_gib()}")


def run(rows: int, devices: int) -> tuple[int, float]:
    """Bytes on each device and peak in GiB of a process that trains so many rows."""
    command = [sys.executable, "-m", "benchmarks.mesh_tables", f"--rows={rows}"]
    command += [f"--devices={devices}", f"--cores={FLAGS.cores}"]
    forced = f"--xla_force_host_platform_device_count={devices}"
    # Memory is what counts here, not speed.
    environment = os.environ | {
        "XLA_FLAGS": f"{FAST_COMPILATION} {forced}",
        "JAX_PLATFORMS": "cpu",
    }
    found = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True)
    held, peak = found.stdout.split()
    return int(held), float(peak)


def page() -> None:
    """Prints bytes of a device by their number, and the largest tables."""
    rows = PROBES[0]
    print(f"{rows:,} rows x 32, AdamW, bytes of tables and moments on each device")
    for devices in (1, 2, 4, 8):
        held, peak = run(rows, devices)
        print(f"mesh.model={devices}: {held:12,d}   peak of the process {peak:.2f} GiB", flush=True)
    share = FLAGS.gib / 8
    (low, first), (high, second) = ((rows, run(rows, 1)[1]) for rows in PROBES)
    slope = (second - first) / (high - low)
    largest = int((low + (share - first) / slope) * 0.98) // 10_000 * 10_000
    _, peak = run(largest, 1)
    print(f"one device, share of {share:.2f} GiB: {largest:,} rows, peak {peak:.2f} GiB")
    _, peak = run(TIMES * largest, 8)
    print(f"8 devices, {FLAGS.gib:g} GiB: {TIMES} x as many rows, peak {peak:.2f} GiB")


def main(argv: list[str]) -> None:
    """Prints the page, or what one run takes."""
    del argv
    common.pin()
    if FLAGS.rows:
        measure(FLAGS.rows, FLAGS.devices)
    else:
        page()


if __name__ == "__main__":
    flags.FLAGS.set_default("cores", 0)  # as many threads as forced devices
    app.run(main)
