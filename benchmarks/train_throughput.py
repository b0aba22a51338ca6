"""Training throughput of the rankers, and what TSP and the flow add.

    python -m benchmarks.train_throughput [--rounds=7] [--batch_size=1024] [--cores=0]

Sizes of MovieLens-100K (simulated, so that nothing is downloaded): L = 50, D = 32. Variants take
turns; read the ratios, since seconds depend on the machine and on its other work.
"""

from unittest import mock

from absl import app, flags

from benchmarks import common

flags.DEFINE_integer("rounds", 7, "Counted rounds.")
flags.DEFINE_integer("steps", 8, "Steps of one dispatch.")
flags.DEFINE_integer("batch_size", 1024, "Rows of a step.")
FLAGS = flags.FLAGS


def main(argv: list[str]) -> None:
    """Prints examples/s of each variant, and its time over the base's."""
    del argv
    common.pin()
    import jax  # after the pin, as all that starts JAX
    import numpy as np

    from configs import nif
    from nif_jax.experiment import start
    from nif_jax.models import dropout
    from nif_jax.stages import context, flow_cache, generator

    size = f"train.batch_size={FLAGS.batch_size}"
    run = common.make_run(nif.get_config, size)
    # Speed does not depend on what the generator has learned.
    params, _ = start.initial_state(run, generator.make(run))
    frozen = flow_cache.generator_outputs(run, params)
    without = common.make_run(nif.get_config, f"{size},ranker.statistics=none")
    uncached = common.make_run(nif.get_config, f"{size},flow.cache=False")

    def stepper(run: context.Context, variant: str, microbatch: int | None = None):
        return common.stepper(run, variant, frozen, FLAGS.steps, microbatch)

    def with_wide_masks():
        """A step of the base whose masks take 32 random bits an entry, as those of nn.Dropout."""

        def uniform(rng, shape):
            return jax.random.uniform(rng, shape) * dropout.LEVELS

        step = stepper(run, "base")
        with mock.patch.object(dropout, "random_bytes", uniform):
            step()  # traces
        return step

    candidates = {
        "base": stepper(run, "base"),
        "base, no count features": stepper(without, "base"),
        "tsp": stepper(run, "tsp"),
        "nif": stepper(run, "nif"),
        "amen": stepper(run, "amen"),
        "nif, flow in the step": stepper(uncached, "nif"),
        "base, passes of 256 rows": stepper(run, "base", microbatch=256),
        "base, masks of 32 bits": with_wide_masks(),
        "base, one pass": stepper(run, "base", microbatch=0),
    }
    seconds = common.interleave(candidates, FLAGS.rounds)
    examples = FLAGS.steps * FLAGS.batch_size
    print(f"{common.machine()}, {FLAGS.rounds} rounds of {FLAGS.steps} steps")
    print(f"{'variant':24s} {'examples/s':>11s}   time / base, median (range)")
    for name, values in seconds.items():
        rate = examples / np.median(values)
        print(f"{name:24s} {rate:11,.0f}   {common.paired_ratio(values, seconds['base'])}")


if __name__ == "__main__":
    app.run(main)
