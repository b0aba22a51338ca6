"""What earlier stages give to fine-tuning, computed once."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from nif_jax.models.semantic_ids import SemanticIds


@dataclasses.dataclass(frozen=True)
class GeneratorOutputs:
    """What earlier stages give to fine-tuning; None where no variant reads it.

    Attributes:
      params: the flow generator's parameters.
      vectors: [N + 1, D] its unit item vectors.
      flow: [D_local, M, T, D] of config.flow.cache_dtype, or None where config.flow.cache is off.
      past: [D_local, M, 2, H, d] keys and values of the label head, or None like flow.
      label_logit: [D_local, E] log odds of the label of each train impression by a generator that
        was trained without its user, or None where config.flow.cross_fit is off.
      codes: form of tokenizer -> [N, K] nearest codes, and with collisions resolved; collision
        digit left out.
      ids: form of tokenizer -> semantic IDs.
    """

    params: Any = None
    vectors: np.ndarray | None = None
    flow: np.ndarray | None = None
    past: np.ndarray | None = None
    label_logit: np.ndarray | None = None
    codes: Mapping[str, tuple[np.ndarray, np.ndarray]] = dataclasses.field(default_factory=dict)
    ids: Mapping[str, SemanticIds] = dataclasses.field(default_factory=dict)
