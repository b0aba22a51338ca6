"""The intent model's attention against the gradient that JAX derives for it.

    python -m benchmarks.attention [--rounds=20] [--cores=0]

Forward and backward of 16 rows, 8 heads of 32, as many tokens as the authors' form has for
histories of 20 and 50 items of 3 codes.
"""

from absl import app, flags

from benchmarks import common

flags.DEFINE_integer("rounds", 20, "Counted rounds.")
FLAGS = flags.FLAGS


def main(argv: list[str]) -> None:
    """Prints microseconds a row of both, and their ratio, for each number of tokens."""
    del argv
    common.pin()
    import jax
    import jax.numpy as jnp
    import numpy as np

    from nif_jax.models import attention

    def derived(query, key, value, mask):
        scores = jnp.einsum("...pd,...sd->...ps", query, key)
        weights = attention.masked_softmax(scores, mask)
        return jnp.einsum("...ps,...sd->...pd", weights, value)

    def grad(form, parts, mask):
        # Not a plain sum, whose gradient XLA would know to be ones.
        call = jax.jit(jax.grad(lambda *x: (form(*x, mask) ** 2).sum(), argnums=(0, 1, 2)))
        return lambda: jax.block_until_ready(call(*parts))

    print(f"{common.machine()}, {FLAGS.rounds} rounds")
    print(f"{'tokens':>6s} {'written out, us':>16s} {'derived, us':>12s}   ratio, median (range)")
    for tokens in (60, 150):
        shape = (3, 16, 8, tokens, 32)
        parts = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
        mask = jnp.ones((16, 1, 1, tokens), bool)
        forms = {"written": attention.attend, "derived": derived}
        calls = {name: grad(form, parts, mask) for name, form in forms.items()}
        seconds = common.interleave(calls, FLAGS.rounds)
        micro = {name: np.median(found) / 16 * 1e6 for name, found in seconds.items()}
        ratio = common.paired_ratio(seconds["written"], seconds["derived"])
        print(f"{tokens:6d} {micro['written']:16.0f} {micro['derived']:12.0f}   {ratio}")


if __name__ == "__main__":
    app.run(main)
