"""Training throughput of the flow generator: its width, and rows of a step.

    python -m benchmarks.pretrain_throughput [--rounds=7] [--cores=0]
    python -m benchmarks.pretrain_throughput --contexts=50,1000 [--positions=8192]

Sizes of MovieLens-100K, simulated; a row of a step is packed with movelines of 54 events in all.
Every variant trains whole steps: softmax over the catalogue, both regularisers, label head. With
--contexts the variants are lengths of the windows instead, with about as many positions a step, on
the histories of 120 users of 1.2 times the longest context; peak memory is that of the process.
"""

import resource

from absl import app, flags

from benchmarks import common

flags.DEFINE_integer("rounds", 7, "Counted rounds.")
flags.DEFINE_integer("steps", 8, "Steps of one dispatch.")
flags.DEFINE_list("contexts", [], "Lengths to compare; the first is the one of the ratios.")
flags.DEFINE_integer("positions", 8192, "With --contexts: about how many a step has.")
FLAGS = flags.FLAGS


def variants() -> dict[str, tuple[str, int]]:
    """Name -> overrides of the config, and rows of a step."""
    if not FLAGS.contexts:
        sizes = ((width, rows) for rows in (16, 128) for width in (32, 64))
        return {
            f"D = {width}, {rows} rows": (f"generator.dim={width}", rows) for width, rows in sizes
        }
    contexts = [int(context) for context in FLAGS.contexts]
    data = f"source.num_users=120,source.events_per_user={1.2 * max(contexts)}"
    # Rows come in pairs.
    rows = {context: max(2, FLAGS.positions // context // 2 * 2) for context in contexts}
    return {
        f"context {context}, {rows[context]} rows": (
            f"{data},pretrain.context={context}",
            rows[context],
        )
        for context in contexts
    }


def main(argv: list[str]) -> None:
    """Prints milliseconds a step and positions/s of each variant."""
    del argv
    common.pin()
    import numpy as np

    from configs import nif

    candidates, positions = {}, {}
    for name, (text, rows) in variants().items():
        run = common.make_run(nif.get_config, f"{text},pretrain.batch_size={rows}")
        candidates[name] = common.stepper(run, "generator", None, FLAGS.steps)
        positions[name] = rows * (run.config.pretrain.context + run.config.flow.horizon)
    seconds = common.interleave(candidates, FLAGS.rounds)
    print(f"{common.machine()}, {FLAGS.rounds} rounds of {FLAGS.steps} steps")
    print(
        f"{'variant':24s} {'ms/step':>8s} {'positions/s':>12s}   "
        "time of a position / first, median (range)"
    )
    each = {name: [s / positions[name] for s in values] for name, values in seconds.items()}
    first = next(iter(each.values()))
    for name, values in seconds.items():
        step = np.median(values) / FLAGS.steps
        ratio = common.paired_ratio(each[name], first)
        print(f"{name:24s} {1e3 * step:8.2f} {positions[name] / step:12,.0f}   {ratio}")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    app.run(main)
