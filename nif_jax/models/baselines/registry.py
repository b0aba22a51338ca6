"""Baselines by the name that a row has them under."""

import collections
import dataclasses
from collections.abc import Mapping
from typing import Any

from nif_jax.data.schema import require_choice
from nif_jax.models.baselines.constant import Constant
from nif_jax.models.baselines.counters import Counters
from nif_jax.models.baselines.dcn import DeepCross
from nif_jax.models.baselines.deepfm import DeepFactorization
from nif_jax.models.baselines.din import DeepInterest
from nif_jax.models.baselines.fm import FactorizationMachine
from nif_jax.models.baselines.hstu import Hstu
from nif_jax.models.baselines.interface import Baseline
from nif_jax.models.baselines.logistic import LogisticRegression
from nif_jax.models.baselines.popularity import Popularity
from nif_jax.models.baselines.sasrec import SasRec
from nif_jax.models.baselines.trees import Trees

BASELINES: Mapping[str, type[Baseline]] = {
    "constant": Constant,
    "counters": Counters,
    "popularity": Popularity,
    "lightgbm": Trees,
    "fm": FactorizationMachine,
    "lr": LogisticRegression,
    "deepfm": DeepFactorization,
    "dcn": DeepCross,
    "din": DeepInterest,
    "sasrec": SasRec,
    "hstu": Hstu,
}


def make_baseline(name: str, *settings: Mapping[str, Any]) -> Baseline:
    """The baseline, each of its fields from the first of `settings` that has it.

    Raises:
      ConfigError: for an unknown name.
      KeyError: for a field that no settings have.
    """
    require_choice("model", name, BASELINES)
    kind = BASELINES[name]
    given = collections.ChainMap(*settings)
    own = [f.name for f in dataclasses.fields(kind) if f.name not in ("parent", "name")]
    return kind(**{name: given[name] for name in own})
