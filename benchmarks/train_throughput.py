"""Training throughput of the rankers on one core, and what TSP and the flow add.

    python -m benchmarks.train_throughput [--rounds=7]

Sizes of MovieLens-100K (simulated, so that nothing is downloaded): L = 50, D = 32, batch 1024.
Variants take turns; read the ratios, since seconds depend on the machine and on its other work.
"""

from absl import app, flags

from benchmarks import common

flags.DEFINE_integer("rounds", 7, "Counted rounds.")
flags.DEFINE_integer("steps", 8, "Steps of one dispatch.")
FLAGS = flags.FLAGS


def main(argv: list[str]) -> None:
    """Prints examples/s of each variant, and its time over the base's."""
    del argv
    core = common.use_one_core()
    # After the pin: JAX counts the cores when it starts.
    import pathlib

    import jax
    import numpy as np

    from configs import nif
    from nif_jax import build, pipeline, train_state
    from nif_jax.data.input import batches
    from nif_jax.metrics.writer import MetricWriter
    from nif_jax.parallel import Pmap
    from nif_jax.step import make_train_step

    size = "source.num_users=943,source.num_items=1682,source.events_per_user=106"

    def make_run(text: str = "") -> build.Run:
        config = nif.get_config(",".join(filter(None, ["synthetic", size, text])))
        parallel = Pmap()
        return build.Run(
            config=config,
            seed=0,
            folder=pathlib.Path(),
            dataset=build.load_dataset(config, parallel),
            parallel=parallel,
            writer=MetricWriter(".", enabled=False),
            train=True,
        )

    run = make_run()
    # Speed does not depend on what the generator has learned.
    params, _ = pipeline.initial_state(run, build.build_generator(run))
    frozen = pipeline.freeze(run, params)
    uncached = make_run("flow.cache=False")

    def stepper(run: build.Run, row: str, microbatch: int | None = None):
        built = build.build_base(run) if row == "base" else build.build_row(run, row, frozen)
        initial = pipeline.initial_state(run, built)
        state = train_state.create(*initial, built.stage.optimizer, 0)
        state = run.parallel.replicate(jax.tree.map(np.asarray, state))
        rows = built.section.microbatch if microbatch is None else microbatch
        step = run.parallel.map(make_train_step(built.stage, rows, True))
        stream = batches(
            built.stage.plan,
            run.parallel.local_shards,
            first_step=0,
            last_step=FLAGS.steps,
            steps_per_dispatch=FLAGS.steps,
        )
        batch = next(stream)
        return lambda: jax.block_until_ready(step(state, *built.data.step_arguments, batch))

    candidates = {
        "base": stepper(run, "base"),
        "tsp": stepper(run, "tsp"),
        "nif": stepper(run, "nif"),
        "amen": stepper(run, "amen"),
        "nif, flow in the step": stepper(uncached, "nif"),
        "base, one pass of 1024": stepper(run, "base", microbatch=0),
    }
    seconds = common.interleave(candidates, FLAGS.rounds)
    examples = FLAGS.steps * run.config.train.batch_size
    print(f"core {core}, jax {jax.__version__}, {FLAGS.rounds} rounds of {FLAGS.steps} steps")
    print(f"{'variant':24s} {'examples/s':>11s}   time / base, median (range)")
    for name, values in seconds.items():
        rate = examples / np.median(values)
        print(f"{name:24s} {rate:11,.0f}   {common.paired_ratio(values, seconds['base'])}")


if __name__ == "__main__":
    app.run(main)
