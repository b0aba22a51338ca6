"""The three first experiments of the NIF paper.

    python launch/sweep.py --sweep=configs/sweeps/first_experiments.py

1. `info_nce_only`: a generator that starts from random item embeddings and is trained by InfoNCE
   alone, without diversity and velocity. Does it predict the next item (retrieval table)?
2. Random against cross-stage initialisation of the generator: `random_init` against `full`.
3. TSP off and on: rows nif and amen of each run; their score distributions are in
   plots/calibration_scores.png of its workdir.

The paper expects each step to help. Three seeds; about 15 minutes of one core for each of them.
"""

from configs.sweeps import common

ROWS = {
    "full": {},
    "random_init": {"pretrain.init": "scratch"},
    "info_nce_only": {"pretrain.init": "scratch", "flow_loss.alpha": 0.0, "flow_loss.beta": 0.0},
}


def get_sweep() -> list[common.Run]:
    """What the generator starts from and is trained by, on MovieLens-100K."""
    shared = {"num_seeds": common.SEEDS_TO_EXPLORE, "rows": ("base", "nif", "amen")}
    return common.grid("configs/nif.py", ("movielens_100k",), ROWS, shared, reference="full")
