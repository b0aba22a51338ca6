"""What the benchmarks share: where they run, data of MovieLens-100K's size, interleaved timing."""

import os
import pathlib
import time
from collections.abc import Callable, Mapping

import numpy as np
from absl import flags

flags.DEFINE_integer(
    "cores",
    1,
    "Cores that the process may use, 0 = all. For an accelerator, whose programs they compile, 0.",
)


def pin() -> None:
    """Keeps this process to --cores cores; call it before JAX starts, which counts them."""
    allowed = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, allowed[: flags.FLAGS.cores or len(allowed)])


def machine() -> str:
    """What the figures were measured on."""
    import jax

    cores = len(os.sched_getaffinity(0))
    return f"{jax.devices()[0].device_kind} ({cores} of the host's cores), jax {jax.__version__}"


def interleave(
    candidates: Mapping[str, Callable[[], object]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each call, A B C A B C ...: drift of the machine falls on all alike.

    Each callable has to block until its work is done; one uncounted round compiles and warms up.
    """
    for run in candidates.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, run in candidates.items():
            start = clock()
            run()
            seconds[name].append(clock() - start)
    return seconds


def paired_ratio(one: list[float], other: list[float]) -> str:
    """Median, and range, of one / other over the rounds."""
    ratio = np.array(one) / np.array(other)
    return f"{np.median(ratio):.3f} ({ratio.min():.3f}-{ratio.max():.3f})"


def print_milliseconds(seconds: Mapping[str, list[float]]) -> None:
    """A line for each call: its median, and its time over that of the first."""
    first = next(iter(seconds.values()))
    print(f"{'variant':24s} {'ms':>8s}   time / that of the first, median (range)")
    for name, values in seconds.items():
        print(f"{name:24s} {1e3 * np.median(values):8.2f}   {paired_ratio(values, first)}")


SIZE = "synthetic,source.num_users=943,source.num_items=1682,source.events_per_user=106"
"""The sizes of MovieLens-100K, simulated, so that nothing is downloaded."""


def make_run(get_config: Callable, text: str = "", data: str = SIZE):
    """A context.Context of a config on data of MovieLens-100K's size; trains and writes nothing."""
    # After pin: JAX counts the cores when it starts.
    from nif_jax.metrics.writer import MetricWriter
    from nif_jax.stages import context
    from nif_jax.training.devices.pmap import Pmap

    config = get_config(",".join(filter(None, [data, text])))
    parallel = Pmap()
    return context.Context(
        config=config,
        seed=0,
        folder=pathlib.Path(),
        dataset=context.load_dataset(config, parallel),
        parallel=parallel,
        writer=MetricWriter(".", enabled=False),
        train=True,
    )


def stepper(run, stage: str, frozen, steps: int, microbatch: int | None = None) -> Callable:
    """A call that trains `steps` steps of a stage, always the same ones, and waits for them.

    Args:
      run: see make_run.
      stage: "base", "generator", or a variant that is fine-tuned.
      frozen: GeneratorOutputs that the variant reads; None for the other two.
      steps: of one dispatch.
      microbatch: see step.make_train_step; None = as configured.
    """
    import jax

    from nif_jax.data.input import Epochs
    from nif_jax.experiment import start
    from nif_jax.stages import base, finetune, generator
    from nif_jax.training import train_state
    from nif_jax.training.step import make_train_step

    if stage == "base":
        built = base.make(run)
    elif stage == "generator":
        built = generator.make(run)
    else:
        built = finetune.make(run, stage, frozen)
    initial = start.initial_state(run, built)
    state = train_state.create(*initial, built.optimizer, 0)
    state = run.parallel.replicate(jax.tree.map(np.asarray, state))
    rows = built.settings.microbatch if microbatch is None else microbatch
    step = run.parallel.map(make_train_step(built, rows, built.data.on_device))
    stream = Epochs(built.plan, run.parallel.local_shards).batches(
        first_step=0,
        last_step=steps,
        steps_per_dispatch=steps,
        gather=built.data.host_gather(built.gather),
    )
    batch = run.parallel.shard(next(stream))
    return lambda: jax.block_until_ready(step(state, *built.data.step_arguments, batch))


def random_ids(run):
    """GeneratorOutputs with random semantic IDs: speed does not depend on what codes mean."""
    from nif_jax.stages import tokens
    from nif_jax.stages.outputs import GeneratorOutputs

    section, items = run.config.tokenizer, run.dataset.movelines.num_items
    codes = tokens.untrained_codes(
        "random", np.zeros((items + 1, 1)), section.levels, section.codes, 0
    )
    ids = tokens.semantic_ids(codes[1], section.codes, run.config.genci.beams)
    return GeneratorOutputs(codes={section.form: codes}, ids={section.form: ids})
