"""How many labels does generative pre-training save?

    python launch/sweep.py --sweep=configs/sweeps/labels.py --data=<folder of parquet files>

Rankers get 1, 5, 20 or 100 % of the labels of the train period; movelines stay complete, so the
generator loses nothing. Nothing but the share differs between runs: where it leaves a ranker fewer
than train.min_steps steps, its epochs become more. All models of the house on MovieLens-100K, with
two seeds, and with 1 % on `ml_latest_small`; with 5 % on every data set base, nif, amen, and both
with the label head, five seeds where a seed takes minutes.
"""

from configs.sweeps import common

OURS = ("base", "nif", "tsp", "amen", "nif_labels", "amen_labels", "genci", "hybrid")
ROWS = (*common.BASELINES, *OURS)
SHARES = common.axis("data.label_share", (0.01, 0.05, 0.2, 1.0), "labels")
SETTINGS = {
    "movielens_100k": {"num_seeds": 5},
    "ml_latest_small": {"num_seeds": 5},
    "amazon23": {"num_seeds": 5},
    "movietweetings": {"num_seeds": 3},
    "online_retail": {"num_seeds": 3, "rows": ("base", "nif", "nif_labels")},
    "kuairand": {"num_seeds": 1, "rows": ("base", "nif", "nif_labels"), "pretrain.epochs": 8.0},
}


def get_sweep() -> list[common.Run]:
    """Shares of the labels on one data set, the least on another, one share on all."""
    all_rows = {"num_seeds": 2, "rows": ROWS}
    least = {"labels_0.01": SHARES["labels_0.01"]}
    shares = common.grid("configs/hybrid.py", ("movielens_100k",), SHARES, all_rows)
    shares += common.grid("configs/hybrid.py", ("ml_latest_small",), least, all_rows)
    few = {"data.label_share": 0.05, "rows": ("base", "nif", "amen", "nif_labels", "amen_labels")}
    return shares + [
        common.Run(data, "few", "configs/nif.py", few | more) for data, more in SETTINGS.items()
    ]
