"""How far does AMEN come on each data set, with all labels? The headline table.

    python launch/sweep.py --sweep=configs/sweeps/main.py --data=<folder of parquet files>

The paper claims +0.87 pt of AUC for amen over its base, on data that is not public. `selected` is
the best row on validation, seed by seed. `kuairand-base` sets the base beside DeepFM, which was the
strongest of other houses' models there.
Five seeds where a seed takes minutes, fewer where it takes half an hour. What is set beside rows
and seeds is about time: a fifth of Online Retail's users (its rankers learn for longer than the
default), and half as many passes of KuaiRand's generator.
"""

from configs.sweeps import common

ROWS = ("base", "nif", "tsp", "amen", "nif_labels", "amen_labels", "selected")
WITHOUT_TSP = ("base", "nif", "amen", "nif_labels", "amen_labels", "selected")
SETTINGS = {
    "movielens_100k": {"rows": ROWS, "num_seeds": 5},
    "ml_latest_small": {"rows": ROWS, "num_seeds": 5},
    "amazon23": {"rows": ROWS, "num_seeds": 5},
    "movietweetings": {"rows": WITHOUT_TSP, "num_seeds": 3},
    "online_retail": {
        "rows": WITHOUT_TSP,
        "num_seeds": 3,
        "source.user_share": 0.2,
        "train.epochs": 12.0,
    },
    "kuairand": {"rows": WITHOUT_TSP, "num_seeds": 1, "pretrain.epochs": 8.0},
}


def get_sweep() -> list[common.Run]:
    """Every real data set with all of its labels."""
    runs = [common.Run(data, "all", "configs/nif.py", more) for data, more in SETTINGS.items()]
    base = {"rows": ("base", "deepfm"), "num_seeds": 3}
    return [*runs, common.Run("kuairand", "base", "configs/base.py", base)]
