"""The hybrid of both papers: one ranker that attends to the dense flow and to discrete cohorts.

python -m nif_jax.main --config=configs/hybrid.py
python -m nif_jax.main --config=configs/hybrid.py:synthetic,smoke

Every row of the other configs can be compared here: rows=base+nif+tsp+amen+genci+hybrid.
"""

from configs import common, genci, nif


def get_config(text: str = "") -> common.ConfigDict:
    """See configs/common.py for the text."""
    dataset, smoke, preset, settings = common.parse(text)
    config = common.base_config(dataset, smoke)
    config.rows = ("base", "hybrid") if smoke else ("base", "amen", "genci", "hybrid", "selected")
    nif.add_flow(config, smoke)
    genci.add_cohorts(config, smoke)
    common.apply(config, preset, settings)
    return config
