"""How far does each model come on each data set, with all labels? The headline table.

    python launch/sweep.py --sweep=configs/sweeps/main.py --data=<folder of parquet files>

Five seeds. The paper claims +0.87 pt of AUC for amen over its base, on data that is not public. On
MovieLens-100K half a point is seen with frozen histories and nothing with online ones. `selected`
is the best row on validation, baselines among them.
About 8 minutes of one core for a seed of MovieLens-100K; others by their number of impressions.
"""

from configs.sweeps import common

ROWS = ("base", "nif", "tsp", "amen", "selected")


def get_sweep() -> list[common.Run]:
    """Every data set with all of its labels."""
    shared = {"num_seeds": common.SEEDS_FOR_A_CLAIM, "rows": (*common.BASELINES, *ROWS)}
    return common.grid("configs/nif.py", common.REAL, {"nif": {}}, shared)
