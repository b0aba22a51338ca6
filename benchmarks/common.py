"""What the benchmarks share: one core, a data set of MovieLens-100K's size, interleaved timing."""

import os
import pathlib
import time
from collections.abc import Callable, Mapping

import numpy as np


def use_one_core() -> int:
    """Pins this process to one core; call it before JAX starts. Returns the core."""
    core = min(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    return core


def interleave(
    candidates: Mapping[str, Callable[[], None]], rounds: int
) -> dict[str, list[float]]:
    """Seconds of each call, A B C A B C ...: drift of the machine falls on all alike.

    Each callable has to block until its work is done; one uncounted round compiles and warms up.
    """
    for run in candidates.values():
        run()
    seconds = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, run in candidates.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def paired_ratio(one: list[float], other: list[float]) -> str:
    """Median, and range, of one / other over the rounds."""
    ratio = np.array(one) / np.array(other)
    return f"{np.median(ratio):.3f} ({ratio.min():.3f}-{ratio.max():.3f})"


SIZE = "synthetic,source.num_users=943,source.num_items=1682,source.events_per_user=106"
"""The sizes of MovieLens-100K, simulated, so that nothing is downloaded."""


def make_run(get_config: Callable, text: str = ""):
    """A run_context.Run of a config on data of MovieLens-100K's size; trains and writes nothing."""
    # After use_one_core: JAX counts the cores when it starts.
    from nif_jax import run_context
    from nif_jax.metrics.writer import MetricWriter
    from nif_jax.parallel import Pmap

    config = get_config(",".join(filter(None, [SIZE, text])))
    parallel = Pmap()
    return run_context.Run(
        config=config,
        seed=0,
        folder=pathlib.Path(),
        dataset=run_context.load_dataset(config, parallel),
        parallel=parallel,
        writer=MetricWriter(".", enabled=False),
        train=True,
    )


def stepper(run, row: str, frozen, steps: int, microbatch: int | None = None) -> Callable:
    """A call that trains `steps` steps of a row, always the same ones, and waits for them."""
    import jax

    from nif_jax import build, build_rows, pipeline, train_state
    from nif_jax.data.input import batches
    from nif_jax.step import make_train_step

    built = build.build_base(run) if row == "base" else build_rows.build_row(run, row, frozen)
    initial = pipeline.initial_state(run, built)
    state = train_state.create(*initial, built.stage.optimizer, 0)
    state = run.parallel.replicate(jax.tree.map(np.asarray, state))
    rows = built.section.microbatch if microbatch is None else microbatch
    step = run.parallel.map(make_train_step(built.stage, rows, True))
    stream = batches(
        built.stage.plan,
        run.parallel.local_shards,
        first_step=0,
        last_step=steps,
        steps_per_dispatch=steps,
    )
    batch = next(stream)
    return lambda: jax.block_until_ready(step(state, *built.data.step_arguments, batch))


def random_ids(run):
    """build_rows.Frozen with random semantic IDs: speed does not depend on what codes mean."""
    from nif_jax import tokens
    from nif_jax.build_rows import Frozen

    section, items = run.config.tokenizer, run.dataset.movelines.num_items
    codes = tokens.untrained_codes(
        "random", np.zeros((items + 1, 1)), section.levels, section.codes, 0
    )
    ids = tokens.semantic_ids(codes[1], section.codes, run.config.genci.beams)
    return Frozen(codes={section.form: codes}, ids={section.form: ids})
