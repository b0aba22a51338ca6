"""The base ranker F_0 alone, or beside baselines.

python -m nif_jax.main --config=configs/base.py
python -m nif_jax.main --config=configs/base.py:movielens_100k,model=din
python -m nif_jax.main --config=configs/base.py:rows=base+popularity+lr+deepfm+dcn+din+sasrec
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # see configs/__init__.py
from configs import common, text

del sys.path[0]


def get_config(words: str = "") -> common.ConfigDict:
    """See configs/text.py for the text."""
    dataset, smoke, preset, settings = text.parse(words)
    config = common.base_config(dataset, smoke)
    text.apply(config, preset, settings)
    return config
