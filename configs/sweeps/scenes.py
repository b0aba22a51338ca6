"""Does a moveline of all scenes help a scene that has few labels of its own?

    python launch/sweep.py --sweep=configs/sweeps/scenes.py --data=<folder of parquet files>

The industrial case of the NIF paper: every scene stands in the moveline, and in the generator's
training; rankers get, and are tested on, the labels of one small scene only.
KuaiRand has 15 tabs, of which tab0 and tab4 hold 9 and 6 % of the impressions; Amazon 2023 three
categories. results/scenes.md has a part of it. Three seeds; KuaiRand's generator takes about an
hour of one core for each, half of it with pretrain.epochs=8.0.
"""

from configs.sweeps import common

ROWS = ("popularity", "deepfm", "din", "sasrec", "base", "nif", "tsp", "amen", "nif_flow_only",
        "genci", "hybrid", "selected")  # fmt: skip
SCENES = {
    "kuairand": ("tab0", "tab4"),
    "amazon23": ("Handmade_Products",),
}


def get_sweep() -> list[common.Run]:
    """Data sets x the scene that has labels."""
    shared = {"num_seeds": common.SEEDS_TO_EXPLORE, "rows": ROWS}
    return [
        run
        for data, scenes in SCENES.items()
        for run in common.grid(
            "configs/hybrid.py", (data,), common.axis("data.label_scenes", scenes, "only"), shared
        )
    ]
