"""Latency of scoring one user's candidates: base, GenCI, and GenCI done row by row.

    python -m benchmarks.serve_latency [--rounds=20] [--candidates=1000] [--cores=0]
    python -m benchmarks.serve_latency --artefacts=artefacts/base,artefacts/amen --rounds=100

The second command measures model.score of artefacts, from a request to its scores in process, with
100 candidates and with --candidates.

What GenCI generates depends on the history only, so that encoder and beam search run once for all
candidates of a user; "row by row" runs them for every candidate, as a naive predict would.
"""

import functools
import time
from collections.abc import Mapping

from absl import app, flags

from benchmarks import common

flags.DEFINE_integer("rounds", 20, "Counted rounds.")
flags.DEFINE_integer("candidates", 1000, "Candidates of the user.")
flags.DEFINE_list("artefacts", [], "Folders; times are compared with those of the first.")
flags.DEFINE_enum("clock", "wall", ["wall", "cpu"], "Seconds of a clock, or of the processor.")
FLAGS = flags.FLAGS


def main(argv: list[str]) -> None:
    """Prints milliseconds of each variant, and its time over the base's."""
    del argv
    common.pin()
    if FLAGS.artefacts:
        of_artefacts()
        return
    import jax
    import jax.numpy as jnp
    import numpy as np

    from configs import genci
    from nif_jax.experiment import start
    from nif_jax.stages import finetune

    run = common.make_run(genci.get_config)
    frozen = common.random_ids(run)
    count, items = FLAGS.candidates, run.dataset.movelines.num_items
    candidates = jnp.asarray(np.random.default_rng(0).integers(1, items + 1, count))

    def scorers(variant: str):
        """Calls that score the last user with a full history: by candidates, and row by row."""
        built = finetune.make(run, variant, frozen)
        params, variables = start.initial_state(run, built)
        arrays = jax.tree.map(lambda x: x[0], run.parallel.unshard(built.data.arrays))
        context = run.parallel.unreplicate(built.data.constants)
        rows = run.dataset.impressions(0, 2)[-1:]
        index = {"row": rows, "weight": np.ones(1, np.float32), "pair": np.zeros(0, np.float32)}
        batch = jax.tree.map(jnp.asarray, built.scorers["scores"].gather(arrays, index))
        # Those of the row itself stand for each candidate's: their values do not matter here.
        batch = batch._replace(statistics=jnp.repeat(batch.statistics, count, 0))
        params, variables, context = jax.tree.map(jnp.asarray, (params, variables, context))
        context = context | built.scorers["scores"].prepare(params, variables, context)
        assert built.predict_candidates is not None
        once = jax.jit(built.predict_candidates)
        every = jax.jit(built.scorers["scores"].predict)
        alone = batch._replace(pair=None, statistics=None)
        many = jax.tree.map(lambda x: jnp.repeat(x, count, 0), alone)
        many = many._replace(item=candidates, statistics=batch.statistics)
        given = (params, variables, context)
        return (
            lambda: jax.block_until_ready(once(*given, batch, candidates)),
            lambda: jax.block_until_ready(every(*given, many)),
        )

    base, _ = scorers("base")
    once, every = scorers("genci")
    np.testing.assert_allclose(once()["logit"], every()["logit"], atol=1e-4)
    seconds = common.interleave(
        {"base": base, "genci": once, "genci, row by row": every}, FLAGS.rounds
    )
    report(count, seconds)


def of_artefacts() -> None:
    """Prints milliseconds of model.score of each artefact, for one user."""
    import numpy as np

    from nif_jax import serving

    rng = np.random.default_rng(0)
    models = {folder: serving.load(folder) for folder in FLAGS.artefacts}
    names, log = next(iter(models.values())).vocabulary, next(iter(models.values())).encoder.log
    clock = time.process_time if FLAGS.clock == "cpu" else time.perf_counter
    for count in (100, FLAGS.candidates):
        request = {
            "timestamp": int(log.rows.time.max()) + 60,
            "scene": str(names.scene[0]),
            "items": [str(item) for item in rng.choice(names.item, count)],
            "user_id": str(names.user[np.diff(log.offsets).argmax()]),
        }
        calls = {name: functools.partial(m.score, request) for name, m in models.items()}
        report(count, common.interleave(calls, FLAGS.rounds, clock))


def report(count: int, seconds: Mapping[str, list[float]]) -> None:
    """Prints what was measured for a number of candidates."""
    print(f"{common.machine()}, {count} candidates, {FLAGS.rounds} rounds")
    common.print_milliseconds(seconds)


if __name__ == "__main__":
    app.run(main)
