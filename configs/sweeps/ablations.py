"""Which parts of AMEN carry it? The paper's ablations.

    python launch/sweep.py --sweep=configs/sweeps/ablations.py

Run `full` holds three of them as rows: nif is amen without TSP, tsp is amen without the flow, and
base has neither. Diversity and velocity shape the generator, so each is left out in a run of its
own. nif_labels and amen_labels add the label head, which is ours; in `label_gradient` its loss
trains the head alone, as if the flow had no labels, `label_input` gives its logit to the ranker
instead of a blend, and `tuned` trains the generator on with the ranker.
The paper: without TSP -0.25 pt of AUC, without the flow -0.14 pt, velocity contributes least.
Three seeds. About 12 minutes of one core for a seed of MovieLens-100K.
"""

from configs.sweeps import common

ROWS = {
    "full": {"rows": ("base", "nif", "tsp", "amen", "nif_labels", "amen_labels")},
    "no_diversity": {"flow_loss.alpha": 0.0},
    "no_velocity": {"flow_loss.beta": 0.0},
    "label_gradient": {
        "flow_loss.label_gradient": "head",
        "rows": ("base", "nif", "amen", "nif_labels", "amen_labels"),
    },
    "label_input": {"flow.label_head": "input"},
    "tuned": {"flow.tune": True, "flow.cache": False, "flow.label_head": "input"},
}


def get_sweep() -> list[common.Run]:
    """What is left out, on MovieLens-100K."""
    shared = {"num_seeds": common.SEEDS_TO_EXPLORE, "rows": ("base", "nif", "amen")}
    return common.grid("configs/nif.py", ("movielens_100k",), ROWS, shared, reference="full")
