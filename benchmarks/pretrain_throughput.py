"""Training throughput of the flow generator: its width, and rows of a step.

    python -m benchmarks.pretrain_throughput [--rounds=7] [--cores=0]

Sizes of MovieLens-100K, simulated; a row of a step is packed with movelines of 54 events in all.
Every variant trains whole steps: softmax over the catalogue, both regularisers, label head.
"""

from absl import app, flags

from benchmarks import common

flags.DEFINE_integer("rounds", 7, "Counted rounds.")
flags.DEFINE_integer("steps", 8, "Steps of one dispatch.")
FLAGS = flags.FLAGS


def main(argv: list[str]) -> None:
    """Prints milliseconds a step and positions/s of each variant."""
    del argv
    common.pin()
    import numpy as np

    from configs import nif

    candidates, positions = {}, {}
    for width, rows in ((32, 16), (64, 16), (32, 128), (64, 128)):
        name = f"D = {width}, {rows} rows"
        text = f"generator.dim={width},pretrain.batch_size={rows}"
        run = common.make_run(nif.get_config, text)
        candidates[name] = common.stepper(run, "generator", None, FLAGS.steps)
        positions[name] = rows * (run.config.pretrain.context + run.config.flow.horizon)
    seconds = common.interleave(candidates, FLAGS.rounds)
    print(f"{common.machine()}, {FLAGS.rounds} rounds of {FLAGS.steps} steps")
    print(f"{'variant':20s} {'ms/step':>8s} {'positions/s':>12s}   time / first, median (range)")
    first = next(iter(seconds.values()))
    for name, values in seconds.items():
        step = np.median(values) / FLAGS.steps
        ratio = common.paired_ratio(values, first)
        print(f"{name:20s} {1e3 * step:8.2f} {positions[name] / step:12,.0f}   {ratio}")


if __name__ == "__main__":
    app.run(main)
