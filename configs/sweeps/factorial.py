"""Is the generative share of the lift distinct from the temporal one?

    python launch/sweep.py --sweep=configs/sweeps/factorial.py

A factorial of flow, TSP and cohorts in one run: base, tsp, nif, amen (flow and TSP), genci
(cohorts), hybrid_no_tsp (flow and cohorts), hybrid (all). Were the shares distinct, their lifts
would add up: hybrid_no_tsp - base = (nif - base) + (genci - base), within the intervals.
Neither paper has this model. Three seeds; about 15 minutes of one core for a seed of
MovieLens-100K.
"""

from configs.sweeps import common

ROWS = ("base", "tsp", "nif", "amen", "genci", "hybrid_no_tsp", "hybrid")


def get_sweep() -> list[common.Run]:
    """All combinations of the three parts."""
    shared = {"num_seeds": common.SEEDS_TO_EXPLORE, "rows": ROWS}
    return common.grid("configs/hybrid.py", ("movielens_100k",), {"full": {}}, shared)
