"""Does a moveline of all scenes help a scene that has few labels of its own?

    python launch/sweep.py --sweep=configs/sweeps/scenes.py --data=<folder of parquet files>

The industrial case of the NIF paper: every scene stands in the moveline, and in the generator's
training; rankers get, and are tested on, the labels of one small scene only.
KuaiRand has 15 tabs, of which tab4 holds 6 % of the impressions; Amazon 2023 three categories, of
which Handmade is the smallest. Five seeds of it; three of KuaiRand, whose generator takes a quarter
of an hour of a core with half of the default's passes.
"""

from configs.sweeps import common

ROWS = ("base", "din", "tsp", "nif", "amen", "nif_labels", "amen_labels", "selected")


def get_sweep() -> list[common.Run]:
    """Data sets x the scene that has labels."""
    handmade = common.axis("data.label_scenes", ("Handmade_Products",), "only")
    tab = common.axis("data.label_scenes", ("tab4",), "only")
    slow = {"rows": ROWS, "num_seeds": common.SEEDS_TO_EXPLORE, "pretrain.epochs": 8.0}
    return common.grid(
        "configs/nif.py", ("amazon23",), handmade, {"rows": ROWS, "num_seeds": 5}
    ) + common.grid("configs/nif.py", ("kuairand",), tab, slow)
