"""How many labels does generative pre-training save, beside counts of the same labels?

    python launch/sweep.py --sweep=configs/sweeps/labels.py --data=<folder of parquet files>

Rankers get 5 % of the labels of the train period; movelines stay complete, so the generator reads
all of them. Count features read the labels of all events, too ("few"), or those of the ranker's own
rows ("few_labelled"). Where the share leaves a ranker fewer than train.min_steps steps, its epochs
become more.
"""

from configs.sweeps import common

ROWS = ("constant", "counters", "lightgbm", "base", "nif", "nif_labels", "amen_labels")
DATA = ("movielens_100k", "ml_latest_small", "amazon23")
STATISTICS = {"few": "all", "few_labelled": "labelled"}


def get_sweep() -> list[common.Run]:
    """5 % of the labels, with both kinds of count features."""
    return [
        common.Run(
            data,
            name,
            "configs/nif.py",
            {"data.label_share": 0.05, "rows": ROWS, "ranker.statistics": kind, "num_seeds": 2},
        )
        for name, kind in STATISTICS.items()
        for data in DATA
    ]
