"""How far ahead should the flow look, and does it help to train the roll-out?

    python launch/sweep.py --sweep=configs/sweeps/horizon.py

The horizon T is the number of states that the alignment attends to; with T = 1 its attention is a
constant. `rollout_r` trains r free-running steps beside teacher forcing, whose inputs are always
true items, unlike the roll-out's. The paper names the exposure bias and gives no figure.
Three seeds; about 2 minutes of one core for a seed of a run on MovieLens-100K.
"""

from configs.sweeps import common

HORIZON = common.axis("flow.horizon", (1, 2, 4, 8), "T")
ROLL_OUT = common.axis("flow_loss.rollout_steps", (1,), "rollout")


def get_sweep() -> list[common.Run]:
    """Horizons under teacher forcing; at the default one, roll-out training too."""
    shared = {"num_seeds": common.SEEDS_TO_EXPLORE, "rows": ("base", "nif")}
    variants = HORIZON | common.product({"T_4": HORIZON["T_4"]}, ROLL_OUT)
    return common.grid("configs/nif.py", ("movielens_100k",), variants, shared, reference="T_4")
