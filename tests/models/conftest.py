"""The catalogue that tests of the models share."""

import numpy as np
import pytest

from nif_jax.data.vocabulary import OOV


@pytest.fixture(scope="session")
def items():
    """Features of 9 items: ids from 2, the last two unknown; up to two genres, some with none."""
    genre = np.random.default_rng(0).integers(0, 5, (10, 2))
    genre[[0, 4]] = 0
    ids = np.array([0, 2, 3, 4, 5, 6, 2, 3, OOV, OOV])[:, None]
    return {"id": ids.astype(np.int32), "genre": genre.astype(np.int32)}
