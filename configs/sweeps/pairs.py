"""Which pairs, and which score of theirs, should TSP compare?

    python launch/sweep.py --sweep=configs/sweeps/pairs.py --data=<folder of parquet files>

The paper compares a positive with an earlier or later negative of the same user, "in different time
windows", by the score of a calibration head; how far apart, and on which moveline each is scored,
it leaves open. `full` is our default: 5 events or more apart, each on its own history. Near and far
pairs, days apart instead of events, the final logit instead of the calibration score, both members
on the positive's moveline, and the weight. With weight 0 pairs still stand side by side:
what the order of the batches does without the loss is the control of all others. `amen` has the
flow too. On Online Retail, where TSP costs most, order and loss are told apart, too.
Three seeds; about a minute of one core for a seed of a run, since the base is trained once.
"""

from configs.sweeps import common, main

AMEN = {"rows": ("base", "nif", "amen")}
ROWS = {
    "full": {},
    "near": {"tsp.min_events": 1, "tsp.max_events": 5},
    "far": {"tsp.min_events": 20},
    "days": {"tsp.min_events": 1, "tsp.min_seconds": 86_400},
    "logit": {"tsp.score": "logit"},
    "positive_moveline": {"tsp.moveline": "positive"},
    **common.axis("tsp.weight", (0.0, 0.2, 1.0)),
    **common.product({"amen": AMEN}, common.axis("tsp.weight", (0.0, 0.05, 1.0))),
}


def get_sweep() -> list[common.Run]:
    """One change at a time, on MovieLens-100K; weights, on Online Retail."""
    shared = {"num_seeds": common.SEEDS_TO_EXPLORE, "rows": ("base", "tsp")}
    retail = main.SETTINGS["online_retail"] | {"num_seeds": 2, "rows": ("base", "nif", "amen")}
    weights = {"full": {}, **common.axis("tsp.weight", (0.0,))}
    return [
        *common.grid("configs/nif.py", ("movielens_100k",), ROWS, shared, reference="full"),
        *common.grid("configs/nif.py", ("online_retail",), weights, retail, reference="full"),
    ]
