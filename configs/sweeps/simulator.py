"""How much of what can be known does each model find, and is the flow what finds drift?

    python launch/sweep.py --sweep=configs/sweeps/simulator.py

The simulator's click probabilities are known, so that a model's share of the way from popularity to
the best possible AUC is too. Interests stand still, or drift ever faster. Without drift a static
model should reach the bound; with drift, models with a flow should lead. So they do where rankers
have few labels (`drift_x-labels_0.05`), and not where they have all (results/README.md).
Three seeds; about 15 minutes of one core for a seed of each speed.
"""

from configs.sweeps import common

ROWS = ("popularity", "din", "sasrec", "base", "nif", "tsp", "amen", "genci", "hybrid")
DRIFT = common.axis("source.drift", (0.0, 0.1, 0.2, 0.4))
FEW = common.axis("data.label_share", (0.05,), "labels")


def get_sweep() -> list[common.Run]:
    """Speeds of drift, radians a day, with all labels; two of them with few, too."""
    shared = {"num_seeds": common.SEEDS_TO_EXPLORE, "rows": ROWS}
    some = {name: DRIFT[name] for name in ("drift_0.0", "drift_0.2")}
    variants = DRIFT | common.product(some, FEW)
    return common.grid("configs/hybrid.py", ("synthetic",), variants, shared)
