"""The three open checks of the NIF paper.

    python launch/sweep.py --sweep=configs/sweeps/open_checks.py --data=<folder of parquet files>

1. Embedding quality: the retrieval table sets the generator beside popularity and the base's own
   embeddings; `item_emb_*` measures its item table in the ranker, and the flow without it.
2. TSP elsewhere: sasrec_tsp is a sequential recommender with it, against sasrec; base and tsp are
   compared on other domains too.
3. Cold start: AUC by length of the history, by age of the item, and for items and users that train
   has not seen: the table of buckets.

Three seeds; about 12 minutes of one core for each seed of MovieLens-100K.
"""

import dataclasses

from configs.sweeps import common

ITEM_EMB = {
    "item_emb_add": {"flow.generator_item_emb": "add"},
    "item_emb_init": {"flow.generator_item_emb": "init"},
    "item_emb_none": {"flow.generator_item_emb": "none"},
}
TSP_ROWS = ("base", "tsp", "sasrec", "sasrec_tsp")
DOMAINS = ("movielens_100k", "amazon23")


def get_sweep() -> list[common.Run]:
    """Uses of the generator's item table, and TSP on several domains."""
    shared = {"num_seeds": common.SEEDS_TO_EXPLORE}
    item_emb = common.grid(
        "configs/nif.py",
        ("movielens_100k",),
        ITEM_EMB,
        shared | {"rows": ("base", "nif")},
        reference="item_emb_none",
    )
    elsewhere = common.grid("configs/nif.py", DOMAINS, {"tsp": {}}, shared | {"rows": TSP_ROWS})
    runs = item_emb + elsewhere
    return [dataclasses.replace(run, buckets=True) for run in runs]
