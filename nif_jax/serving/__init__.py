"""Scores by an artefact, without the code of models and of training; see docs/serving.md.

    from nif_jax import serving

    model = serving.load("artefacts/nif")
    model.score(requests)

`Model` is the class of `nif_jax.load` too: only its compiled functions come from elsewhere.
"""

from nif_jax.serving.loading import load
from nif_jax.serving.new_items import with_items

__all__ = ["load", "with_items"]
