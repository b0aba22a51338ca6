"""Exact InfoNCE, whose gradient is made beside its value, against the gradient that JAX derives.

    python -m benchmarks.info_nce [--rounds=10] [--cores=0]

Forward and backward of the 848 targets of a default step, D = 32, against catalogues of the sizes
of MovieLens-100K and ml-latest-small, and of 30,000 items.
"""

from absl import app, flags

from benchmarks import common

flags.DEFINE_integer("rounds", 10, "Counted rounds.")
FLAGS = flags.FLAGS


def main(argv: list[str]) -> None:
    """Prints milliseconds of both, and their ratio, for each number of items."""
    del argv
    common.pin()
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from nif_jax.losses import info_nce
    from nif_jax.models.flow import unit

    def derived(queries, table, targets, weights, temperature):
        logits = queries @ table[1:].T / temperature
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets - 1)
        return (weights * losses).sum()

    print(f"{common.machine()}, {FLAGS.rounds} rounds")
    print(f"{'items':>6s} {'written out, ms':>16s} {'derived, ms':>12s}   ratio, median (range)")
    generator = np.random.default_rng(0)
    for items in (1_682, 9_000, 30_000):
        queries = unit(jnp.asarray(generator.normal(size=(16, 53, 32)), jnp.float32))
        table = unit(jnp.asarray(generator.normal(size=(1 + items, 32)), jnp.float32))
        targets = generator.integers(1, 1 + items, size=(16, 53))
        weights = np.ones((16, 53), np.float32)

        def grad(form, *vectors, more=(targets, weights)):
            call = jax.jit(jax.value_and_grad(lambda q, t: form(q, t, *more, 0.07), (0, 1)))
            return lambda: jax.block_until_ready(call(*vectors))

        forms = {"written": info_nce.exact, "derived": derived}
        calls = {name: grad(form, queries, table) for name, form in forms.items()}
        seconds = common.interleave(calls, FLAGS.rounds)
        milli = {name: np.median(found) * 1e3 for name, found in seconds.items()}
        ratio = common.paired_ratio(seconds["written"], seconds["derived"])
        print(f"{items:6d} {milli['written']:16.1f} {milli['derived']:12.1f}   {ratio}")


if __name__ == "__main__":
    app.run(main)
