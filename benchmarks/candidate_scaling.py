"""Serving and ranking by the size of the catalogue: time of a call, and memory of ranking.

    python -m benchmarks.candidate_scaling [--items=1e6] [--rounds=20] [--candidates=100]

First, the rank of the next item among all --items for 256 rows: chunk by chunk, as
nif_jax.metrics.retrieval does, and from one array of scores. Then the milliseconds that it takes to
score one user's candidates with 10,000 items and with --items, and each variant's time over that of
din. "stepwise" variants roll the flow out in the call, the others read it from the cache. Times are
CPU time of the process, to which other processes add little.
"""

import dataclasses
import time

from absl import app, flags

from benchmarks import common

flags.DEFINE_float("items", 1e6, "Items of the large catalogue.")
flags.DEFINE_integer("rounds", 20, "Counted rounds.")
flags.DEFINE_integer("candidates", 100, "Candidates of the user.")
FLAGS = flags.FLAGS
ROWS, SEEN, DIM = 256, 50, 32
SMALL = 10_000
LOG = "synthetic,source.num_users=100,source.num_items=1000,source.events_per_user=100"
CALLS = {
    "din": ("din", ""),
    "base": ("base", ""),
    "nif": ("nif", ""),
    "amen": ("amen", ""),
    "nif, stepwise": ("nif", "flow.cache=False"),
    "amen, stepwise": ("amen", "flow.cache=False"),
    "amen_labels, stepwise": ("amen_labels", "flow.cache=False"),
}
"""Name -> variant and settings."""


def with_catalogue(run, items: int):
    """The run with a catalogue of `items`, most of which nobody has seen, whose one feature is the
    id: others would cost all variants alike."""
    import numpy as np

    from nif_jax.data.vocabulary import OOV

    ids = np.arange(items + 1, dtype=np.int32) + OOV
    ids[0] = 0
    sizes = {"id": items + 1 + OOV}
    dataset = dataclasses.replace(run.dataset, items={"id": ids[:, None]}, item_sizes=sizes)
    return dataclasses.replace(run, dataset=dataset, kept={})


def scorer(run, variant: str, outputs, candidates):
    """A call that scores the candidates for the last user, by a variant with random parameters."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from nif_jax.experiment import start
    from nif_jax.stages import finetune

    built = finetune.make(run, variant, outputs)
    state = run.parallel.replicate(start.initial_state(run, built))
    scores = built.scorers["scores"]
    constants = built.data.constants
    constants = constants | run.parallel.map(scores.prepare)(*state, constants)
    given = jax.tree.map(jnp.asarray, run.parallel.unreplicate((*state, constants)))
    arrays = jax.tree.map(lambda x: x[0], run.parallel.unshard(built.data.arrays))
    rows = run.dataset.impressions(0, 2)[-1:]
    index = {"row": rows, "weight": np.ones(1, np.float32), "pair": np.zeros(0, np.float32)}
    batch = jax.tree.map(jnp.asarray, scores.gather(arrays, index))
    # Those of the row itself stand for each candidate's: their values do not matter here.
    batch = batch._replace(statistics=jnp.repeat(batch.statistics, len(candidates), 0))
    assert built.predict_candidates is not None
    call = jax.jit(built.predict_candidates)
    return lambda: jax.block_until_ready(call(*given, batch, candidates))


def compare_variants(items: int) -> None:
    """Prints milliseconds of each variant, and its time over din's."""
    import jax.numpy as jnp
    import numpy as np

    from configs import nif
    from nif_jax.experiment import start
    from nif_jax.stages import flow_cache, generator

    candidates = jnp.asarray(np.random.default_rng(0).integers(1, items + 1, FLAGS.candidates))
    calls = {}
    for settings in dict.fromkeys(settings for _, settings in CALLS.values()):
        run = with_catalogue(common.make_run(nif.get_config, settings, LOG), items)
        params, _ = start.initial_state(run, generator.make(run))
        outputs = flow_cache.generator_outputs(run, params)
        for name, (variant, own) in CALLS.items():
            if own == settings:
                calls[name] = scorer(run, variant, outputs, candidates)
    seconds = common.interleave(calls, FLAGS.rounds, time.process_time)
    print(f"\n{FLAGS.candidates} candidates of one user, {items:,} items")
    common.print_milliseconds({name: seconds[name] for name in CALLS})


def rank_catalogue(items: int) -> None:
    """Prints time and memory of the ranks of ROWS targets, in both forms."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from nif_jax.metrics import retrieval

    rng = np.random.default_rng(0)
    vectors = jnp.asarray(rng.normal(size=(items + 1, DIM)).astype(np.float32))
    queries = jnp.asarray(rng.normal(size=(ROWS, DIM)).astype(np.float32))
    targets = jnp.asarray(rng.integers(1, items + 1, ROWS))
    seen = jnp.asarray(rng.integers(0, items + 1, (ROWS, SEEN)))
    print(f"\nranks of {ROWS} rows among {items:,} items, {SEEN} of them seen")
    print(f"{'form':10s} {'s':>8s} {'MiB beside the arguments':>28s}")
    ranks = []
    given = (queries, vectors, targets, seen)
    for form, chunk in (("chunks", retrieval.CHUNK), ("one array", items)):

        def rank(queries, vectors, targets, seen, chunk=chunk):
            return retrieval.target_ranks(queries, vectors[1:], targets - 1, seen - 1, chunk)

        compiled = jax.jit(rank).lower(*given).compile()
        ranks.append(np.asarray(compiled(*given)))
        seconds = []
        for _ in range(3):
            start = time.process_time()
            jax.block_until_ready(compiled(*given))
            seconds.append(time.process_time() - start)
        memory = compiled.memory_analysis()
        assert memory is not None
        print(f"{form:10s} {min(seconds):8.2f} {memory.temp_size_in_bytes / 2**20:28.0f}")
    np.testing.assert_array_equal(ranks[0], ranks[1])
    print("ranks are equal")


def main(argv: list[str]) -> None:
    """Prints the table of ranking, and one of serving for each size."""
    del argv
    common.pin()
    print(common.machine())
    items = int(FLAGS.items)
    rank_catalogue(items)
    for size in dict.fromkeys((min(SMALL, items), items)):
        compare_variants(size)


if __name__ == "__main__":
    app.run(main)
