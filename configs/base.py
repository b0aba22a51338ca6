"""The base ranker F_0 alone, or beside baselines.

python -m nif_jax.main --config=configs/base.py
python -m nif_jax.main --config=configs/base.py:movielens_100k,model=din
python -m nif_jax.main --config=configs/base.py:rows=base+popularity+lr+deepfm+dcn+din+sasrec
"""

from configs import common


def get_config(text: str = "") -> common.ConfigDict:
    """See configs/common.py for the text."""
    dataset, smoke, preset, settings = common.parse(text)
    config = common.base_config(dataset, smoke)
    common.apply(config, preset, settings)
    return config
