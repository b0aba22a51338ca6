"""Training throughput of GenCI, in our form and in the authors'.

    python -m benchmarks.genci_throughput [--rounds=3] [--cores=0]

Data of MovieLens-100K's size, positive-only histories as the authors have them. "authors" is their
model at their sizes (their configuration: D = 64, 8 heads of 32, 2 + 3 blocks, one beam, a token a
code and four codes an item, the last to tell colliding items apart), with all that method.md lists
as quirks.
"""

from absl import app, flags

from benchmarks import common

flags.DEFINE_integer("rounds", 3, "Counted rounds.")
flags.DEFINE_integer("steps", 1, "Steps of one dispatch.")
FLAGS = flags.FLAGS

AUTHORS = (
    "intent.history=flat,intent.dim=64,intent.heads=8,intent.head_dim=32,intent.hidden=64,"
    "intent.encoder_layers=2,intent.decoder_layers=3,genci.gamma=1.0,genci.delta=1.0,"
    "genci.side=128+128+128,tokenizer.levels=4,train.microbatch=16"
)


def main(argv: list[str]) -> None:
    """Prints examples/s of each variant, and its time over the base's."""
    del argv
    common.pin()
    import numpy as np

    from configs import genci

    def stepper(variant: str, text: str = ""):
        run = common.make_run(genci.get_config, f"data.history=positive,{text}")
        return common.stepper(run, variant, common.random_ids(run), FLAGS.steps)

    candidates = {
        "base, history 50": stepper("base"),
        "genci, history 50": stepper("genci"),
        "genci, history 20": stepper("genci", "data.history_length=20"),
        "authors, history 20": stepper("genci_quirks", f"data.history_length=20,{AUTHORS}"),
        "authors, history 50": stepper("genci_quirks", AUTHORS),
    }
    seconds = common.interleave(candidates, FLAGS.rounds)
    print(f"{common.machine()}, {FLAGS.rounds} rounds of {FLAGS.steps} steps")
    print(f"{'variant':24s} {'examples/s':>11s}   time / base, median (range)")
    base = seconds["base, history 50"]
    for name, values in seconds.items():
        rate = FLAGS.steps * 1024 / np.median(values)
        print(f"{name:24s} {rate:11,.0f}   {common.paired_ratio(values, base)}")


if __name__ == "__main__":
    app.run(main)
