"""FLOPs and bytes of a train step from its program, without running it (docs/scaling.md).

    python -m benchmarks.step_costs --step=ranker --items=200000 --sparse_rows=100000
    python -m benchmarks.step_costs --step=generator --items=20000 --rows=128 --length=256 \\
        --settings=generator.dim=1024,generator.heads=8,generator.layers=9 --nocompile

Prints matrix products by size (benchmarks/matmuls.py), XLA's count of operations before it
optimises the program, and the bytes that the compiled program reads and writes, by XLA's count too.
"""

import collections
from typing import Any

from absl import app, flags

from benchmarks import built_steps, common, matmuls

flags.DEFINE_enum("step", "ranker", ["ranker", "generator"], "Whose step.")
flags.DEFINE_integer("items", 200_000, "Items; the ranker has as many users.")
flags.DEFINE_integer("rows", 1024, "Rows of a step.")
flags.DEFINE_integer("length", 256, "Positions of a generator's row.")
flags.DEFINE_integer("sparse_rows", 0, "See config.train.sparse_rows.")
flags.DEFINE_string("negatives", "exact", "See config.flow_loss.negatives.")
flags.DEFINE_string("settings", "", "As after a config's name.")
flags.DEFINE_string("dtype", "float32", "See config.compute_dtype.")
flags.DEFINE_bool("compile", True, "Whether to compile the step, for its bytes.")
FLAGS = flags.FLAGS


def main(argv: list[str]) -> None:
    """Prints the counts."""
    del argv
    common.pin()
    import jax

    options: dict[str, Any] = {"text": FLAGS.settings, "dtype": FLAGS.dtype, "steps": 1}
    if FLAGS.step == "ranker":
        built = built_steps.ranker(FLAGS.items, FLAGS.sparse_rows, FLAGS.rows, 0, **options)
    else:
        sizes = (FLAGS.items, FLAGS.sparse_rows, FLAGS.negatives, FLAGS.rows, FLAGS.length)
        built = built_steps.generator(*sizes, **options)
    step, params, arguments = built_steps.shapes(FLAGS.items, built)
    size = sum(x.size for x in jax.tree.leaves(params))
    found = matmuls.products(step, *arguments)
    total = sum(product.flops for product in found)
    print(f"{common.machine()}: {size:,} parameters")
    each = total / FLAGS.rows / 1e6
    print(f"matrix products of a step: {total / 1e9:,.3f} GFLOP, {each:,.3f} MFLOP a row")
    by_size: collections.Counter = collections.Counter()
    for product in found:
        by_size[product] += product.flops
    for product, flops in by_size.most_common(12):
        each = f"{product.rows} x {product.columns} x {product.inner}"
        print(f"{flops / total:7.1%}  {product.times:6,d} times {each}")
    small = sum(p.flops for p in found if min(p.rows, p.columns, p.inner) < 64)
    print(f"{small / total:7.1%}  of products with a side below 64")
    lowered = step.lower(*arguments)
    print(f"all operations by XLA's count: {lowered.cost_analysis()['flops'] / 1e9:,.3f} GFLOP")
    if FLAGS.compile:
        moved = lowered.compile().cost_analysis()["bytes accessed"]
        print(f"bytes read and written: {moved / 1e9:,.3f} GB")


if __name__ == "__main__":
    app.run(main)
