"""The hybrid of both papers: one ranker that attends to the dense flow and to discrete cohorts.

python -m nif_jax.main --config=configs/hybrid.py
python -m nif_jax.main --config=configs/hybrid.py:synthetic,smoke

Every row of the other configs can be compared here: rows=base+nif+tsp+amen+genci+hybrid.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # see configs/__init__.py
from configs import common, genci, nif, text

del sys.path[0]


def get_config(words: str = "") -> common.ConfigDict:
    """See configs/text.py for the text."""
    dataset, smoke, preset, settings = text.parse(words)
    config = common.base_config(dataset, smoke)
    config.rows = ("base", "hybrid") if smoke else ("base", "amen", "genci", "hybrid", "selected")
    nif.add_flow(config, smoke)
    genci.add_cohorts(config, smoke)
    text.apply(config, preset, settings)
    return config
