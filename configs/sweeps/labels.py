"""How many labels does generative pre-training save?

    python launch/sweep.py --sweep=configs/sweeps/labels.py

Rankers get 1, 5, 20 or 100 % of the labels of the train period; movelines stay complete, so the
generator loses nothing. Pre-training should pay where labels are scarce: a prototype saw +1.5 pt of
AUC there, a third of it with four times the labels. Nothing but the share differs between runs:
where it leaves a ranker fewer than train.min_steps steps, its epochs become more.
Three seeds; about 25 minutes of one core for a seed of MovieLens-100K, all shares together.
"""

from configs.sweeps import common

ROWS = (*common.BASELINES, "base", "nif", "tsp", "amen", "genci", "hybrid")
SHARES = common.axis("data.label_share", (0.01, 0.05, 0.2, 1.0), "labels")


def get_sweep() -> list[common.Run]:
    """Shares of the labels."""
    shared = {"num_seeds": common.SEEDS_TO_EXPLORE, "rows": ROWS}
    return common.grid("configs/hybrid.py", ("movielens_100k",), SHARES, shared)
