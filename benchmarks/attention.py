"""Attention on a CPU: our three forms against jax.nn.dot_product_attention.

    python -m benchmarks.attention [--rounds=20] [--cores=0] [--only=generator]

Forward and backward with a mask, at the sizes that each model trains with on MovieLens-100K, and at
long contexts with a causal mask. "derived" is cpu.attend, "written" is cpu.attend_fast_gradient,
"tiles" is blockwise.attend, "jax" is the form of accelerators.
"""

from absl import app, flags

from benchmarks import common

flags.DEFINE_integer("rounds", 20, "Counted rounds.")
flags.DEFINE_string("only", "", "The one case to run; empty = all.")
FLAGS = flags.FLAGS

# Rows, queries, keys, heads, width of a head.
CASES = {
    "generator": (16, 54, 54, 4, 8),
    "label head": (256, 1, 50, 4, 8),
    "alignment": (256, 1, 4, 2, 16),
    "sasrec": (256, 50, 50, 2, 16),
    "cohorts": (64, 12, 50, 2, 16),
    "encoder": (64, 50, 50, 2, 16),
    # As many tokens as the authors' form has for histories of 20 and 50 items of 3 codes.
    "authors, 20": (16, 60, 60, 8, 32),
    "authors, 50": (16, 150, 150, 8, 32),
    "causal, 500": (2, 500, 500, 4, 8),
    "causal, 1000": (2, 1000, 1000, 4, 8),
}


def main(argv: list[str]) -> None:
    """Prints microseconds a row of the derived gradient, and the other forms' time over it."""
    del argv
    common.pin()
    import jax
    import jax.numpy as jnp
    import numpy as np

    from nif_jax.models.attention import attend

    def grad(options, parts, mask):
        # Not a plain sum, whose gradient XLA would know to be ones.
        call = jax.jit(jax.grad(lambda *x: (attend(*x, **options) ** 2).sum(), argnums=(0, 1, 2)))
        return lambda: jax.block_until_ready(call(*parts, mask))

    forms = {
        "derived": {"implementation": "cpu"},
        "written": {"implementation": "cpu", "fast_gradient": True},
        "tiles": {"implementation": "tiles"},
        "jax": {"implementation": "xla"},
    }
    print(f"{common.machine()}, {FLAGS.rounds} rounds; ratios are medians (range)")
    print(
        f"{'case':12s} {'derived, us':>12s}   {'written / derived':22s} "
        f"{'tiles / derived':22s} jax / derived"
    )
    for name, (rows, queries, keys, heads, width) in CASES.items():
        if FLAGS.only not in ("", name):
            continue
        rng = np.random.default_rng(0)
        lengths = (queries, keys, keys)
        parts = [
            jnp.asarray(rng.normal(size=(rows, n, heads, width)), jnp.float32) for n in lengths
        ]
        mask = rng.random((rows, queries, keys)) < 0.7
        if name.startswith("causal"):
            mask[:] = np.tril(np.ones((queries, keys), bool))
        mask = jnp.asarray(mask)
        calls = {form: grad(options, parts, mask) for form, options in forms.items()}
        seconds = common.interleave(calls, FLAGS.rounds)
        micro = np.median(seconds["derived"]) / rows * 1e6
        written, tiles, other = (
            common.paired_ratio(seconds[form], seconds["derived"])
            for form in ("written", "tiles", "jax")
        )
        print(f"{name:12s} {micro:12.0f}   {written:22s} {tiles:22s} {other}")


if __name__ == "__main__":
    app.run(main)
