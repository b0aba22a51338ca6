"""What do NIF, TSP and the label head add to a strong base, with all labels? The headline table.

    python launch/sweep.py --sweep=configs/sweeps/main.py --data=<folder of parquet files>

The controls and two published rankers read the same count features as the base. `selected` is the
best trained variant on validation, seed by seed. Three seeds where a seed takes minutes, one where
it takes a quarter of an hour. KuaiRand's generator trains for half as many passes as the default,
which is about time.
"""

from configs.sweeps import common

CONTROLS = ("constant", "counters", "popularity", "lightgbm", "deepfm", "din")
OURS = ("base", "nif", "tsp", "amen", "nif_labels", "amen_labels", "selected")
SETTINGS = {
    "movielens_100k": {"num_seeds": 3},
    "ml_latest_small": {"num_seeds": 3},
    "amazon23": {"num_seeds": 3},
    "movietweetings": {"num_seeds": 1},
    "online_retail": {"num_seeds": 1},
    "kuairand": {"num_seeds": 1, "pretrain.epochs": 8.0},
}


def get_sweep() -> list[common.Run]:
    """Every real data set with all of its labels."""
    rows = {"rows": (*CONTROLS, *OURS)}
    return [common.Run(data, "all", "configs/nif.py", rows | s) for data, s in SETTINGS.items()]
