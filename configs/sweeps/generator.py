"""What does the ranker gain from a larger, longer trained, or untrained generator?

    python launch/sweep.py --sweep=configs/sweeps/generator.py

`full` is the default. `random` is the control: a generator with the weights that it starts from, so
that what is left of nif's lift comes of the wider ranker alone. Then more width, more blocks, fewer
passes (the default's end by patience), and what it predicts: positive next events only.
nif measures the flow, and nif_labels the flow and the label head.
Three seeds; about 4 minutes of one core for a seed of a run, more for the larger ones.
"""

from configs.sweeps import common

UNTRAINED = {"pretrain.init": "scratch", "pretrain.epochs": 0.0, "pretrain.learning_rate": 0.0}
ROWS = {
    "full": {},
    "random": UNTRAINED,
    **common.axis("generator.dim", (64,)),
    **common.axis("generator.layers", (4,)),
    **common.axis("pretrain.epochs", (4.0,)),
    "positive_targets": {"flow_loss.targets": "positive"},
}


def get_sweep() -> list[common.Run]:
    """One change at a time, on MovieLens-100K."""
    shared = {
        "num_seeds": common.SEEDS_TO_EXPLORE,
        "rows": ("base", "nif", "nif_labels"),
    }
    return common.grid("configs/nif.py", ("movielens_100k",), ROWS, shared, reference="full")
