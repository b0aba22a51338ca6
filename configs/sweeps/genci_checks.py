"""What does GenCI depend on? Codes, history, attention, sparsity, a changing catalogue.

    python launch/sweep.py --sweep=configs/sweeps/genci_checks.py --data=<folder of parquet files>

`full` is the default; its rows leave a part out, or take other beams, levels or random codes. Every
other run changes one thing: how items become codes, how much history is read, the form of
the cross-attentions (`attention_shared` is the authors' code's), how often cohorts are generated
anew. What it does with few labels is in configs/sweeps/labels.py.
In the simulator `turnover_x` replaces a share of the catalogue during the period.
The paper claims about +10 % of AUC over its baselines. On MovieLens-100K genci has lifted our base
by .4 pt; random codes are the control that says whether meaning matters.
Three seeds; about 5 minutes of one core for a seed of a run on MovieLens-100K.
"""

from configs.sweeps import common

ABLATIONS = (
    "genci_no_cohorts",
    "genci_no_ssr",
    "genci_no_ntp",
    "genci_level_1",
    "genci_beams_1",
    "genci_beams_16",
    "genci_random_codes",
)
ROWS = {
    "full": {"rows": ("base", "genci", *ABLATIONS)},
    "straight_through": {"tokenizer.form": "straight_through"},
    "kmeans": {"tokenizer.form": "kmeans"},
    "flat": {"tokenizer.levels": 1},
    **common.axis("data.history_length", (10, 100), "history"),
    "positive_history": {"data.history": "positive", "rows": ("base", "genci", "genci_quirks")},
    "attention_shared": {"cohorts.attention": "shared"},
    **common.axis("genci.refresh", (4,), "refresh"),
}


def get_sweep() -> list[common.Run]:
    """One change at a time."""
    shared = {"num_seeds": common.SEEDS_TO_EXPLORE, "rows": ("base", "genci")}
    runs = common.grid("configs/genci.py", ("movielens_100k",), ROWS, shared, reference="full")
    # The impressions differ, so that no run can be the other's reference.
    turnover = common.axis("source.turnover", (0.0, 0.5))
    rows = {"rows": ("popularity", "base", "nif", "genci")}
    small = {"rows": ("base", "genci", "selected"), "num_seeds": 2}
    runs.append(common.Run("ml_latest_small", "full", "configs/genci.py", small))
    return runs + common.grid("configs/hybrid.py", ("synthetic",), turnover, shared | rows)
