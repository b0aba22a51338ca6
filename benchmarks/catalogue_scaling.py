"""How a train step depends on the number of items and users, and the memory that training takes.

    python -m benchmarks.catalogue_scaling [--quick] [--rounds=7] [--cores=1]

Ranker: batch 1024, L = 50, as many users as items, ids drawn uniformly, so that nearly all of the
52,000 look-ups of a step are of different rows. Generator: 16 rows of 54 events, in-batch or
uniform negatives, label head. Sizes take turns; a time is the CPU time of a step. Memory is the
peak of a process that trains tables of items and users, which have half of the rows each, saves
them as an evaluation does, and restores them.
"""

import functools
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from absl import app, flags

from benchmarks import checkpoint_memory, common

flags.DEFINE_integer("rounds", 7, "Counted rounds.")
flags.DEFINE_bool("quick", False, "Fewer rounds and sizes, and not the memory at 1e7 rows.")
flags.DEFINE_float("memory", 0, "Only this: memory of training so many rows, 0 = the whole page.")
flags.DEFINE_string("folder", None, "Of the checkpoints, which are removed.")
FLAGS = flags.FLAGS

USERS, EVENTS = 5_000, 60
"""Users with events, and events of each: what a store holds beside the tables costs no time."""
SPARSE_ROWS = 100_000


def log(items: int):
    """Store of a log of few users and many items, and the features of these items."""
    import numpy as np

    from nif_jax.data.windows import Store

    rng, events = np.random.default_rng(0), USERS * EVENTS
    owner = np.repeat(np.arange(USERS), EVENTS).astype(np.int32)
    begin = owner * EVENTS
    # Users are spread over the whole table.
    users = 2 + (rng.permutation(USERS) * max(1, items // USERS)) % items
    store = Store(
        item=rng.integers(1, items + 1, events).astype(np.int32),
        scene=rng.integers(1, 4, events).astype(np.int32),
        action=rng.integers(1, 3, events).astype(np.int32),
        time=np.tile(np.arange(EVENTS, dtype=np.int32) * 3600, USERS),
        label=rng.integers(0, 2, events).astype(np.float32),
        train=np.ones(events, bool),
        user=owner,
        user_features={"id": users.astype(np.int32)},
        history_row=np.arange(events, dtype=np.int32),
        history_begin=begin,
        history_end=np.arange(events, dtype=np.int32),
        frozen_end=begin,
        order_only=np.zeros(events, bool),
    )
    ids = np.append(0, np.arange(2, items + 2)).astype(np.int32)
    return store, {"id": ids[:, None]}


def ranker(items: int, sparse_rows: int):
    """Model, (init, loss, gather), lookups, indices [1, K, ...], rows of a pass, and constants."""
    import numpy as np

    from configs import nif
    from nif_jax.models.ranker import Ranker
    from nif_jax.stages import base
    from nif_jax.stages.large_tables import ranker_lookups

    settings = dict(nif.get_config("synthetic").ranker)
    settings.pop("statistics")
    rows = {"id": items + 2}
    model = Ranker(item_sizes=rows, user_sizes=rows, num_scenes=3, num_actions=2, **settings)
    lookups = ranker_lookups(rows, rows, sparse_rows, model.id_dropout, whole_catalogue=False)
    rng = np.random.default_rng(1)
    last = rng.integers(0, USERS, (1, 4, 1024)).astype(np.int32) * EVENTS + EVENTS - 1
    index = {
        "row": last,
        "weight": np.ones(last.shape, np.float32),
        "pair": np.zeros((1, 4, 512), np.float32),
    }
    functions = (base.init, base.loss, base.gather_rows(50))
    return model, functions, lookups, index, 256, {}


def generator(items: int, sparse_rows: int, negatives: str):
    """The same of the generator."""
    import numpy as np

    from configs import nif
    from nif_jax.models.flow import FlowDecoder
    from nif_jax.stages import generator as stage
    from nif_jax.stages.flow_loss import FlowLoss
    from nif_jax.stages.large_tables import generator_lookups
    from nif_jax.stages.sequences import gather_sequences
    from nif_jax.training.devices.base import AXIS

    config = nif.get_config(f"synthetic,flow_loss.negatives={negatives}")
    model = FlowDecoder(
        item_sizes={"id": items + 2}, num_scenes=3, num_actions=2, **config.generator
    )
    spec = FlowLoss(**config.flow_loss, horizon=config.flow.horizon)
    lookups = generator_lookups(model, spec, sparse_rows, AXIS)
    first = np.random.default_rng(1).integers(0, USERS, (1, 4, 16, 1)) * EVENTS
    entry = (first + np.arange(54)).astype(np.int32)
    index = {"entry": entry, "segment": np.ones(entry.shape, np.int32)}
    loss = functools.partial(stage.loss, model, spec, AXIS)
    frequency = np.append(0, np.full(items, 1 / items)).astype(np.float32)
    functions = (
        stage.init,
        lambda _, *args: loss(*args),
        functools.partial(gather_sequences, "all", 0),
    )
    return model, functions, lookups, index, 0, {"frequency": frequency}


def stepper(items: int, make, *settings):
    """A call that takes four steps and returns milliseconds of CPU a step, and [state]."""
    import jax
    import numpy as np

    from nif_jax.training import train_state
    from nif_jax.training.devices.pmap import Pmap
    from nif_jax.training.optim import make_optimizer
    from nif_jax.training.stage import Stage
    from nif_jax.training.step import make_train_step

    model, (init, loss, gather), lookups, index, microbatch, constants = make(items, *settings)
    store, features = log(items)
    constants = {"items": features} | constants
    optimizer = make_optimizer(
        learning_rate=1e-3,
        total_steps=1000,
        warmup_steps=0,
        decay="constant",
        weight_decay=1e-2,
        clip_norm=1.0,
        flatten=lookups is None,
    )
    nothing: dict[str, Any] = dict.fromkeys(("init", "plan", "evaluate", "settings", "data"))
    stage = Stage(
        name="benchmark",
        gather=gather,
        loss_fn=functools.partial(loss, model),
        optimizer=optimizer,
        metric="",
        config={},
        **nothing | {"lookups": lookups},
    )
    few = jax.tree.map(lambda x: x[0, 0, :2], index)
    parallel = Pmap()
    batch = gather({"store": store}, few)
    params, _ = init(model, train_state.key(0), batch, constants)
    state = [train_state.create_on_devices(params, {}, optimizer, 0, parallel)]
    del params
    constants = parallel.replicate(constants)
    arrays = parallel.shard({"store": jax.tree.map(lambda x: np.asarray(x)[None], store)})
    index = parallel.shard(index)
    call = parallel.map(make_train_step(stage, microbatch, True), donate=(0,))

    def run() -> float:
        begin = time.process_time()
        state[0], measured = call(state[0], arrays, constants, index)
        jax.block_until_ready((state[0], measured))
        return 250 * (time.process_time() - begin)

    return run, state


def peak_gib() -> float:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def memory(rows: int) -> None:
    """Trains a table of items and one of users, half of the rows each, saves and restores them as
    the loop does, and prints the peak after each."""

    def report(what: str) -> None:
        each = peak_gib() * 2**30 / (rows * 32)
        print(f"{what:10s} peak {peak_gib():.2f} GiB, {each:.1f} bytes a parameter", flush=True)

    print(f"{rows:,} rows x 32")
    run, state = stepper(rows // 2, ranker, SPARSE_ROWS)
    for _ in range(3):
        run()
    report("train")
    with tempfile.TemporaryDirectory(dir=FLAGS.folder) as folder:
        checkpoint_memory.save_and_restore(pathlib.Path(folder), state, report)


def page(sizes, dense, rounds: int) -> None:
    """Prints a step's time by size, and over that of the first."""
    import numpy as np

    makers: dict[str, tuple[Callable, tuple]] = {
        "ranker": (ranker, ()),
        "generator, in_batch": (generator, ("in_batch",)),
        "generator, uniform": (generator, ("uniform",)),
    }
    if FLAGS.quick:
        del makers["generator, uniform"]
    print(f"{common.machine()}, {rounds} rounds of 4 steps")
    print(f"{'step':22s}{'items':>10s} {'tables':8s}{'ms':>8s}   over the first, median (range)")
    for name, (make, settings) in makers.items():
        kinds = [(n, SPARSE_ROWS) for n in sizes] + [(n, 0) for n in dense]
        runs = [stepper(n, make, least, *settings)[0] for n, least in kinds]
        for run in runs:
            run()
        times = np.array([[run() for run in runs] for _ in range(rounds)])
        for (n, least), own in zip(kinds, times.T, strict=True):
            kind = "sparse" if 0 < least <= n else "dense"
            ratio = common.paired_ratio(own.tolist(), times[:, 0].tolist())
            print(f"{name:22s}{n:10,d} {kind:8s}{np.median(own):8.1f}   {ratio}", flush=True)


def main(argv: list[str]) -> None:
    """Prints times by size, dense for comparison, and the peak memory of large tables."""
    del argv
    common.pin()
    if FLAGS.memory:
        memory(int(FLAGS.memory))
        return
    for rows in (200_000, 2_000_000) if FLAGS.quick else (200_000, 2_000_000, 10_000_000):
        command = [sys.executable, "-m", "benchmarks.catalogue_scaling", f"--memory={rows}"]
        subprocess.run(command, check=True)
    if FLAGS.quick:
        page((10_000, 1_000_000), (), 3)
    else:
        page((10_000, 100_000, 1_000_000), (100_000, 1_000_000), FLAGS.rounds)


if __name__ == "__main__":
    app.run(main)
