"""How much of what can be known does each model find, and is the flow what finds drift?

    python launch/sweep.py --sweep=configs/sweeps/simulator.py

The simulator's click probabilities are known, so that a model's share of the way from popularity to
the best possible AUC is too. Interests stand still, or drift. Without drift a static model should
reach the bound; with drift, models with a flow should lead. What is seen, and which half of nif it
owes to, is in results/README.md.
Three seeds of 1,000 users. What a generator finds of drift grows with what it has seen of it:
`large` has 16,000 users, and a generator of twice the width; one seed, three quarters of an hour.
"""

from configs.sweeps import common

ROWS = ("popularity", "din", "base", "nif", "tsp", "amen", "nif_labels", "amen_labels")
DRIFT = common.axis("source.drift", (0.0, 0.2))
LABELS = common.axis("data.label_share", (1.0, 0.05), "labels")
LARGE = {
    "source.num_users": 16000,
    "source.drift": 0.05,
    "data.label_share": 0.05,
    "rows": ("base", "popularity", "din", "nif", "amen", "nif_labels", "amen_labels"),
    "num_seeds": 1,
    "generator.dim": 64,
    "generator.dropout": 0.1,
    "generator.id_dropout": 0.1,
    "pretrain.epochs": 12.0,
    "pretrain.eval_epochs": 2.0,
}


def get_sweep() -> list[common.Run]:
    """Speeds of drift, radians a day, with all labels and with few; and many users."""
    shared = {"num_seeds": common.SEEDS_TO_EXPLORE, "rows": ROWS}
    variants = common.product(DRIFT, LABELS)
    large = common.Run("synthetic", "large", "configs/nif.py", LARGE)
    return [*common.grid("configs/nif.py", ("synthetic",), variants, shared), large]
